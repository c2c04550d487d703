//! The running app-servers and their shared connections.

use std::collections::HashMap;
use std::rc::Rc;

use crate::hub::event::{Action, Connection, Now, ServerId, Text};
use crate::hub::upstream::backoff::Backoff;
use crate::hub::upstream::identity::anonymous_initialize_request;
use crate::hub::{Hub, Timer, text};
use crate::limits::LOADED_LIST_TIMEOUT_MS;

/// State of a shared connection.
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
    /// To be retired once it holds nothing.
    pub is_outgoing: bool,
    /// Result of the readiness probe.
    pub probe_result: Option<Text>,
    pub shared: ConnectionState,
    /// Result of `initialize` on the shared connection.
    pub initialize_result: Option<Text>,
    /// It is draining: it refuses to start anything.
    pub is_draining: bool,
    /// Its end was requested.
    pub is_retired: bool,
    /// It has reported which threads it has loaded.
    pub is_listed: bool,
    /// Until then its first answer is expected, if it was running before this gateway.
    pub answers_until: Now,
    pub backoff: Backoff,
    /// The process-wide settings were replayed to it.
    pub has_settings: bool,
    /// The thread of the last token usage: the rate limits that follow belong to it.
    pub last_usage_thread: Option<Rc<str>>,
}

impl Server {
    /// Whether it is about to report its loaded threads. One that was running before this gateway may have loaded
    /// threads, so it gets a moment to answer.
    pub fn is_being_listed(&self, now: Now) -> bool {
        let is_asked = self.shared != ConnectionState::Closed || now < self.answers_until;
        is_asked && !self.is_listed && !self.is_retired
    }
}

/// The running app-servers.
#[derive(Debug, Default)]
pub struct Servers {
    servers: HashMap<ServerId, Server>,
    /// The host has reported the running app-servers at least once.
    has_begun: bool,
    /// The app-server that the host wants used.
    current: Option<ServerId>,
    /// The app-server that receives new work: its shared connection is open. While `current` does not answer, an
    /// outgoing one.
    serving: Option<ServerId>,
}

impl Servers {
    /// The app-server that the host wants used.
    pub fn current(&self) -> Option<ServerId> {
        self.current
    }

    /// The app-server that receives new work: its shared connection is open. While the current one does not answer, it
    /// is an outgoing one.
    pub fn serving(&self) -> Option<ServerId> {
        self.serving
    }

    /// The current app-server, if it receives new work.
    pub fn serving_current(&self) -> Option<ServerId> {
        self.serving.filter(|serving| self.current == Some(*serving))
    }

    pub fn get(&self, id: &ServerId) -> Option<&Server> {
        self.servers.get(id)
    }

    pub fn get_mut(&mut self, id: &ServerId) -> Option<&mut Server> {
        self.servers.get_mut(id)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&ServerId, &Server)> {
        self.servers.iter()
    }

    pub fn values(&self) -> impl Iterator<Item = &Server> {
        self.servers.values()
    }

    /// An app-server receives no new work any more.
    pub fn stop_serving(&mut self, id: ServerId) {
        self.serving = self.serving.filter(|serving| *serving != id);
    }

    /// If no app-server receives new work, the newest one that is up does.
    pub fn serve_with_any(&mut self) {
        let up = self.servers.iter().filter(|(_, server)| server.shared == ConnectionState::Open);
        self.serving = self.serving.or(up.map(|(&other, _)| other).max());
    }
}

impl Hub {
    pub(in crate::hub) fn on_servers_changed(&mut self, current: Option<ServerId>, outgoing: &[ServerId]) {
        let is_gone = |id: &ServerId| current != Some(*id) && !outgoing.contains(id);
        let mut gone: Vec<ServerId> = self.servers.servers.keys().copied().filter(is_gone).collect();
        gone.sort_unstable();
        for id in gone {
            self.on_server_gone(id);
        }
        let was_there = !std::mem::replace(&mut self.servers.has_begun, true);
        for id in current.iter().chain(outgoing) {
            let known = self.servers.servers.contains_key(id);
            let server = self.servers.servers.entry(*id).or_default();
            server.is_outgoing = current != Some(*id);
            if !known {
                if was_there {
                    server.answers_until = self.now + LOADED_LIST_TIMEOUT_MS;
                    // Requests that wait for it then wait no longer.
                    self.timers.set(self.now + LOADED_LIST_TIMEOUT_MS, Timer::Reconnect);
                }
                self.out.push(Action::Probe(*id));
            }
        }
        self.servers.current = current;
        self.report_expected_ends();
        let Servers { servers, serving, .. } = &mut self.servers;
        *serving = serving.filter(|serving| servers.contains_key(serving));
        self.open_shared_connections();
        self.changes.servers_changed();
    }

