//! The hub: routes messages between clients and app-servers, and keeps clients connected when an app-server crashes
//! or is replaced. It is a pure state machine: [`Hub::step`] takes one [`Event`] and the time, and pushes
//! [`Action`]s.
//!
//! Invariants
//! - Every request of a client gets exactly one answer. A request is sent again only if the app-server refused it
//!   unseen.
//! - There is one upstream subscription per thread, on the shared connection. Dedicated connections opt out of thread
//!   notifications.
//! - A thread is not unloaded while that could cut a turn ([`Thread::is_busy`]).
//! - After the loss of an app-server, the last turns are read from disk before their end is reported to clients.
//! - Only a client that received a server request may answer it, and only the first answer counts. A server request
//!   about a thread goes to the clients that watch the thread or one of its ancestors.
//!
//! Reading order: `event`, `clients/client`, `threads/thread`, `requests/dispatch`, `requests/responses`,
//! `threads/thread_events`, `recovery`, `migration`, `goals`.

mod clients;
mod event;
mod goals;
mod migration;
mod recovery;
mod refusal;
mod requests;
mod settle;
mod snapshot;
#[cfg(test)]
mod tests;
mod text;
mod threads;
mod timers;
mod upstream;

use std::collections::HashMap;

pub use event::{
    Action, BlockedOn, BlockedThread, ClientId, Connection, Event, HandoverReport, HandoverState, Now,
    RefusedThread, Report, ServerId, Text,
};

use crate::limits::BUSY_AFTER_EVENT_MS;
use clients::client::Client;
use clients::connect_notifications::ConnectNotifications;
use clients::replayed_settings::ReplayedSettings;
use codexd_core::config::SubagentApprovals;
use event::ThreadId;
use goals::Goals;
use migration::Migration;
use recovery::Recovery;
use requests::back_pressure::BackPressure;
use requests::deprecation_notices::DeprecationNotices;
use requests::fair_queue::FairQueue;
use requests::pending::{InternalRequest, Origin, PendingRequest, PendingRequests};
use requests::server_requests::PendingServerRequests;
use settle::Changes;
use threads::table::ThreadTable;
use threads::thread_settings::lifecycle::AllThreadSettings;
use timers::{Timer, Timers};
use upstream::identity::SharedIdentity;
use upstream::servers::Servers;

/// The hub's state.
#[derive(Debug, Default)]
pub struct Hub {
    now: Now,
    /// Wall-clock time in milliseconds since 1970, for timestamps in messages only. No decision depends on it.
    unix_ms: u64,
    clients: HashMap<ClientId, Client>,
    servers: Servers,
    identity: SharedIdentity,
    threads: ThreadTable,
    pending: PendingRequests,
    server_requests: PendingServerRequests,
    queue: FairQueue,
    back_pressure: BackPressure,
    timers: Timers,
    migration: Migration,
    goals: Goals,
    recovery: Recovery,
    connect_notifications: ConnectNotifications,
    replayed: ReplayedSettings,
    thread_settings: AllThreadSettings,
    process_state: upstream::process_state::ProcessState,
    deprecation_notices: DeprecationNotices,
    /// What [`Hub::settle`] has to act on.
    changes: Changes,
    out: Vec<Action>,
}

impl Hub {
    /// A hub without clients and without an app-server.
    pub fn new(subagent_approvals: SubagentApprovals) -> Self {
        Self { server_requests: PendingServerRequests::new(subagent_approvals), ..Self::default() }
    }

    /// Sets the wall-clock time in milliseconds since 1970.
    pub fn set_unix_time(&mut self, unix_ms: u64) {
        self.unix_ms = unix_ms;
    }

