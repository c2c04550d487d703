//! The app-servers underneath and the connections to them.

use std::cmp::Reverse;
use std::rc::Rc;

use serde_json::json;

use crate::hub::clients::client::ClientInfo;
use crate::hub::event::{Action, ClientId, Connection, Now, Report, ServerId, Text};
use crate::hub::upstream::backoff::Backoff;
use crate::hub::{Hub, Timer, text};
use crate::limits::{FOUND_WITHIN_MS, INTRODUCE_FIRST_WAIT_MS, INTRODUCE_LAST_WAIT_MS};

/// How open a connection is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum ConnectionState {
    #[default]
    Closed,
    Opening,
    Open,
}

/// One process of the app-server.
#[derive(Debug, Default)]
pub struct Server {
    /// It is to leave when it holds nothing any more.
    pub is_outgoing: bool,
    /// What it answered to a first `initialize`.
    pub probe_result: Option<Text>,
    pub shared: ConnectionState,
    /// What it answered to the shared connection's `initialize`.
    pub initialize_result: Option<Text>,
    /// It refuses to begin anything: it drains.
    pub is_draining: bool,
    /// It has been told to leave.
    pub is_retired: bool,
    /// It has told what it has loaded.
    pub is_listed: bool,
    /// Until then it is expected to answer for the first time, if it was there before this gateway.
    pub answers_until: Now,
    pub backoff: Backoff,
    /// It was told the settings that it cannot know.
    pub has_settings: bool,
    /// The thread whose tokens were told last: the limits that follow belong to it.
    pub last_usage_thread: Option<Rc<str>>,
}

impl Server {
    /// It is about to tell what it has loaded. One that was there before this gateway may have threads already, so a moment
    /// is left for it to answer at all.
    pub fn is_being_listed(&self, now: Now) -> bool {
        let is_asked = self.shared != ConnectionState::Closed || now < self.answers_until;
        is_asked && !self.is_listed && !self.is_retired
    }
}

/// As whom the shared connections introduce themselves: the first real client, since its name becomes that of the process.
#[derive(Clone, Debug)]
pub struct ClientIdentity {
    /// `clientInfo`, raw.
    pub client_info: Box<str>,
    /// It attests requests to the model. Whether somebody does changes what upstream sends with them, so it is asked to
    /// only if the first client would have it.
    pub attests: bool,
}

impl ClientIdentity {
    /// From the parameters of an `initialize`; `None` where they name nobody. Nothing goes on but the three strings that every
    /// app-server reads: what else a client says may keep one from answering.
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

