//! The clients: which are initialized, and the notifications that each opted out of.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::ConnectionId;
use crate::params::InitializeParams;

/// All connections of the process.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    /// `None` until the client has sent `initialize`.
    clients: BTreeMap<ConnectionId, Option<Client>>,
    /// The name of the first client that was initialized. As upstream, it names the process.
    originator: Option<String>,
}

/// An initialized client.
#[derive(Debug)]
pub(crate) struct Client {
    pub experimental: bool,
    opted_out: BTreeSet<String>,
}

impl Connections {
    pub(crate) fn open(&mut self, connection: ConnectionId) {
        self.clients.insert(connection, None);
    }

    pub(crate) fn close(&mut self, connection: ConnectionId) {
        self.clients.remove(&connection);
    }

    /// The client of a connection, if it is initialized.
    pub(crate) fn client(&self, connection: ConnectionId) -> Option<&Client> {
        self.clients.get(&connection)?.as_ref()
    }

    /// Stores the `initialize` parameters of a client; returns the name of the process.
    pub(crate) fn initialize(&mut self, connection: ConnectionId, params: &InitializeParams) -> &str {
        let capabilities = params.capabilities.clone().unwrap_or_default();
        let opted_out = capabilities.opt_out_notification_methods.unwrap_or_default();
        let client = Client {
            experimental: capabilities.experimental_api,
            opted_out: opted_out.into_iter().collect(),
        };
        self.clients.insert(connection, Some(client));
        self.originator.get_or_insert_with(|| params.client_info.name.clone())
    }

    /// The name of the process; empty before the first client.
    pub(crate) fn originator(&self) -> &str {
        self.originator.as_deref().unwrap_or_default()
    }

    /// All initialized clients that have not opted out of `method`.
    pub(crate) fn listeners(&self, method: &str) -> Vec<ConnectionId> {
        let willing = |(&id, client): (&ConnectionId, &Option<Client>)| {
            client.as_ref().is_some_and(|client| !client.opted_out.contains(method)).then_some(id)
        };
        self.clients.iter().filter_map(willing).collect()
    }

    /// The clients of `some` that have not opted out of `method`.
    pub(crate) fn willing(&self, some: &BTreeSet<ConnectionId>, method: &str) -> Vec<ConnectionId> {
        let wants =
            |id: &&ConnectionId| self.client(**id).is_some_and(|client| !client.opted_out.contains(method));
        some.iter().filter(wants).copied().collect()
    }
}