    /// The host reports that an app-server is gone; its connections may not have noticed yet.
    fn on_server_gone(&mut self, id: ServerId) {
        let connected = self.clients.values().filter(|client| client.dedicated.leads_to(id));
        let mut connections: Vec<Connection> =
            connected.map(|client| Connection::Dedicated(client.id, id)).collect();
        connections.sort_unstable();
        let Some(server) = self.servers.get_mut(&id) else { return };
        // Nothing may be requested of it any more, not even its end.
        server.is_retired = true;
        let was_open = server.shared != ConnectionState::Closed;
        // No connection to it may be opened while its connections are closed one by one.
        self.servers.stop_serving(id);
        connections.extend(was_open.then_some(Connection::Shared(id)));
        for connection in connections {
            self.on_connection_lost(connection);
            self.out.push(Action::Close(connection));
        }
        self.postpone_crashing_threads(id);
        self.report_losses(id);
        self.servers.servers.remove(&id);
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

    /// Opens the shared connections of all app-servers that have answered the probe, also of outgoing ones.
    pub(in crate::hub) fn open_shared_connections(&mut self) {
        let identity = self.identity.initialize_request();
        for (id, server) in &mut self.servers.servers {
            let is_open = server.shared != ConnectionState::Closed;
            if server.probe_result.is_none()
                || is_open
                || server.is_retired
                || !server.backoff.may_try(self.now)
            {
                continue;
            }
            let request = match &identity {
                Some(identity) => identity.clone(),
                // The gateway must know what an outgoing app-server holds, also before the first client. This name
                // does not become that of the process.
                None if server.is_outgoing => anonymous_initialize_request(),
                None => continue,
            };
            server.shared = ConnectionState::Opening;
            self.out.push(Action::Connect(Connection::Shared(*id), request));
        }
    }

    pub(in crate::hub) fn on_connection_opened(&mut self, connection: Connection, result: &Text) {
        self.back_pressure.reset(connection);
        match connection {
            Connection::Shared(id) => self.on_shared_opened(id, result),
            Connection::Dedicated(client, server) => self.on_dedicated_opened(client, server, result),
        }
        self.changes.requests_changed();
    }

    fn on_shared_opened(&mut self, id: ServerId, result: &Text) {
        let Some(server) = self.servers.servers.get_mut(&id) else { return };
        self.identity.accepted();
        server.shared = ConnectionState::Open;
        server.backoff.opened(self.now);
        server.initialize_result = Some(result.clone());
        server.is_listed = false;
        let is_new = self.servers.current == Some(id) && !std::mem::replace(&mut server.has_settings, true);
        if is_new {
            self.replay_settings(id);
            self.request_process_state(id);
        }
        if self.servers.current == Some(id) {
            self.request_unload_delay(id);
        }
        // It may have loaded threads: for a previous gateway, or by itself.
        self.request_loaded_list(id);
        if self.servers.current == Some(id) || self.servers.serving.is_none() {
            // While the current app-server does not answer, an outgoing one serves.
            self.servers.serving = Some(id);
        }
        self.changes.servers_changed();
        self.answer_waiting_initializes();
    }

    pub(in crate::hub) fn on_initialize_refused(&mut self, connection: Connection, error: &Text) {
        match connection {
            Connection::Shared(id) => {
                // The server rejected this `clientInfo`; retry with the next client's.
                let Some(server) = self.servers.get_mut(&id) else { return };
                server.shared = ConnectionState::Closed;
                if crate::hub::refusal::is_transient(error) {
                    let wait = server.backoff.lost(self.now);
                    self.set_timer(wait, Timer::Reconnect);
                } else {
                    self.on_identity_refused(&crate::hub::refusal::message_of(error));
                }
            }
            Connection::Dedicated(client, server) => self.on_dedicated_refused(client, server, error),
        }
        self.changes.requests_changed();
    }

    /// Whether an app-server is about to report its loaded threads.
    pub(in crate::hub) fn is_listing(&self) -> bool {
        self.servers.values().any(|server| server.is_being_listed(self.now))
    }

    pub(in crate::hub) fn is_up(&self, id: ServerId) -> bool {
        self.servers.get(&id).is_some_and(|server| server.shared == ConnectionState::Open)
    }

    /// Whether it is up and not draining.
    pub(in crate::hub) fn accepts_work(&self, id: ServerId) -> bool {
        self.is_up(id) && self.servers.get(&id).is_some_and(|server| !server.is_draining)
    }

    /// The response to a client's `initialize`: upstream's, with the client's name where upstream puts it.
    pub(in crate::hub) fn initialize_result_for(
        &self,
        name: &str,
        version: &str,
        as_first: bool,
    ) -> Option<Text> {
        let server = self.servers.get(&self.servers.serving.or(self.servers.current)?)?;
        let result = if as_first { server.probe_result.as_ref() } else { server.initialize_result.as_ref() }?;
        let Some(agent) = text::member(result, "userAgent") else { return Some(result.clone()) };
        let reported = text::string(result, "userAgent")?;
        let head =
            reported.rfind(" (").filter(|_| reported.ends_with(')')).map_or(&*reported, |at| &reported[..at]);
        let agent_of_client = serde_json::Value::from(format!("{head} ({name}; {version})")).to_string();
        Some(text::splice(result, agent.get(), &agent_of_client))
    }
}