    /// What [`Self::of`] makes the same of.
    fn kept(&self) -> Text {
        let Self { client_info, attests } = self;
        format!(r#"{{"clientInfo":{client_info},"capabilities":{{"requestAttestation":{attests}}}}}"#).into()
    }

    /// The shared connection may do whatever any client may; what each client may is checked here.
    fn introduction(&self) -> Text {
        let info = &self.client_info;
        let attests = if self.attests { r#","requestAttestation":true"# } else { "" };
        format!(
            r#"{{"id":0,"method":"initialize","params":{{"clientInfo":{info},"capabilities":{{"experimentalApi":true,"requiredHumanApproval":true{attests}}}}}}}"#
        )
        .into()
    }
}

/// As whom an app-server is asked before any client has come.
fn nobody() -> ClientIdentity {
    let info = format!(r#"{{"name":"{}","version":"0"}}"#, crate::hub::clients::initialize::DAEMON);
    ClientIdentity { client_info: info.into(), attests: false }
}

impl Hub {
    pub(in crate::hub) fn on_servers_changed(&mut self, current: Option<ServerId>, outgoing: &[ServerId]) {
        let is_gone = |id: &ServerId| current != Some(*id) && !outgoing.contains(id);
        let mut gone: Vec<ServerId> = self.servers.keys().copied().filter(is_gone).collect();
        gone.sort_unstable();
        for id in gone {
            self.on_server_gone(id);
        }
        let was_there = !std::mem::replace(&mut self.has_begun, true);
        for id in current.iter().chain(outgoing) {
            let known = self.servers.contains_key(id);
            let server = self.servers.entry(*id).or_default();
            server.is_outgoing = current != Some(*id);
            if !known {
                if was_there {
                    server.answers_until = self.now + FOUND_WITHIN_MS;
                    // What waited for it does not wait any longer then.
                    self.timers.push(Reverse((self.now + FOUND_WITHIN_MS, Timer::Reconnect)));
                }
                self.out.push(Action::Probe(*id));
            }
        }
        self.current = current;
        self.report_expected_ends();
        if self.serving.is_some_and(|serving| !self.servers.contains_key(&serving)) {
            self.serving = None;
        }
        self.open_shared_connections();
        self.changes.servers_changed();
    }

    /// The host says that an app-server is gone; its connections may not have noticed yet.
    fn on_server_gone(&mut self, id: ServerId) {
        let own = self.clients.values().filter(|client| client.dedicated.leads_to(id));
        let mut connections: Vec<Connection> =
            own.map(|client| Connection::Dedicated(client.id, id)).collect();
        connections.sort_unstable();
        let Some(server) = self.servers.get_mut(&id) else { return };
        // There is nothing to ask of it any more, not even to leave.
        server.is_retired = true;
        let was_open = server.shared != ConnectionState::Closed;
        // Nor is a connection to it to be opened again, while those that it had are given up one by one.
        self.serving = self.serving.filter(|serving| *serving != id);
        connections.extend(was_open.then_some(Connection::Shared(id)));
        for connection in connections {
            self.on_connection_lost(connection);
            self.out.push(Action::Close(connection));
        }
        self.postpone_crashing_threads(id);
        self.report_losses(id);
        self.servers.remove(&id);
    }

    pub(in crate::hub) fn on_draining(&mut self, id: ServerId) {
        if let Some(server) = self.servers.get_mut(&id) {
            server.is_draining = true;
        }
        self.report_expected_ends();
    }

    pub(in crate::hub) fn on_probe_answered(&mut self, id: ServerId, result: Text) {
        let Some(server) = self.servers.get_mut(&id) else { return };
        server.probe_result = Some(result);
        self.open_shared_connections();
        self.answer_waiting_initializes();
        self.changes.servers_changed();
    }

    /// The first real client gives the shared connections their name.
    pub(in crate::hub) fn adopt_identity(&mut self, introduction: &str) {
        if self.identity.is_none() {
            self.identity = ClientIdentity::of(introduction);
            self.out.extend(
                self.identity.as_ref().map(|identity| Action::PersistClientIdentity(identity.kept())),
            );
            self.open_shared_connections();
        }
    }

    /// As whom the gateway before this one introduced itself. An older one stored whatever the first client sent.
    pub(in crate::hub) fn restore_identity(&mut self, kept: &str) {
        self.identity = ClientIdentity::of(kept);
        if self.identity.is_none() {
            self.report_discarded_identity("what was stored is no client information");
        }
    }

    fn report_discarded_identity(&mut self, reason: &str) {
        self.out.push(Action::Report(Report::ClientInfoDiscarded { reason: reason.to_owned() }));
    }

    /// Nobody answered the `initialize` of a connection in time. If no app-server has taken this client information before, that may be
    /// why.
    pub(in crate::hub) fn on_initialize_timeout(&mut self, connection: Connection) {
        let is_suspect = matches!(connection, Connection::Shared(_))
            && self.identity.is_some()
            && !self.identity_is_accepted;
        if is_suspect {
            self.on_identity_refused("no app-server answered it");
        }
        self.on_connection_lost(connection);
    }

    /// The app-server rejects the name of the shared connection. The next client that asks for something gives another; without
    /// one, those who only watch and goals that are at work are not to wait for it.
    fn on_identity_refused(&mut self, reason: &str) {
        if let Some(refused) = self.identity.take() {
            self.refused_identity = Some(refused);
            self.identity_is_accepted = false;
            self.report_discarded_identity(reason);
        }
        let wait = INTRODUCE_FIRST_WAIT_MS << self.identity_refusals.min(16);
        self.identity_refusals += 1;
        self.set_timer(wait.min(INTRODUCE_LAST_WAIT_MS), Timer::RetryIdentity);
    }

    /// Gives the shared connections a name again: that of a client that is connected and has not been refused; else the gateway's own.
    pub(in crate::hub) fn retry_identity(&mut self) {
        if self.identity.is_some() {
            return;
        }
        let refused = self.refused_identity.as_ref().map(|refused| refused.client_info.clone());
        let mut ready: Vec<_> = self.clients.values().filter(|client| client.is_ready()).collect();
        ready.sort_unstable_by_key(|client| client.id);
        let personas =
            ready.iter().filter_map(|client| ClientIdentity::of(client.initialize_params.as_ref()?));
        let others = personas.filter(|identity| Some(&identity.client_info) != refused.as_ref());
        let turn = usize::try_from(self.identity_refusals).unwrap_or_default();
        let others: Vec<ClientIdentity> = others.collect();
        let other = others.get(turn.checked_rem(others.len()).unwrap_or_default()).cloned();
        self.identity = Some(other.unwrap_or_else(nobody));
        self.out
            .extend(self.identity.as_ref().map(|identity| Action::PersistClientIdentity(identity.kept())));
        self.open_shared_connections();
    }

    /// Opens the shared connection of every app-server that answers: also of an outgoing one that this gateway found there.
    pub(in crate::hub) fn open_shared_connections(&mut self) {
        let identity = self.identity.as_ref().map(ClientIdentity::introduction);
        for (id, server) in &mut self.servers {
            let is_open = server.shared != ConnectionState::Closed;
            if server.probe_result.is_none()
                || is_open
                || server.is_retired
                || !server.backoff.may_try(self.now)
            {
                continue;
            }
            let introduction = match &identity {
                Some(identity) => identity.clone(),
                // Also before anybody comes it has to be known what an outgoing one holds; this name is never its own.
                None if server.is_outgoing => nobody().introduction(),
                None => continue,
            };
            server.shared = ConnectionState::Opening;
            self.out.push(Action::Connect(Connection::Shared(*id), introduction));
        }
    }

    pub(in crate::hub) fn on_connection_opened(&mut self, connection: Connection, result: &Text) {
        self.full_connections.remove(&connection);
        match connection {
            Connection::Shared(id) => self.on_shared_opened(id, result),
            Connection::Dedicated(client, server) => self.on_dedicated_opened(client, server, result),
        }
        self.changes.requests_changed();
    }

    fn on_shared_opened(&mut self, id: ServerId, result: &Text) {
        let Some(server) = self.servers.get_mut(&id) else { return };
        (self.identity_refusals, self.refused_identity) = (0, None);
        self.identity_is_accepted = true;
        server.shared = ConnectionState::Open;
        server.backoff.opened(self.now);
        server.initialize_result = Some(result.clone());
        server.is_listed = false;
        let is_new = self.current == Some(id) && !std::mem::replace(&mut server.has_settings, true);
        if is_new {
            self.replay_settings(id);
            self.request_process_state(id);
        }
        if self.current == Some(id) {
            self.request_unload_delay(id);
        }
        // What it has already: this gateway is not its first, or it resumed threads by itself.
        self.request_loaded_list(id);
        if self.current == Some(id) || self.serving.is_none() {
            // While the current one does not answer yet, an outgoing one still does.
            self.serving = Some(id);
        }
        self.changes.servers_changed();
        self.answer_waiting_initializes();
    }

    pub(in crate::hub) fn on_initialize_refused(&mut self, connection: Connection, error: &Text) {
        match connection {
            Connection::Shared(id) => {
                // The name of the first client is not to its taste: the next one gives another.
                let Some(server) = self.servers.get_mut(&id) else { return };
                server.shared = ConnectionState::Closed;
                if crate::hub::requests::refusal::is_transient(error) {
                    let wait = server.backoff.lost(self.now);
                    self.set_timer(wait, Timer::Reconnect);
                } else {
                    self.on_identity_refused(&crate::hub::requests::refusal::message_of(error));
                }
            }
            Connection::Dedicated(client, server) => self.on_dedicated_refused(client, server, error),
        }
        self.changes.requests_changed();
    }

    /// Whether an app-server is about to tell which threads it has.
    pub(in crate::hub) fn is_listing(&self) -> bool {
        self.servers.values().any(|server| server.is_being_listed(self.now))
    }

    pub(in crate::hub) fn is_up(&self, id: ServerId) -> bool {
        self.servers.get(&id).is_some_and(|server| server.shared == ConnectionState::Open)
    }

    /// Whether it is up and begins what it is asked to.
    pub(in crate::hub) fn accepts_work(&self, id: ServerId) -> bool {
        self.is_up(id) && self.servers.get(&id).is_some_and(|server| !server.is_draining)
    }

    /// One that is no real client, but asks for more than an answer, gives the shared connections its name if nobody else has.
    pub(in crate::hub) fn adopt_identity_of(&mut self, id: ClientId) {
        if self.identity.is_none()
            && let Some(client) = self.clients.get(&id).filter(|client| client.is_ready())
            && let Some(introduction) = client.initialize_params.clone()
        {
            self.adopt_identity(&introduction);
        }
    }

    /// The answer to a client's `initialize`: upstream's own, with the client's name where upstream puts it.
    pub(in crate::hub) fn initialize_result_for(
        &self,
        name: &str,
        version: &str,
        as_first: bool,
    ) -> Option<Text> {
        let server = self.servers.get(&self.serving.or(self.current)?)?;
        let greeting =
            if as_first { server.probe_result.as_ref() } else { server.initialize_result.as_ref() }?;
        let Some(agent) = text::member(greeting, "userAgent") else { return Some(greeting.clone()) };
        let told = text::string(greeting, "userAgent")?;
        let head = told.rfind(" (").filter(|_| told.ends_with(')')).map_or(&*told, |at| &told[..at]);
        let own = serde_json::Value::from(format!("{head} ({name}; {version})")).to_string();
        Some(text::splice(greeting, agent.get(), &own))
    }
}
