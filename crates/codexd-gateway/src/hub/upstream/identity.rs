//! The client identity under which the shared connections are opened. An app-server process takes the name of the first
//! client that it sees, so the identity is that of the first real client.

use serde_json::json;

use crate::hub::clients::client::ClientInfo;
use crate::hub::event::{Action, ClientId, Connection, Report, Text};
use crate::hub::{Hub, Timer, text};
use crate::limits::{CLIENT_INFO_RETRY_FIRST_MS, CLIENT_INFO_RETRY_LAST_MS};

/// The identity of the shared connections, and what became of it.
#[derive(Debug, Default)]
pub struct SharedIdentity {
    adopted: Option<ClientIdentity>,
    /// An app-server has accepted `adopted`.
    is_accepted: bool,
    /// The identity that was refused last, and the number of consecutive refusals.
    refused: Option<ClientIdentity>,
    refusals: u32,
}

impl SharedIdentity {
    pub fn is_known(&self) -> bool {
        self.adopted.is_some()
    }

    /// The `initialize` request of a shared connection; `None` while no client has given the identity.
    pub fn initialize_request(&self) -> Option<Text> {
        self.adopted.as_ref().map(ClientIdentity::initialize_request)
    }

    /// An app-server has accepted it.
    pub fn accepted(&mut self) {
        *self = Self { adopted: self.adopted.take(), is_accepted: true, ..Self::default() };
    }
}

/// The `initialize` request of a shared connection before any client has given the identity. Never for an app-server that
/// receives new threads, which would keep that name.
pub fn anonymous_initialize_request() -> Text {
    own_identity().initialize_request()
}

/// The identity that a client gives the shared connections.
#[derive(Clone, Debug)]
pub struct ClientIdentity {
    /// `clientInfo`, raw.
    pub client_info: Box<str>,
    /// It attests requests to the model. Attestation changes the requests that upstream sends to the model, so it is
    /// declared only if the first client declared it.
    pub attests: bool,
}

impl ClientIdentity {
    /// From the parameters of an `initialize`; `None` if they hold no client information. Only the three strings that
    /// every app-server reads are kept: an app-server may not answer other members.
    pub fn of(params: &str) -> Option<Self> {
        let ClientInfo { name, title, version } = ClientInfo::of(params)?;
        let client_info = match title {
            Some(title) => json!({"name": name, "title": title, "version": version}),
            None => json!({"name": name, "version": version}),
        };
        let capabilities = text::member(params, "capabilities");
        let attests = capabilities.and_then(|all| text::member(all.get(), "requestAttestation"));
        let attests = attests.is_some_and(|attests| attests.get() == "true");
        Some(Self { client_info: client_info.to_string().into(), attests })
    }

    /// The form that [`Self::of`] reads.
    fn to_persist(&self) -> Text {
        let Self { client_info, attests } = self;
        format!(r#"{{"clientInfo":{client_info},"capabilities":{{"requestAttestation":{attests}}}}}"#).into()
    }

    /// The shared connection declares every capability; the gateway checks what each client declared.
    fn initialize_request(&self) -> Text {
        let info = &self.client_info;
        let attests = if self.attests { r#","requestAttestation":true"# } else { "" };
        format!(
            r#"{{"id":0,"method":"initialize","params":{{"clientInfo":{info},"capabilities":{{"experimentalApi":true,"requiredHumanApproval":true{attests}}}}}}}"#
        )
        .into()
    }
}

/// The gateway's own identity.
fn own_identity() -> ClientIdentity {
    let info = format!(r#"{{"name":"{}","version":"0"}}"#, crate::hub::clients::initialize::DAEMON);
    ClientIdentity { client_info: info.into(), attests: false }
}

impl Hub {
    /// Adopts the identity of the first real client.
    pub(in crate::hub) fn adopt_identity(&mut self, params: &str) {
        if self.identity.adopted.is_none() {
            self.identity.adopted = ClientIdentity::of(params);
            self.out.extend(
                self.identity
                    .adopted
                    .as_ref()
                    .map(|identity| Action::PersistClientIdentity(identity.to_persist())),
            );
            self.open_shared_connections();
        }
    }

    /// Adopts the identity that the previous gateway stored. An older one stored whatever the first client sent.
    pub(in crate::hub) fn restore_identity(&mut self, stored: &str) {
        self.identity.adopted = ClientIdentity::of(stored);
        if self.identity.adopted.is_none() {
            self.report_discarded_identity("what was stored is no client information");
        }
    }

    fn report_discarded_identity(&mut self, reason: &str) {
        self.out.push(Action::Report(Report::ClientInfoDiscarded { reason: reason.to_owned() }));
    }

    /// An `initialize` was not answered in time. The identity may be the reason, unless an app-server has accepted it
    /// before.
    pub(in crate::hub) fn on_initialize_timeout(&mut self, connection: Connection) {
        let is_suspect = matches!(connection, Connection::Shared(_))
            && self.identity.adopted.is_some()
            && !self.identity.is_accepted;
        if is_suspect {
            self.on_identity_refused("no app-server answered it");
        }
        self.on_connection_lost(connection);
    }

    /// The app-server rejects the identity. The next client that sends a request gives another. Without one, the
    /// gateway's own is used after a while, so that viewers and active goals do not wait.
    pub(super) fn on_identity_refused(&mut self, reason: &str) {
        if let Some(refused) = self.identity.adopted.take() {
            self.identity.refused = Some(refused);
            self.identity.is_accepted = false;
            self.report_discarded_identity(reason);
        }
        let wait = CLIENT_INFO_RETRY_FIRST_MS << self.identity.refusals.min(16);
        self.identity.refusals += 1;
        self.set_timer(wait.min(CLIENT_INFO_RETRY_LAST_MS), Timer::RetryIdentity);
    }

    /// Chooses an identity again: that of a connected client that has not been refused; otherwise the gateway's own.
    pub(in crate::hub) fn retry_identity(&mut self) {
        if self.identity.adopted.is_some() {
            return;
        }
        let refused = self.identity.refused.as_ref().map(|refused| refused.client_info.clone());
        let mut ready: Vec<_> = self.clients.values().filter(|client| client.is_ready()).collect();
        ready.sort_unstable_by_key(|client| client.id);
        let identities =
            ready.iter().filter_map(|client| ClientIdentity::of(client.initialize_params.as_ref()?));
        let others = identities.filter(|identity| Some(&identity.client_info) != refused.as_ref());
        let turn = usize::try_from(self.identity.refusals).unwrap_or_default();
        let others: Vec<ClientIdentity> = others.collect();
        let other = others.get(turn.checked_rem(others.len()).unwrap_or_default()).cloned();
        self.identity.adopted = Some(other.unwrap_or_else(own_identity));
        self.out.extend(
            self.identity
                .adopted
                .as_ref()
                .map(|identity| Action::PersistClientIdentity(identity.to_persist())),
        );
        self.open_shared_connections();
    }

    /// A client that is not a real one sends a request: if there is no identity yet, its identity is adopted.
    pub(in crate::hub) fn adopt_identity_of(&mut self, id: ClientId) {
        if self.identity.adopted.is_none()
            && let Some(client) = self.clients.get(&id).filter(|client| client.is_ready())
            && let Some(params) = client.initialize_params.clone()
        {
            self.adopt_identity(&params);
        }
    }
}
