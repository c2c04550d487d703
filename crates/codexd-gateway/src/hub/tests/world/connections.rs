//! The connections of the gateway, as strict as the shell that opens them: what the contract of an [`Action`] forbids
//! fails the test.
//!
//! [`Action`]: crate::hub::Action

use std::collections::VecDeque;

use serde_json::{Value, json};

use super::World;
use crate::hub::{Connection, Event, ServerId, Text};

/// How far a connection is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    /// It is being opened: the app-server may know it already, the hub does not.
    Opening,
    /// The hub knows that it is open.
    Up,
    /// It is broken, and the hub is about to hear it: what is sent over it is lost.
    Broken,
}

/// Whose `initialize` is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refuses {
    Shared,
    Own,
}

impl World {
    pub(super) fn probe_answered(&mut self, server: ServerId) {
        if self.lives(server) {
            let agent = json!({"userAgent": "client/0.169.0 (x) y (codex_app_server_daemon; 0)"});
            let event = Event::ProbeAnswered(server, agent.to_string().into());
            self.up.entry(Connection::Shared(server)).or_default().push_back(event);
        }
    }

    /// The hub wants a connection.
    pub(super) fn connect(&mut self, connection: Connection, initialize: &Text) {
        let is_named = |name: &str| initialize.contains(&format!(r#""name":"{name}""#));
        self.connects += 1;
        let before = self.connections.insert(connection, Phase::Opening);
        assert!(before.is_none(), "{connection:?} is opened while it is {before:?}");
        let kind = if let Connection::Shared(_) = connection { Refuses::Shared } else { Refuses::Own };
        if self.lives(connection.server()) {
            let agent = json!({"userAgent": "client/0.169.0 (x) y (client; 1)"}).to_string();
            if self.unanswered_name.is_some_and(is_named) {
                self.up.entry(connection).or_default().push_back(Event::InitializeTimedOut(connection));
                return;
            }
            let event = match self.refuses.iter().position(|refused| *refused == kind) {
                Some(at) => {
                    self.refuses.remove(at);
                    Event::InitializeRefused(connection, r#"{"code":-32600,"message":"not you"}"#.into())
                }
                None => Event::ConnectionOpened(connection, agent.into()),
            };
            let queue = self.up.entry(connection).or_default();
            queue.push_back(event);
            if self.break_often {
                queue.push_back(Event::ConnectionLost(connection));
            }
        } else {
            self.break_connection(connection);
        }
    }

    /// The hub sends something over a connection.
    pub(super) fn on_sent(&mut self, connection: Connection, text: &Text) {
        match self.connections.get(&connection) {
            Some(Phase::Up) => self.receive(connection, text),
            Some(Phase::Broken) => {}
            other => panic!("{text} is sent over {connection:?}, which is {other:?}"),
        }
    }

    /// The hub closes a connection.
    pub(super) fn close(&mut self, connection: Connection) {
        let before = self.connections.remove(&connection);
        assert!(before.is_some(), "{connection:?} is closed and was not open");
        self.up.remove(&connection);
        self.closed(connection);
    }

    /// The hub is about to hear of a connection.
    pub(super) fn connection_changes(&mut self, event: &Event) {
        match event {
            Event::ConnectionOpened(connection, _) => {
                self.connections.insert(*connection, Phase::Up);
            }
            Event::ConnectionLost(connection)
            | Event::InitializeRefused(connection, _)
            | Event::InitializeTimedOut(connection) => {
                self.connections.remove(connection);
                self.up.remove(connection);
            }
            _ => {}
        }
    }

    /// A connection breaks; from here on it is counted how often one is opened.
    pub fn break_and_count(&mut self, connection: Connection) {
        self.connects = 0;
        self.break_connection(connection);
    }

    /// A connection breaks: what was on its way over it is lost.
    pub fn break_connection(&mut self, connection: Connection) {
        if let Some(phase) = self.connections.get_mut(&connection) {
            *phase = Phase::Broken;
            self.up.insert(connection, VecDeque::from([Event::ConnectionLost(connection)]));
        }
    }

    /// All connections to an app-server break.
    pub(super) fn break_connections_of(&mut self, server: ServerId) {
        self.up.retain(|connection, _| connection.server() != server);
        let connections: Vec<Connection> =
            self.connections.keys().copied().filter(|connection| connection.server() == server).collect();
        connections.into_iter().for_each(|connection| self.break_connection(connection));
    }

    /// Whether an app-server has a connection for one of its connections.
    pub(super) fn is_connected(&self, connection: Connection) -> bool {
        self.lives(connection.server())
            && matches!(self.connections.get(&connection), Some(Phase::Opening | Phase::Up))
    }

    /// The connections to an app-server that belong to clients.
    pub(super) fn dedicated_to(&self, server: ServerId) -> Vec<Connection> {
        let is_own = |connection: &Connection| {
            matches!(connection, Connection::Dedicated(..)) && connection.server() == server
        };
        self.connections
            .keys()
            .copied()
            .filter(|connection| is_own(connection) && self.is_connected(*connection))
            .collect()
    }

    /// Whether a client has a connection of its own, open or being opened.
    pub fn has_dedicated(&self, client: crate::hub::ClientId) -> bool {
        self.connections
            .keys()
            .any(|connection| matches!(connection, Connection::Dedicated(owner, _) if *owner == client))
    }

    /// Whether something of the same name runs on the connection already, as 0.131.0 to 0.171.0 have it.
    pub(super) fn is_taken(&self, connection: Connection, method: &str, params: &Value) -> bool {
        let name = if method == "command/exec" { "processId" } else { "processHandle" };
        self.running_there.iter().any(|(on, other)| {
            *on == connection && other["method"] == *method && other["params"][name] == params[name]
        })
    }

    /// The hub lets an app-server go.
    pub(super) fn retire(&mut self, server: ServerId) {
        assert!(self.outgoing.contains(&server), "{server:?} is retired and was not to leave");
        assert!(!self.retired.contains(&server), "{server:?} is retired twice");
        let open: Vec<&Connection> =
            self.connections.keys().filter(|connection| connection.server() == server).collect();
        assert!(open.is_empty(), "{server:?} is retired with {open:?}");
        let model = self.servers.get(&server);
        let may_end = |loaded: &super::server::Loaded| {
            loaded.ephemeral || (loaded.turn.is_none() && loaded.terminals == 0)
        };
        let is_idle = model.is_none_or(|model| model.threads.values().all(may_end));
        assert!(is_idle, "retired with a turn");
        self.retired.push(server);
    }
}
