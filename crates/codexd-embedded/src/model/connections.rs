//! The clients: who has introduced itself, and what it does not want to hear.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::ConnectionId;
use crate::params::InitializeParams;

/// All connections of the process.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    /// `None` until the client has sent `initialize`.
    clients: BTreeMap<ConnectionId, Option<Client>>,
    /// The name of the first client that ever introduced itself. It names the process, as upstream has it.
    originator: Option<String>,
}

/// A client that has introduced itself.
#[derive(Debug)]
pub(crate) struct Client {
    pub experimental: bool,
    unwanted: BTreeSet<String>,
}

impl Connections {
    pub(crate) fn open(&mut self, connection: ConnectionId) {
        self.clients.insert(connection, None);
    }

    pub(crate) fn close(&mut self, connection: ConnectionId) {
        self.clients.remove(&connection);
    }

    /// The client behind a connection, if it has introduced itself.
    pub(crate) fn client(&self, connection: ConnectionId) -> Option<&Client> {
        self.clients.get(&connection)?.as_ref()
    }

    /// Notes what a client said of itself; returns the name of the process.
    pub(crate) fn introduce(&mut self, connection: ConnectionId, params: &InitializeParams) -> &str {
        let capabilities = params.capabilities.clone().unwrap_or_default();
        let unwanted = capabilities.opt_out_notification_methods.unwrap_or_default();
        let client =
            Client { experimental: capabilities.experimental_api, unwanted: unwanted.into_iter().collect() };
        self.clients.insert(connection, Some(client));
        self.originator.get_or_insert_with(|| params.client_info.name.clone())
    }

    /// The name of the process; empty before the first client.
    pub(crate) fn originator(&self) -> &str {
        self.originator.as_deref().unwrap_or_default()
    }

    /// All who have introduced themselves and want to hear of `method`.
    pub(crate) fn listeners(&self, method: &str) -> Vec<ConnectionId> {
        let willing = |(&id, client): (&ConnectionId, &Option<Client>)| {
            client.as_ref().is_some_and(|client| !client.unwanted.contains(method)).then_some(id)
        };
        self.clients.iter().filter_map(willing).collect()
    }

    /// Those of `some` who want to hear of `method`.
    pub(crate) fn willing(&self, some: &BTreeSet<ConnectionId>, method: &str) -> Vec<ConnectionId> {
        let wants =
            |id: &&ConnectionId| self.client(**id).is_some_and(|client| !client.unwanted.contains(method));
        some.iter().filter(wants).copied().collect()
    }
}
