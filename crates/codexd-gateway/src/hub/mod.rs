//! The hub: which client is told what, which app-server is asked what, and what becomes of both when the app-server
//! underneath changes. A pure machine: [`Hub::step`] takes one [`Event`] and the time, and pushes the [`Action`]s that
//! follow.
//!
//! Invariants
//! - Every request of a client gets exactly one answer, and none is sent on twice unless it was refused unseen.
//! - One upstream subscription per thread. What a thread tells, the shared link tells; own links opt out of it.
//! - Nothing is unloaded while a turn could be cut by it ([`Thread::is_busy`]).
//! - After the loss of an app-server the truth is read before it is told.
//! - Only a client that was asked may answer, and only the first answer goes on. What is about a thread is asked of
//!   those who chose to watch it or one that it descends from.

mod clients;
mod event;
mod goals;
mod migration;
mod recovery;
mod requests;
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
use threads::thread::{Thread, ThreadId};
use threads::thread_settings::AllThreadSettings;
use upstream::servers::{ClientIdentity, Server};

/// What a deadline is for. A deadline that has become pointless is found out when it comes.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Timer {
    /// Requests of a client wait too long.
    QueueTimeout(ClientId),
    /// The answer to a client's `initialize` takes too long.
    InitializeTimeout(ClientId),
    /// A slot is given back though its request is not answered yet.
    ReleasePermits,
    /// Nobody has watched a thread for long enough.
    UnloadIdle(ThreadId),
    /// A thread may have come to rest.
    ReEvaluate(ThreadId),
    /// A thread takes too long on its way.
    UnloadTimeout(ThreadId),
    /// Open again what broke.
    Reconnect,
    /// Try a thread again to load.
    RetryLoad(ThreadId),
    /// Ask again what an app-server has loaded.
    ListLoaded(ServerId),
    /// See whether threads that nobody can join are still there.
    ListUnresumable(ServerId),
    /// Subscribe to more of what was found.
    AttachMore,
    /// Ask again how long the user wants unwatched threads to stay loaded.
    UnloadDelay(ServerId),
    /// Try again to let a goal go on.
    ResumeGoal(ThreadId),
    /// The disk takes too long to store goals.
    PersistGoalsTimeout(u64),
    /// Forget the settings of threads that no client has resumed.
    ParkedSettings,
    /// Load the threads of goals that were postponed.
    LoadPostponedGoals,
    /// Tell the host which threads are refused.
    ReportRefusedThreads,
    /// Ask again about threads that the new app-server refuses.
    RetryRefused,
    /// Load more threads at once in the background again.
    BackgroundLoads,
    /// Something has changed in a handover that waits: report it.
    HandoverReport,
    /// Look at a thread again: what kept it where it is may be over, and nobody tells.
    CheckAgain(ThreadId),
    /// Clients take too long to answer a server request about no thread.
    ServerRequestTimeout(u64),
    /// Ask again what a thread descends from.
    Lineage(ThreadId),
    /// Give the shared links a name again: the one before was refused.
    RetryIdentity,
    /// The supervisor had time to report that the end of an app-server was requested.
    EndedServer(ServerId),
    /// Look for requests that the app-server has not answered in time.
    Overdue,
    /// The app-server has had time to take the answer to a server request.
    ResolutionTimeout(u64),
}

