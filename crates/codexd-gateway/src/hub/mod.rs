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
use requests::pending::{Asker, Call, Errand};
use requests::server_requests::Asks;
use threads::thread::{Thread, ThreadId};
use threads::thread_settings::AllThreadSettings;
use upstream::servers::{Persona, Server};

/// What a deadline is for. A deadline that has become pointless is found out when it comes.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Timer {
    /// Requests of a client wait too long.
    Held(ClientId),
    /// The answer to a client's `initialize` takes too long.
    Unwelcome(ClientId),
    /// A slot is given back though its request is not answered yet.
    Slots,
    /// Nobody has watched a thread for long enough.
    Unwatched(ThreadId),
    /// A thread may have come to rest.
    Quiet(ThreadId),
    /// A thread takes too long on its way.
    Stuck(ThreadId),
    /// Open again what broke.
    Reconnect,
    /// Try a thread again to load.
    Again(ThreadId),
    /// Ask again what an app-server has loaded.
    List(ServerId),
    /// See whether threads that nobody can join are still there.
    ListDeserted(ServerId),
    /// Subscribe to more of what was found.
    Find,
    /// Ask again how long the user wants unwatched threads to stay loaded.
    UnloadDelay(ServerId),
    /// Try again to let a goal go on.
    Goal(ThreadId),
    /// The disk takes too long to store goals.
    GoalsStored(u64),
    /// Forget the settings of threads that no client has resumed.
    ParkedSettings,
    /// Load the threads of goals that were postponed.
    Goals,
    /// Tell the host which threads are refused.
    Refusals,
    /// Ask again about threads that the new app-server refuses.
    Refused,
    /// Load more threads at once in the background again.
    BackgroundLoads,
    /// Something has changed in a handover that waits: report it.
    HandoverReport,
    /// Look at a thread again: what kept it where it is may be over, and nobody tells.
    Look(ThreadId),
    /// Clients take too long to answer a server request about no thread.
    ServerRequest(u64),
    /// Ask again what a thread descends from.
    Lineage(ThreadId),
    /// Give the shared links a name again: the one before was refused.
    Introduce,
    /// The supervisor had time to report that the end of an app-server was requested.
    EndedServer(ServerId),
    /// Look for requests that the app-server has not answered in time.
    Overdue,
    /// The app-server has had time to take the answer to a server request.
    Answer(u64),
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
    persona: Option<Persona>,
    /// An app-server has taken it.
    persona_is_proven: bool,
    /// The one that was refused last, and how often in a row any was.
    refused_persona: Option<Persona>,
    refused_introductions: u32,
    /// How long the user wants unwatched threads to stay loaded, if the configuration says so.
    unload_delay_ms: Option<u64>,
    threads: HashMap<ThreadId, Thread>,
    calls: HashMap<u64, Call>,
    /// How many requests that name a thread are not answered yet. Kept beside the threads, for some are not known yet.
    under_way: HashMap<ThreadId, u32>,
    /// Threads that were found loaded and are not subscribed yet.
    finds: VecDeque<ThreadId>,
    /// Demands of clients for threads that are not loaded, so far; and whether one is new.
    demands: u64,
    has_new_demands: bool,
    /// Until then only one thread at once is loaded in the background.
    background_yields_until: Now,
    /// Threads that were started only to see whether they load: what is told of them concerns no client.
    rehearsals: VecDeque<Box<str>>,
    next_call: u64,
    asks: Asks,
    subagent_approvals: SubagentApprovals,
    /// Clients whose requests wait, in the order of their turns.
    ring: VecDeque<ClientId>,
    /// Those of them that wait without a deadline yet.
    untimed: Vec<ClientId>,
    /// When each slot that is taken is given back at the latest.
    slots: VecDeque<(Now, u64)>,
    slots_taken: usize,
    /// Links over which no more requests are sent for now.
    full_links: BTreeSet<Connection>,
    /// Bytes of clients' requests that were sent in this step.
    sent_bytes: usize,
    /// Upstream had too much to do: until then nothing more is sent on.
    overloaded_until: Now,
    /// [`Timer::Overdue`] is set.
    looks_for_overdue: bool,
    timers: BinaryHeap<Reverse<(Now, Timer)>>,
    handover: Option<Handover>,
    goals: Goals,
    loss: Option<recovery::Loss>,
    ended_servers: Vec<recovery::EndedServer>,
    not_loaded: recovery::Refusals,
    /// What every connection is told when it opens: the notification's name and text, and the last app-server that
    /// said so.
    greetings: Vec<(Box<str>, Text, ServerId)>,
    /// Streams of events.
    streams: Vec<EventStream>,
    /// Settings that app-servers keep in memory only: the method and the parameters.
    settings: Vec<(Box<str>, Text)>,
    thread_settings: AllThreadSettings,
    process_state: upstream::process_state::ProcessState,
    /// Who asked for threads with all their turns, and is to be told that this is of old; the oldest first.
    resumers: VecDeque<ClientId>,
    /// Clients that may be heard again.
    resumed: Vec<ClientId>,
    out: Vec<Action>,
}

