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
mod requests;
mod settle;
mod snapshot;
#[cfg(test)]
mod tests;
mod text;
mod threads;
mod upstream;

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, VecDeque};

pub use event::{
    Action, BlockedOn, BlockedThread, ClientId, Connection, Event, HandoverReport, HandoverState, Now,
    RefusedThread, Report, ServerId, Text,
};

use crate::limits::QUIET_MS;
use clients::client::Client;
use clients::replayed_settings::EventStream;
use codexd_core::settings::SubagentApprovals;
use goals::Goals;
use migration::Handover;
use requests::pending::{InternalRequest, Origin, PendingRequest};
use requests::server_requests::PendingServerRequests;
use settle::Changes;
use threads::thread::{Thread, ThreadId};
use threads::thread_settings::AllThreadSettings;
use upstream::servers::{ClientIdentity, Server};

/// What a deadline is for. A handler ignores a deadline that no longer applies.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Timer {
    /// Queued requests of a client time out.
    QueueTimeout(ClientId),
    /// A client's `initialize` times out.
    InitializeTimeout(ClientId),
    /// In-flight permits expire although their requests are unanswered; also resumes scheduling after a pause.
    ReleasePermits,
    /// Check whether an unwatched thread is due for unloading.
    UnloadIdle(ThreadId),
    /// A thread may have become idle.
    ReEvaluate(ThreadId),
    /// Unloading a thread takes too long.
    UnloadTimeout(ThreadId),
    /// Reconnect lost connections.
    Reconnect,
    /// Retry loading a thread.
    RetryLoad(ThreadId),
    /// Repeat a failed `thread/loaded/list`.
    ListLoaded(ServerId),
    /// Check whether unresumable threads are still loaded.
    ListUnresumable(ServerId),
    /// Attach more of the threads that were found loaded.
    AttachMore,
    /// Repeat the request for the user's unload delay.
    UnloadDelay(ServerId),
    /// Retry resuming a suspended goal.
    ResumeGoal(ThreadId),
    /// Persisting goals takes too long.
    PersistGoalsTimeout(u64),
    /// Drop expired settings of unloaded threads.
    ParkedSettings,
    /// Load the threads of postponed goals.
    LoadPostponedGoals,
    /// Report the refused threads to the host.
    ReportRefusedThreads,
    /// Retry migrations that the successor refused.
    RetryRefused,
    /// Return to the full number of background loads.
    BackgroundLoads,
    /// Report a changed handover.
    HandoverReport,
    /// Check again whether a thread can be unloaded; nothing reports that its blocker is gone.
    CheckAgain(ThreadId),
    /// A server request about no thread times out.
    ServerRequestTimeout(u64),
    /// Repeat the request for a thread's parent.
    Lineage(ThreadId),
    /// Choose another client identity after a refusal.
    RetryIdentity,
    /// The supervisor has had time to report that the end of an app-server was requested.
    EndedServer(ServerId),
    /// Check for overdue requests.
    Overdue,
    /// The app-server has had time to resolve an answered server request.
    ResolutionTimeout(u64),
}