/// The machine.
#[derive(Debug, Default)]
pub struct Hub {
    now: Now,
    /// The time of day, for what clients are told: milliseconds since 1970. Nothing is decided by it.
    unix_ms: u64,
    clients: HashMap<ClientId, Client>,
    servers: HashMap<ServerId, Server>,
    /// The host has told which app-servers live.
    has_begun: bool,
    /// The newest that the host wants used.
    current: Option<ServerId>,
    /// The one whose shared link is open and to which everything new goes.
    serving: Option<ServerId>,
    identity: Option<ClientIdentity>,
    /// An app-server has taken it.
    identity_is_accepted: bool,
    /// The one that was refused last, and how often in a row any was.
    refused_identity: Option<ClientIdentity>,
    identity_refusals: u32,
    /// How long the user wants unwatched threads to stay loaded, if the configuration says so.
    unload_delay_ms: Option<u64>,
    threads: HashMap<ThreadId, Thread>,
    pending: HashMap<u64, PendingRequest>,
    /// How many requests that name a thread are not answered yet. Kept beside the threads, for some are not known yet.
    pending_per_thread: HashMap<ThreadId, u32>,
    /// Threads that were found loaded and are not subscribed yet.
    attach_queue: VecDeque<ThreadId>,
    /// Demands of clients for threads that are not loaded, so far; and whether one is new.
    demand_count: u64,
    has_new_demands: bool,
    /// Until then only one thread at once is loaded in the background.
    background_yields_until: Now,
    /// Threads that were started only to see whether they load: what is told of them concerns no client.
    trial_threads: VecDeque<Box<str>>,
    next_request_id: u64,
    server_requests: PendingServerRequests,
    subagent_approvals: SubagentApprovals,
    /// Clients whose requests wait, in the order of their turns.
    run_queue: VecDeque<ClientId>,
    /// Those of them that wait without a deadline yet.
    without_deadline: Vec<ClientId>,
    /// When each slot that is taken is given back at the latest.
    permits: VecDeque<(Now, u64)>,
    in_flight: usize,
    /// Links over which no more requests are sent for now.
    full_connections: BTreeSet<Connection>,
    /// Bytes of clients' requests that were sent in this step.
    sent_bytes: usize,
    /// Upstream had too much to do: until then nothing more is sent on.
    overloaded_until: Now,
    /// [`Timer::Overdue`] is set.
    has_overdue_timer: bool,
    timers: BinaryHeap<Reverse<(Now, Timer)>>,
    handover: Option<Handover>,
    goals: Goals,
    recovery: Option<recovery::Recovery>,
    ended_servers: Vec<recovery::EndedServer>,
    refused_threads: recovery::Refusals,
    /// What every connection is told when it opens: the notification's name and text, and the last app-server that
    /// said so.
    connect_notifications: Vec<(Box<str>, Text, ServerId)>,
    /// Streams of events.
    event_streams: Vec<EventStream>,
    /// Settings that app-servers keep in memory only: the method and the parameters.
    process_settings: Vec<(Box<str>, Text)>,
    thread_settings: AllThreadSettings,
    process_state: upstream::process_state::ProcessState,
    /// Who asked for threads with all their turns, and is to be told that this is of old; the oldest first.
    notice_recipients: VecDeque<ClientId>,
    /// Clients that may be heard again.
    readable: Vec<ClientId>,
    out: Vec<Action>,
}

impl Hub {
    /// A hub without clients and without an app-server.
    pub fn new(subagent_approvals: SubagentApprovals) -> Self {
        Self { next_request_id: 1, subagent_approvals, ..Self::default() }
    }

    /// The time of day, in milliseconds since 1970, from now on.
    pub fn set_unix_time(&mut self, unix_ms: u64) {
        self.unix_ms = unix_ms;
    }

    /// Takes one event at `now` and pushes what follows from it, in order.
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
        if may_change_handover {
            self.schedule_handover_report();
        }
        out.append(&mut self.out);
    }

    /// When [`Event::DeadlineReached`] is due.
    pub fn deadline(&self) -> Option<Now> {
        self.timers.peek().map(|Reverse((at, _))| *at)
    }

    /// Whether more is to be read from a client: not while much of what it said waits to be sent on.
    pub fn wants_input(&self, client: ClientId) -> bool {
        self.clients.get(&client).is_none_or(|client| !client.is_paused)
    }

    /// Clients that may be heard again since this was last asked.
    pub fn take_readable(&mut self, resumed: &mut Vec<ClientId>) {
        resumed.append(&mut self.readable);
    }

    /// Whether a client has sent `initialize`.
    pub fn has_initialized(&self, client: ClientId) -> bool {
        self.clients.get(&client).is_some_and(|client| !matches!(client.stage, clients::client::Stage::New))
    }

    /// Whether an answer is to come over a link.
    pub fn awaits(&self, connection: Connection) -> bool {
        self.pending.values().any(|call| call.connection == connection)
    }

    /// Whether a client that came now would be answered.
    pub fn is_ready(&self) -> bool {
        self.current
            .and_then(|server| self.servers.get(&server))
            .is_some_and(|server| server.probe_result.is_some())
    }

    /// Tells a client something, unless it has left meanwhile.
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

    /// So many more requests that name a thread are under way.
    fn add_pending_of_thread(&mut self, thread: &ThreadId, more: u32) {
        *self.pending_per_thread.entry(thread.clone()).or_default() += more;
    }

    /// A request that names a thread is not under way any more.
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
            // At once, before the next request about it: somebody may ask all the time.
            self.re_evaluate_thread(thread);
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
                Timer::ReEvaluate(thread) => self.re_evaluate_thread(&thread),
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
                Timer::BackgroundLoads => self.recover_orphaned(),
                Timer::HandoverReport => self.report_handover_if_changed(),
            }
        }
        self.schedule();
    }
}