    /// Handles one event at `now` and pushes the resulting actions in order: the handler records what has changed, then
    /// [`Hub::settle`] does what follows from it.
    pub fn step(&mut self, event: Event, now: Now, out: &mut Vec<Action>) {
        self.now = now;
        self.back_pressure.begin_step();
        let may_change_handover = !matches!(event, Event::DeadlineReached);
        match event {
            Event::ClientConnected(id) => {
                self.clients.insert(id, Client::new(id));
            }
            Event::ClientMessage(id, text) => self.on_client_message(id, &text),
            Event::ClientDisconnected(id) => self.on_client_disconnected(id),
            Event::Servers { current, outgoing } => self.on_servers_changed(current, &outgoing),
            Event::ServerDraining(server) => self.on_draining(server),
            Event::ProbeAnswered(server, result) => self.on_probe_answered(server, result),
            Event::ConnectionOpened(connection, result) => self.on_connection_opened(connection, &result),
            Event::InitializeRefused(connection, error) => self.on_initialize_refused(connection, &error),
            Event::ConnectionMessage(connection, text) => self.on_connection_message(connection, &text),
            Event::ConnectionFull(connection) => self.on_connection_full(connection),
            Event::ConnectionWritable(connection) => self.on_connection_writable(connection),
            Event::ConnectionLost(connection) => self.on_connection_lost(connection),
            Event::RolloutChecked { thread, exists } => self.on_rollout_checked(&thread, exists),
            Event::GoalsPersisted(number) => self.on_goals_persisted(number),
            Event::GoalsRestored(threads) => self.goals.restore(&threads),
            Event::ThreadSettingsRestored { thread, settings } => self.restore_settings(&thread, &settings),
            Event::ThreadSettingsLost => self.on_stored_settings_lost(),
            Event::ClientIdentityRestored(identity) => self.restore_identity(&identity),
            Event::InitializeTimedOut(connection) => self.on_initialize_timeout(connection),
            Event::SubagentApprovals(approvals) => self.set_subagent_approvals(approvals),
            Event::DeadlineReached => self.on_deadline(),
        }
        self.settle();
        if may_change_handover {
            self.schedule_handover_report();
        }
        out.append(&mut self.out);
    }

    /// When [`Event::DeadlineReached`] is due.
    pub fn deadline(&self) -> Option<Now> {
        self.timers.next_due()
    }

    /// Whether to read more from a client: not while its queue is full.
    pub fn wants_input(&self, client: ClientId) -> bool {
        self.clients.get(&client).is_none_or(|client| !client.is_paused)
    }

    /// Takes the clients that may be read from again since the last call.
    pub fn take_readable(&mut self, resumed: &mut Vec<ClientId>) {
        self.queue.take_readable(resumed);
    }

    /// Whether a client has sent `initialize`.
    pub fn has_initialized(&self, client: ClientId) -> bool {
        self.clients.get(&client).is_some_and(|client| !matches!(client.stage, clients::client::Stage::New))
    }

    /// Whether a response is pending on a connection.
    pub fn awaits(&self, connection: Connection) -> bool {
        self.pending.values().any(|pending| pending.connection == connection)
    }

    /// Whether `initialize` of a new client could be answered now.
    pub fn is_ready(&self) -> bool {
        let current = self.servers.current().and_then(|server| self.servers.get(&server));
        current.is_some_and(|server| server.probe_result.is_some())
    }

    /// Sends a message to a client unless it has disconnected.
    fn send_to_client(&mut self, client: ClientId, text: Text) {
        if self.clients.contains_key(&client) {
            self.out.push(Action::SendToClient(client, text));
        }
    }

    fn send_upstream(&mut self, connection: Connection, text: Text) {
        self.out.push(Action::SendUpstream(connection, text));
    }

    fn set_timer(&mut self, after_ms: u64, timer: Timer) {
        self.timers.set(self.now + after_ms, timer);
    }

    /// A request about a thread is no longer pending.
    fn on_thread_request_done(&mut self, thread: &ThreadId) {
        if !self.pending.thread_request_done(thread) {
            return;
        }
        let Some(known) = self.threads.get(thread) else { return };
        let moves = self.migration.moves_threads_of(known.server);
        if known.unwatched_since.is_some() {
            self.set_timer(BUSY_AFTER_EVENT_MS, Timer::ReEvaluate(thread.clone()));
        } else if moves {
            self.changes.thread_changed(thread);
        }
    }

    /// Sends a request of the gateway's own.
    fn send_internal(
        &mut self,
        connection: Connection,
        request: InternalRequest,
        method: &str,
        params: &serde_json::Value,
    ) {
        let id = self.pending.take_id();
        let text = text::request(id, method, params);
        let (thread, pauses) = (request.thread().cloned(), matches!(request, InternalRequest::PauseGoal(_)));
        let pending = PendingRequest {
            connection,
            origin: Origin::Internal(request),
            has_permit: false,
            is_truncated: false,
            overdue_at: None,
        };
        self.pending.insert(id, pending);
        self.send_about_thread(connection, thread.as_ref(), pauses, text);
    }
}
