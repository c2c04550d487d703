//! The diagnostic log of the gateway, enabled by `CODEXD_LOG`: events of the hub and its actions. It has methods, ids and
//! states, and never the content of a message. Without a subscriber each call is one load and one comparison.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;

use codexd_protocol::Message;
use serde::Deserialize;
use tracing::{Level, debug, enabled, trace};

use super::logic::Logic;
use crate::hub::{Action, Event, Text};

/// The states of threads as they were last logged.
#[derive(Debug, Default)]
pub(super) struct ThreadStates {
    logged: RefCell<HashMap<String, String>>,
}

impl ThreadStates {
    /// Logs the threads whose state has changed. It compares every thread, but only while the log is enabled.
    pub(super) fn log_changes(&self, logic: &dyn Logic) {
        if !enabled!(Level::DEBUG) {
            return;
        }
        let mut before = self.logged.borrow_mut();
        let now: HashMap<String, String> = logic.thread_states().into_iter().collect();
        for (thread, state) in &now {
            if before.get(thread) != Some(state) {
                debug!(thread, state, "thread state changed");
            }
        }
        for thread in before.keys().filter(|thread| !now.contains_key(*thread)) {
            debug!(thread, "thread removed");
        }
        *before = now;
    }
}

pub(super) fn event(event: &Event) {
    if !enabled!(Level::DEBUG) {
        return;
    }
    match event {
        Event::ClientConnected(client) => debug!(client = client.0, "client connected"),
        Event::ClientMessage(client, text) => message("from client", &client.0, text),
        Event::ClientDisconnected(client) => debug!(client = client.0, "client disconnected"),
        Event::Servers { current, outgoing } => debug!(?current, ?outgoing, "app-servers changed"),
        Event::ServerDraining(server) => debug!(?server, "app-server drains"),
        Event::ProbeAnswered(server, _) => debug!(?server, "app-server answers"),
        Event::ConnectionOpened(connection, _) => debug!(?connection, "upstream connection opened"),
        Event::InitializeRefused(connection, _) => debug!(?connection, "upstream refused initialize"),
        Event::InitializeTimedOut(connection) => debug!(?connection, "upstream did not answer initialize"),
        Event::ConnectionMessage(connection, text) => message("from upstream", connection, text),
        Event::ConnectionFull(connection) => debug!(?connection, "upstream connection is full"),
        Event::ConnectionWritable(connection) => debug!(?connection, "upstream connection has room again"),
        Event::ConnectionLost(connection) => debug!(?connection, "upstream connection lost"),
        Event::RolloutChecked { thread, exists } => debug!(thread, exists, "rollout file checked"),
        Event::GoalsPersisted(number) => debug!(number, "goals persisted"),
        Event::DeadlineReached => trace!("deadline reached"),
        _ => trace!("restored or configured"),
    }
}

pub(super) fn action(action: &Action) {
    if !enabled!(Level::DEBUG) {
        return;
    }
    match action {
        Action::SendToClient(client, text) => message("to client", &client.0, text),
        Action::Admit(client) => debug!(client = client.0, "client initialized"),
        Action::Probe(server) => debug!(?server, "probe app-server"),
        Action::Connect(connection, _) => debug!(?connection, "open upstream connection"),
        Action::SendUpstream(connection, text) => message("to upstream", connection, text),
        Action::Close(connection) => debug!(?connection, "close upstream connection"),
        Action::CheckRollout { thread, .. } => debug!(thread, "check rollout file"),
        Action::Retire(server) => debug!(?server, "retire app-server"),
        Action::PersistGoals { number, .. } => debug!(number, "persist goals"),
        Action::PersistClientIdentity(_) => debug!("persist client identity"),
        Action::StoreThreadSettings { thread, settings } => {
            debug!(thread, stored = settings.is_some(), "store thread settings");
        }
        Action::Report(_) => trace!("report to the host"),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ThreadOf<'a> {
    #[serde(borrow, default)]
    thread_id: Option<Cow<'a, str>>,
}

fn message(direction: &str, peer: &impl std::fmt::Debug, text: &Text) {
    let thread = |params: Option<&serde_json::value::RawValue>| {
        let params: ThreadOf<'_> = serde_json::from_str(params?.get()).ok()?;
        params.thread_id.map(Cow::into_owned)
    };
    match codexd_protocol::parse(text) {
        Ok(Message::Request { id, method, params }) => {
            debug!(?peer, method, id = id.get(), thread = thread(params), "request {direction}");
        }
        Ok(Message::Response { id, outcome }) => {
            debug!(?peer, id = id.get(), is_error = outcome.is_err(), "response {direction}");
        }
        Ok(Message::Notification { method, params }) => {
            trace!(?peer, method, thread = thread(params), "notification {direction}");
        }
        Err(_) => debug!(?peer, bytes = text.len(), "unreadable message {direction}"),
    }
}