/// The hub's state.
#[derive(Debug, Default)]
pub struct Hub {
    now: Now,
    /// Wall-clock time in milliseconds since 1970, for timestamps in messages only. No decision depends on it.
    unix_ms: u64,
    clients: HashMap<ClientId, Client>,
    servers: HashMap<ServerId, Server>,
    /// The host has reported the running app-servers at least once.
    has_begun: bool,
    /// The app-server that the host wants used.
    current: Option<ServerId>,
    /// The app-server that receives new work: its shared connection is open. While `current` does not answer, an
    /// outgoing one.
    serving: Option<ServerId>,
    identity: Option<ClientIdentity>,
    /// An app-server has accepted `identity`.
    identity_is_accepted: bool,
    /// The identity that was refused last, and the number of consecutive refusals.
    refused_identity: Option<ClientIdentity>,
    identity_refusals: u32,
    /// The user's `thread_unload_delay_secs` in milliseconds; `None` if not configured.
    unload_delay_ms: Option<u64>,
    threads: HashMap<ThreadId, Thread>,
    pending: HashMap<u64, PendingRequest>,
    /// Number of unanswered requests per thread. Kept apart from `threads`, because some of these threads are not
    /// known yet.
    pending_per_thread: HashMap<ThreadId, u32>,
    /// Threads that were found loaded and are not subscribed yet.
    attach_queue: VecDeque<ThreadId>,
    /// Number of demands for unloaded threads so far.
    demand_count: u64,
    /// Until then only one thread at a time is loaded in the background.
    background_yields_until: Now,
    /// Threads of trial loads: their notifications go to no client.
    trial_threads: VecDeque<Box<str>>,
    next_request_id: u64,
    server_requests: PendingServerRequests,
    subagent_approvals: SubagentApprovals,
    /// Clients with queued requests, in scheduling order.
    run_queue: VecDeque<ClientId>,
    /// Clients in `run_queue` whose queue timeout is not set yet.
    without_deadline: Vec<ClientId>,
    /// Expiry time and request id of each in-flight permit.
    permits: VecDeque<(Now, u64)>,
    in_flight: usize,
    /// Connections whose outbox is full.
    full_connections: BTreeSet<Connection>,
    /// Bytes of client requests that were sent in this step.
    sent_bytes: usize,
    /// Upstream reported overload: until then nothing is dispatched.
    overloaded_until: Now,
    /// [`Timer::Overdue`] is set.
    has_overdue_timer: bool,
    timers: BinaryHeap<Reverse<(Now, Timer)>>,
    handover: Option<Handover>,
    goals: Goals,
    recovery: Option<recovery::Recovery>,
    ended_servers: Vec<recovery::EndedServer>,
    refused_threads: recovery::Refusals,
    /// Notifications that every new connection receives: method, text, and the last app-server that sent it.
    connect_notifications: Vec<(Box<str>, Text, ServerId)>,
    /// MCP event streams of clients.
    event_streams: Vec<EventStream>,
    /// Process-wide settings that app-servers keep in memory only: method and parameters.
    process_settings: Vec<(Box<str>, Text)>,
    thread_settings: AllThreadSettings,
    process_state: upstream::process_state::ProcessState,
    /// Clients that requested full turns and will receive upstream's deprecation notice; oldest first.
    notice_recipients: VecDeque<ClientId>,
    /// Clients that may be read from again.
    readable: Vec<ClientId>,
    /// What [`Hub::settle`] has to act on.
    changes: Changes,
    out: Vec<Action>,
}

impl Hub {
    /// A hub without clients and without an app-server.
    pub fn new(subagent_approvals: SubagentApprovals) -> Self {
        Self { next_request_id: 1, subagent_approvals, ..Self::default() }
    }

    /// Sets the wall-clock time in milliseconds since 1970.
    pub fn set_unix_time(&mut self, unix_ms: u64) {
        self.unix_ms = unix_ms;
    }

    /// Handles one event at `now` and pushes the resulting actions in order: the handler records what has changed, then
    /// [`Hub::settle`] does what follows from it.
    pub fn step(&mut self, event: Event, now: Now, out: &mut Vec<Action>) {
        self.now = now;
        self.sent_bytes = 0;
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
            Event::ClientIdentityRestored(kept) => self.restore_identity(&kept),
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
        self.timers.peek().map(|Reverse((at, _))| *at)
    }

    /// Whether to read more from a client: not while its queue is full.
    pub fn wants_input(&self, client: ClientId) -> bool {
        self.clients.get(&client).is_none_or(|client| !client.is_paused)
    }

    /// Takes the clients that may be read from again since the last call.
    pub fn take_readable(&mut self, resumed: &mut Vec<ClientId>) {
        resumed.append(&mut self.readable);
    }

    /// Whether a client has sent `initialize`.
    pub fn has_initialized(&self, client: ClientId) -> bool {
        self.clients.get(&client).is_some_and(|client| !matches!(client.stage, clients::client::Stage::New))
    }

    /// Whether a response is pending on a connection.
    pub fn awaits(&self, connection: Connection) -> bool {
        self.pending.values().any(|call| call.connection == connection)
    }

