//! The connections of the gateway, as strict as the shell that opens them: what the contract of an [`Action`] forbids
//! fails the test.
//!
//! [`Action`]: crate::hub::Action

use std::collections::VecDeque;

use serde_json::{Value, json};

use super::World;
use crate::hub::{Connection, Event, ServerId, Text};

/// How far a link is.
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
    pub(super) fn greeted(&mut self, server: ServerId) {
        if self.lives(server) {
            let agent = json!({"userAgent": "client/0.169.0 (x) y (codex_app_server_daemon; 0)"});
            let event = Event::ProbeAnswered(server, agent.to_string().into());
            self.up.entry(Connection::Shared(server)).or_default().push_back(event);
        }
    }

    /// The hub wants a link.
    pub(super) fn connect(&mut self, link: Connection, initialize: &Text) {
        let is_named = |name: &str| initialize.contains(&format!(r#""name":"{name}""#));
        self.connects += 1;
        let before = self.links.insert(link, Phase::Opening);
        assert!(before.is_none(), "{link:?} is opened while it is {before:?}");
        let kind = if let Connection::Shared(_) = link { Refuses::Shared } else { Refuses::Own };
        if self.lives(link.server()) {
            let agent = json!({"userAgent": "client/0.169.0 (x) y (client; 1)"}).to_string();
            if self.unanswered_name.is_some_and(is_named) {
                self.up.entry(link).or_default().push_back(Event::InitializeTimedOut(link));
                return;
            }
            let event = match self.refuses.iter().position(|refused| *refused == kind) {
                Some(at) => {
                    self.refuses.remove(at);
                    Event::InitializeRefused(link, r#"{"code":-32600,"message":"not you"}"#.into())
                }
                None => Event::ConnectionOpened(link, agent.into()),
            };
            let queue = self.up.entry(link).or_default();
            queue.push_back(event);
            if self.break_often {
                queue.push_back(Event::ConnectionLost(link));
            }
        } else {
            self.break_link(link);
        }
    }

    /// The hub sends something over a link.
    pub(super) fn said_over(&mut self, link: Connection, text: &Text) {
        match self.links.get(&link) {
            Some(Phase::Up) => self.hear(link, text),
            Some(Phase::Broken) => {}
            other => panic!("{text} is sent over {link:?}, which is {other:?}"),
        }
    }

    /// The hub closes a link.
    pub(super) fn close(&mut self, link: Connection) {
        let before = self.links.remove(&link);
        assert!(before.is_some(), "{link:?} is closed and was not open");
        self.up.remove(&link);
        self.closed(link);
    }

    /// The hub is about to hear of a link.
    pub(super) fn link_changes(&mut self, event: &Event) {
        match event {
            Event::ConnectionOpened(link, _) => {
                self.links.insert(*link, Phase::Up);
            }
            Event::ConnectionLost(link)
            | Event::InitializeRefused(link, _)
            | Event::InitializeTimedOut(link) => {
                self.links.remove(link);
                self.up.remove(link);
            }
            _ => {}
        }
    }

    /// A link breaks; from here on it is counted how often one is opened.
    pub fn break_and_count(&mut self, link: Connection) {
        self.connects = 0;
        self.break_link(link);
    }

    /// A link breaks: what was on its way over it is lost.
    pub fn break_link(&mut self, link: Connection) {
        if let Some(phase) = self.links.get_mut(&link) {
            *phase = Phase::Broken;
            self.up.insert(link, VecDeque::from([Event::ConnectionLost(link)]));
        }
    }

    /// All links to an app-server break.
    pub(super) fn break_links_of(&mut self, server: ServerId) {
        self.up.retain(|link, _| link.server() != server);
        let links: Vec<Connection> =
            self.links.keys().copied().filter(|link| link.server() == server).collect();
        links.into_iter().for_each(|link| self.break_link(link));
    }

    /// Whether an app-server has a link for one of its connections.
    pub(super) fn is_connected(&self, link: Connection) -> bool {
        self.lives(link.server()) && matches!(self.links.get(&link), Some(Phase::Opening | Phase::Up))
    }

    /// The links to an app-server that belong to clients.
    pub(super) fn own_links_to(&self, server: ServerId) -> Vec<Connection> {
        let is_own = |link: &Connection| matches!(link, Connection::Dedicated(..)) && link.server() == server;
        self.links.keys().copied().filter(|link| is_own(link) && self.is_connected(*link)).collect()
    }

    /// Whether a client has a link of its own, open or being opened.
    pub fn has_own_link(&self, client: crate::hub::ClientId) -> bool {
        self.links.keys().any(|link| matches!(link, Connection::Dedicated(owner, _) if *owner == client))
    }

    /// Whether something of the same name runs on the connection already, as 0.131.0 to 0.171.0 have it.
    pub(super) fn is_taken(&self, link: Connection, method: &str, params: &Value) -> bool {
        let name = if method == "command/exec" { "processId" } else { "processHandle" };
        self.running_there.iter().any(|(on, other)| {
            *on == link && other["method"] == *method && other["params"][name] == params[name]
        })
    }

    /// The hub lets an app-server go.
    pub(super) fn retire(&mut self, server: ServerId) {
        assert!(self.outgoing.contains(&server), "{server:?} is retired and was not to leave");
        assert!(!self.retired.contains(&server), "{server:?} is retired twice");
        let open: Vec<&Connection> = self.links.keys().filter(|link| link.server() == server).collect();
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