impl Hub {
    /// A hub without clients and without an app-server.
    pub fn new(subagent_approvals: SubagentApprovals) -> Self {
        Self { next_call: 1, subagent_approvals, ..Self::default() }
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
            Event::ClientMessage(id, text) => self.client_said(id, &text),
            Event::ClientDisconnected(id) => self.client_left(id),
            Event::Servers { current, outgoing } => self.servers_changed(current, &outgoing),
            Event::ServerDraining(server) => self.drains(server),
            Event::ProbeAnswered(server, result) => self.greeted(server, result),
            Event::ConnectionOpened(link, result) => self.link_up(link, &result),
            Event::InitializeRefused(link, error) => self.link_refused(link, &error),
            Event::ConnectionMessage(link, text) => self.link_said(link, &text),
            Event::ConnectionFull(link) => self.link_full(link),
            Event::ConnectionWritable(link) => self.link_has_room(link),
            Event::ConnectionLost(link) => self.link_lost(link),
            Event::RolloutChecked { thread, exists } => self.looked(&thread, exists),
            Event::GoalsPersisted(number) => self.goals_stored(number),
            Event::GoalsRestored(threads) => self.goals.kept_before(&threads),
            Event::ThreadSettingsRestored { thread, settings } => self.settings_stored(&thread, &settings),
            Event::ThreadSettingsLost => self.stored_settings_lost(),
            Event::ClientIdentityRestored(kept) => self.persona_kept(&kept),
            Event::InitializeTimedOut(link) => self.link_unanswered(link),
            Event::SubagentApprovals(approvals) => self.set_subagent_approvals(approvals),
            Event::DeadlineReached => self.time_came(),
        }
        if may_change_handover {
            self.handover_may_have_changed();
        }
        out.append(&mut self.out);
    }

    /// When [`Event::DeadlineReached`] is due.
    pub fn deadline(&self) -> Option<Now> {
        self.timers.peek().map(|Reverse((at, _))| *at)
    }

    /// Whether more is to be read from a client: not while much of what it said waits to be sent on.
    pub fn wants_input(&self, client: ClientId) -> bool {
        self.clients.get(&client).is_none_or(|client| !client.paused)
    }

    /// Clients that may be heard again since this was last asked.
    pub fn take_readable(&mut self, resumed: &mut Vec<ClientId>) {
        resumed.append(&mut self.resumed);
    }

    /// Whether a client has sent `initialize`.
    pub fn has_initialized(&self, client: ClientId) -> bool {
        self.clients.get(&client).is_some_and(|client| !matches!(client.stage, clients::client::Stage::New))
    }

    /// Whether an answer is to come over a link.
    pub fn awaits(&self, link: Connection) -> bool {
        self.calls.values().any(|call| call.link == link)
    }

    /// Whether a client that came now would be answered.
    pub fn is_ready(&self) -> bool {
        self.current
            .and_then(|server| self.servers.get(&server))
            .is_some_and(|server| server.greeting.is_some())
    }

    /// Tells a client something, unless it has left meanwhile.
    fn tell(&mut self, client: ClientId, text: Text) {
        if self.clients.contains_key(&client) {
            self.out.push(Action::SendToClient(client, text));
        }
    }

    fn say(&mut self, link: Connection, text: Text) {
        self.out.push(Action::SendUpstream(link, text));
    }

    fn timer(&mut self, after_ms: u64, timer: Timer) {
        self.timers.push(Reverse((self.now + after_ms, timer)));
    }

    fn call_id(&mut self) -> u64 {
        let id = self.next_call;
        self.next_call += 1;
        id
    }

    /// So many more requests that name a thread are under way.
    fn requests_of(&mut self, thread: &ThreadId, more: u32) {
        *self.under_way.entry(thread.clone()).or_default() += more;
    }

    /// A request that names a thread is not under way any more.
    fn request_ended(&mut self, thread: &ThreadId) {
        let Some(count) = self.under_way.get_mut(thread) else { return };
        *count = count.saturating_sub(1);
        if *count > 0 {
            return;
        }
        self.under_way.remove(thread);
        let Some(known) = self.threads.get(thread) else { return };
        let moves = self.handover.as_ref().is_some_and(|handover| handover.to != known.server);
        if known.unwatched_since.is_some() {
            self.timer(QUIET_MS, Timer::Quiet(thread.clone()));
        } else if moves {
            // At once, before the next request about it: somebody may ask all the time.
            self.thread_stirred(thread);
        }
    }

    /// Sends a request of the gateway's own.
    fn errand(&mut self, link: Connection, errand: Errand, method: &str, params: &serde_json::Value) {
        let id = self.call_id();
        let text = text::request(id, method, params);
        let (thread, pauses) = (errand.thread().cloned(), matches!(errand, Errand::PauseGoal(_)));
        let call = Call {
            link,
            asker: Asker::Gateway(errand),
            holds_slot: false,
            is_shortened: false,
            overdue_at: None,
        };
        self.calls.insert(id, call);
        self.say_of_thread(link, thread.as_ref(), pauses, text);
    }

    fn time_came(&mut self) {
        while let Some(Reverse((at, _))) = self.timers.peek()
            && *at <= self.now
        {
            let Some(Reverse((_, timer))) = self.timers.pop() else { break };
            match timer {
                Timer::Held(client) => self.held_too_long(client),
                Timer::Unwelcome(client) => self.not_welcomed(client),
                Timer::Slots => self.give_back_slots(),
                Timer::Unwatched(thread) => self.release_if_unwatched(&thread),
                Timer::Quiet(thread) => self.thread_stirred(&thread),
                Timer::Stuck(thread) => self.stuck(&thread),
                Timer::Reconnect => self.reconnect(),
                Timer::Again(thread) => self.arrive_again(&thread),
                Timer::List(server) if self.is_up(server) => self.ask_what_is_loaded(server),
                Timer::List(_) => {}
                Timer::ListDeserted(server) => self.look_for_deserted(server),
                Timer::Find => self.find_more(),
                Timer::UnloadDelay(server) => self.ask_for_unload_delay(server),
                Timer::Goal(thread) => self.let_goal_go_on_unless_it_moves(&thread),
                Timer::GoalsStored(number) => self.goals_stored(number),
                Timer::ParkedSettings => self.forget_parked_settings(),
                Timer::Goals => self.load_postponed_goals(),
                Timer::Refusals => self.tell_refusals(),
                Timer::Look(thread) => self.time_to_look(&thread),
                Timer::ServerRequest(number) => self.refuse_ask(number),
                Timer::Lineage(thread) => self.learn_lineage(&thread),
                Timer::Introduce => self.introduce_again(),
                Timer::EndedServer(server) => self.report_losses(server),
                Timer::Overdue => self.answer_overdue_requests(),
                Timer::Answer(number) => self.answer_was_not_taken(number),
                Timer::Refused => self.stir_what_waits_to_move(),
                Timer::BackgroundLoads => self.recover_lost(),
                Timer::HandoverReport => self.report_handover_if_changed(),
            }
        }
        self.pump();
    }
}