    /// Whether `initialize` of a new client could be answered now.
    pub fn is_ready(&self) -> bool {
        self.current
            .and_then(|server| self.servers.get(&server))
            .is_some_and(|server| server.probe_result.is_some())
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
        self.timers.push(Reverse((self.now + after_ms, timer)));
    }

    fn take_request_id(&mut self) -> u64 {
        let id = self.next_request_id;
        self.next_request_id += 1;
        id
    }

    /// Counts pending requests about a thread.
    fn add_pending_of_thread(&mut self, thread: &ThreadId, more: u32) {
        *self.pending_per_thread.entry(thread.clone()).or_default() += more;
    }

    /// A request about a thread is no longer pending.
    fn on_thread_request_done(&mut self, thread: &ThreadId) {
        let Some(count) = self.pending_per_thread.get_mut(thread) else { return };
        *count = count.saturating_sub(1);
        if *count > 0 {
            return;
        }
        self.pending_per_thread.remove(thread);
        let Some(known) = self.threads.get(thread) else { return };
        let moves = self.handover.as_ref().is_some_and(|handover| handover.to != known.server);
        if known.unwatched_since.is_some() {
            self.set_timer(QUIET_MS, Timer::ReEvaluate(thread.clone()));
        } else if moves {
            self.changes.thread_changed(thread);
        }
    }

    /// Sends a request of the gateway's own.
    fn send_internal(
        &mut self,
        connection: Connection,
        errand: InternalRequest,
        method: &str,
        params: &serde_json::Value,
    ) {
        let id = self.take_request_id();
        let text = text::request(id, method, params);
        let (thread, pauses) = (errand.thread().cloned(), matches!(errand, InternalRequest::PauseGoal(_)));
        let call = PendingRequest {
            connection,
            origin: Origin::Internal(errand),
            has_permit: false,
            is_truncated: false,
            overdue_at: None,
        };
        self.pending.insert(id, call);
        self.send_about_thread(connection, thread.as_ref(), pauses, text);
    }

    fn on_deadline(&mut self) {
        while let Some(Reverse((at, _))) = self.timers.peek()
            && *at <= self.now
        {
            let Some(Reverse((_, timer))) = self.timers.pop() else { break };
            match timer {
                Timer::QueueTimeout(client) => self.on_queue_timeout(client),
                Timer::InitializeTimeout(client) => self.on_client_initialize_timeout(client),
                Timer::ReleasePermits => self.release_expired_permits(),
                Timer::UnloadIdle(thread) => self.unload_if_unwatched(&thread),
                Timer::ReEvaluate(thread) => self.changes.thread_changed(&thread),
                Timer::UnloadTimeout(thread) => self.on_unload_timeout(&thread),
                Timer::Reconnect => self.reconnect(),
                Timer::RetryLoad(thread) => self.retry_load(&thread),
                Timer::ListLoaded(server) if self.is_up(server) => self.request_loaded_list(server),
                Timer::ListLoaded(_) => {}
                Timer::ListUnresumable(server) => self.list_unresumable(server),
                Timer::AttachMore => self.attach_more(),
                Timer::UnloadDelay(server) => self.request_unload_delay(server),
                Timer::ResumeGoal(thread) => self.resume_goal_unless_migrating(&thread),
                Timer::PersistGoalsTimeout(number) => self.on_goals_persisted(number),
                Timer::ParkedSettings => self.forget_parked_settings(),
                Timer::LoadPostponedGoals => self.load_postponed_goals(),
                Timer::ReportRefusedThreads => self.report_refused_threads(),
                Timer::CheckAgain(thread) => self.on_check_timer(&thread),
                Timer::ServerRequestTimeout(number) => self.refuse_server_request(number),
                Timer::Lineage(thread) => self.learn_lineage(&thread),
                Timer::RetryIdentity => self.retry_identity(),
                Timer::EndedServer(server) => self.report_losses(server),
                Timer::Overdue => self.answer_overdue_requests(),
                Timer::ResolutionTimeout(number) => self.on_resolution_timeout(number),
                Timer::RetryRefused => self.re_evaluate_blocked_threads(),
                Timer::BackgroundLoads => self.changes.loads_changed(),
                Timer::HandoverReport => self.report_handover_if_changed(),
            }
        }
        self.changes.requests_changed();
    }
}
