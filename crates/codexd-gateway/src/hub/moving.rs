//! Live replacement: threads move from app-servers that are to leave to the one that serves, one at a time, each only
//! when nothing of it could be cut.
//!
//! A move is: hold what names the thread; ask whether anything would be lost (queue, goal, background terminals, not on
//! disk yet); unsubscribe, which unloads it; wait for `thread/closed`; resume it in its new place; let go of what was held.

use std::collections::VecDeque;

use serde_json::json;

use super::call::Errand;
use super::event::{
    Action, HandoverReport, HandoverState, Link, Now, Report, ServerId, WaitingThread, WaitsFor,
};
use super::thread::{Audience, Check, Motion, ThreadId};
use super::{Hub, Timer, text};
use crate::limits::{AGAIN_AFTER_MS, ARRIVAL_TRIES_MAX, HUSH_MS, MOVE_STUCK_MS};

/// A handover that is under way.
#[derive(Debug)]
pub struct Handover {
    pub from: ServerId,
    pub to: ServerId,
    pub since: Now,
    pub state: HandoverState,
    pub moved: usize,
    /// Threads to look at, in turn.
    queue: VecDeque<ThreadId>,
    /// The one that is on its way.
    on_its_way: Option<ThreadId>,
    /// The outgoing one has told what it has.
    pub listed: bool,
}

impl Hub {
    pub(super) fn begin_handover(&mut self, to: ServerId) {
        let leaves = |server: &super::Server| server.outgoing && !server.retired;
        let from = self.servers.iter().filter(|(_, server)| leaves(server)).map(|(&id, _)| id).max();
        let Some(from) = from else { return };
        self.handover = Some(Handover {
            from,
            to,
            since: self.now,
            state: HandoverState::Moving,
            moved: 0,
            queue: VecDeque::new(),
            on_its_way: None,
            listed: false,
        });
        let clients: Vec<_> =
            self.clients.values().filter(|client| client.own.is_some()).map(|client| client.id).collect();
        for client in clients {
            self.open_own(client);
        }
        // One that has lost its link as well has nothing to tell; what it had is lost and found already.
        match self.is_up(from) {
            true => {
                self.errand(Link::Shared(from), Errand::LoadedList(from), "thread/loaded/list", &json!({}));
            }
            false => self.listed_nothing(from),
        }
        self.report_handover();
        let threads: Vec<ThreadId> = self
            .threads
            .values()
            .filter(|thread| thread.server != to)
            .map(|thread| thread.id.clone())
            .collect();
        for id in threads {
            if let Some(thread) = self.threads.get_mut(&id) {
                thread.queued = false;
            }
            self.thread_stirred(&id);
        }
    }

    /// A link at one end of the handover broke: what was on its way is lost, and found by the recovery.
    pub(super) fn handover_broke(&mut self, server: ServerId) {
        if self.handover.as_ref().is_some_and(|handover| handover.to == server || handover.from == server) {
            self.handover = None;
        }
    }

    fn listed_nothing(&mut self, from: ServerId) {
        if let Some(handover) = self.handover.as_mut().filter(|handover| handover.from == from) {
            handover.listed = true;
        }
    }

    /// Something happened to a thread: it may be able to move now.
    pub(super) fn thread_stirred(&mut self, id: &ThreadId) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        // An ephemeral one has nowhere to move to: all that can come of it is that it is let go.
        if thread.unwatched_since.is_some() && (thread.ephemeral || self.handover.is_none()) {
            return self.release_if_unwatched(id);
        }
        let Some(handover) = &mut self.handover else { return };
        if thread.server != handover.to && thread.motion == Motion::Still && !thread.queued {
            thread.queued = true;
            handover.queue.push_back(id.clone());
        }
        self.next_move();
    }

    fn next_move(&mut self) {
        loop {
            let Some(handover) = &mut self.handover else { return };
            if handover.on_its_way.is_some() {
                return;
            }
            let Some(id) = handover.queue.pop_front() else { break };
            let now = self.now;
            let Some(thread) = self.threads.get_mut(&id) else { continue };
            thread.queued = false;
            if thread.server == handover.to || thread.motion != Motion::Still {
                continue;
            }
            if let Some(waits_for) = thread.obviously_waits_for(now, self.asks.is_pending(&id)) {
                thread.waits_for = waits_for;
                if thread.starters == 0 && thread.turns.is_empty() && now < thread.quiet_at {
                    let wait = thread.quiet_at.since_ms(now);
                    self.timer(wait, Timer::Quiet(id));
                }
                continue;
            }
            handover.on_its_way = Some(id.clone());
            self.look_at(&id);
        }
        self.handover_progressed();
    }

    /// Asks everything that could speak against a move. Until the answers are there, nothing new reaches the thread.
    fn look_at(&mut self, id: &ThreadId) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        thread.motion = Motion::Checking(Check { outstanding: 4, ..Check::default() });
        let (link, path, materialised) = (thread.link(), thread.path.clone(), thread.materialised);
        let params = json!({"threadId": &**id});
        self.errand(link, Errand::CheckGoal(id.clone()), "thread/goal/get", &params);
        self.errand(link, Errand::CheckQueue(id.clone()), "thread/queue/list", &params);
        self.errand(link, Errand::CheckTerminals(id.clone()), "thread/backgroundTerminals/list", &params);
        match path {
            _ if materialised => self.checked(id, |_| {}),
            Some(path) => self.out.push(Action::LookFor { thread: id.to_string(), path }),
            None => self.errand(link, Errand::Read(id.clone()), "thread/read", &params),
        }
    }

    /// `thread/read` told where the file of a thread is.
    pub(super) fn path_told(&mut self, id: &ThreadId, result: Option<&str>) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        if let Some(told) = result.and_then(|result| text::member(result, "thread")) {
            thread.describe(told.get());
        }
        if !matches!(thread.motion, Motion::Checking(_)) {
            return;
        }
        match (&thread.path, thread.ephemeral) {
            (Some(path), false) => {
                let path = path.clone();
                self.out.push(Action::LookFor { thread: id.to_string(), path });
            }
            (None, false) if result.is_some() => {
                self.checked(id, |check| check.waits_for = Some(WaitsFor::FirstTurn));
            }
            (_, true) => self.checked(id, |check| check.waits_for = Some(WaitsFor::Ephemeral)),
            _ => self.checked(id, |check| check.waits_for = Some(WaitsFor::Trouble)),
        }
    }

    pub(super) fn looked(&mut self, thread: &str, exists: bool) {
        let Some(known) = self.threads.get_mut(thread) else { return };
        known.materialised |= exists;
        let id = known.id.clone();
        self.checked(&id, |check| {
            if !exists {
                check.waits_for = Some(WaitsFor::FirstTurn);
            }
        });
    }

    /// One of the questions about a thread is answered.
    pub(super) fn checked(&mut self, id: &ThreadId, note: impl FnOnce(&mut Check)) {
        let Some(thread) = self.threads.get_mut(id) else { return self.moved_on(id) };
        let Motion::Checking(check) = &mut thread.motion else { return };
        note(check);
        check.outstanding = check.outstanding.saturating_sub(1);
        if check.outstanding > 0 {
            return;
        }
        let check = check.clone();
        let late = thread.obviously_waits_for(self.now, self.asks.is_pending(id));
        if let Some(waits_for) = check.waits_for.or(late) {
            thread.waits_for = waits_for;
            return self.stays(id);
        }
        if check.goal_is_active {
            thread.goal_held = true;
            let params = json!({"threadId": &**id, "status": "paused"});
            let link = thread.link();
            // Its turn, if one runs, ends first; then this look is taken again.
            thread.waits_for = WaitsFor::Turn;
            self.errand(link, Errand::PauseGoal(id.clone()), "thread/goal/set", &params);
            return self.stays(id);
        }
        self.leave(id);
    }

    /// A thread stays for now: what was held for it goes on.
    fn stays(&mut self, id: &ThreadId) {
        if let Some(thread) = self.threads.get_mut(id) {
            thread.motion = Motion::Still;
        }
        self.moved_on(id);
    }

    pub(super) fn goal_paused(&mut self, id: &ThreadId) {
        self.timer(crate::limits::QUIET_MS, Timer::Quiet(id.clone()));
    }

    fn leave(&mut self, id: &ThreadId) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        thread.motion = Motion::Leaving;
        let (from, is_child) = (thread.server, matches!(thread.audience, Audience::Everyone { .. }));
        let params = json!({"threadId": &**id});
        if is_child {
            // Every connection is subscribed to the threads of sub-agents.
            let own = |client: &super::Client| {
                client.old_owns.contains(&from) || client.own.is_some_and(|own| own.up && own.server == from)
            };
            let own: Vec<_> =
                self.clients.values().filter(|client| own(client)).map(|client| client.id).collect();
            for client in own {
                self.errand(Link::Own(client, from), Errand::Forget, "thread/unsubscribe", &params);
            }
        }
        self.errand(Link::Shared(from), Errand::Leave(id.clone()), "thread/unsubscribe", &params);
        self.timer(MOVE_STUCK_MS, Timer::Stuck(id.clone()));
    }

    /// The answer to the unsubscribe of a move.
    pub(super) fn left(&mut self, id: &ThreadId, result: Option<&str>) {
        let status = result.and_then(|result| text::string(result, "status"));
        match status.as_deref() {
            // `thread/closed` follows.
            Some("unsubscribed") => {}
            // It was not loaded any more: nothing follows.
            Some("notLoaded" | "notSubscribed") => self.arrive(id),
            _ => self.trouble(id),
        }
    }

    /// A word about a thread from an app-server that does not have it, or is about to lose it.
    pub(super) fn told_by_the_one_it_leaves(&mut self, thread: &str, server: ServerId, method: &str) {
        let Some(known) = self.threads.get(thread) else { return };
        if known.server == server && known.motion == Motion::Leaving && method == "thread/closed" {
            let id = known.id.clone();
            self.arrive(&id);
        }
    }

    fn arrive(&mut self, id: &ThreadId) {
        let hush_until = self.now + HUSH_MS;
        let to = self.serving.filter(|to| self.is_up(*to));
        let Some(thread) = self.threads.get_mut(id).filter(|thread| thread.motion == Motion::Leaving) else {
            return;
        };
        if !thread.is_watched() {
            // Nobody asks for it: it is loaded again when somebody does.
            if let Some(handover) = &mut self.handover {
                handover.moved += 1;
            }
            self.unloaded(id);
            return self.moved_on(id);
        }
        let Some(to) = to else {
            // The one that it was to go to is gone meanwhile: the next one loads it.
            thread.motion = Motion::Lost;
            return self.moved_on(id);
        };
        thread.motion = Motion::Arriving;
        thread.server = to;
        thread.joiner = None;
        thread.hush_until = hush_until;
        self.load(id, to);
    }

    fn load(&mut self, id: &ThreadId, to: ServerId) {
        let params = json!({"threadId": &**id, "excludeTurns": true});
        self.errand(Link::Shared(to), Errand::Arrive(id.clone()), "thread/resume", &params);
    }

    pub(super) fn arrive_again(&mut self, id: &ThreadId) {
        let Some(thread) = self.threads.get(id) else { return };
        match (&thread.motion, self.serving) {
            (Motion::Arriving, _) => self.load(&id.clone(), thread.server),
            (Motion::Lost, Some(serving)) => self.recover(serving),
            _ => {}
        }
    }

    /// The new app-server has the thread, or says why not.
    pub(super) fn arrived(&mut self, id: &ThreadId, outcome: Result<&str, &str>) {
        let Some(thread) = self.threads.get_mut(id).filter(|thread| thread.motion == Motion::Arriving) else {
            return self.moved_on(id);
        };
        match outcome {
            Ok(_) => {
                thread.motion = Motion::Still;
                thread.tries = 0;
                thread.waits_for = WaitsFor::Nothing;
                if std::mem::take(&mut thread.goal_held) {
                    let (link, params) = (thread.link(), json!({"threadId": &**id, "status": "active"}));
                    thread.starters += 1;
                    self.errand(link, Errand::ResumeGoal(id.clone()), "thread/goal/set", &params);
                }
                if let Some(handover) = &mut self.handover {
                    handover.moved += 1;
                }
                self.moved_on(id);
            }
            Err(_) if thread.tries < ARRIVAL_TRIES_MAX => {
                thread.tries += 1;
                self.timer(AGAIN_AFTER_MS, Timer::Again(id.clone()));
            }
            Err(_) => {
                self.end_as_lost(id);
                self.moved_on(id);
            }
        }
    }

    pub(super) fn goal_resumed(&mut self, id: &ThreadId) {
        if let Some(thread) = self.threads.get_mut(id) {
            thread.starters = thread.starters.saturating_sub(1);
        }
    }

    /// It was asked to unload and did not: it is subscribed again where it is, and tried later.
    pub(super) fn stuck(&mut self, id: &ThreadId) {
        if self.threads.get(id).is_some_and(|thread| thread.motion == Motion::Leaving) {
            self.trouble(id);
        }
    }

    fn trouble(&mut self, id: &ThreadId) {
        let Some(thread) = self.threads.get_mut(id).filter(|thread| thread.motion == Motion::Leaving) else {
            return;
        };
        let link = thread.link();
        thread.waits_for = WaitsFor::Trouble;
        // Until it is known to be loaded and subscribed, nothing reaches it: the unloading may only be late.
        thread.motion = Motion::Returning;
        let params = json!({"threadId": &**id, "excludeTurns": true});
        self.errand(link, Errand::Return(id.clone()), "thread/resume", &params);
    }

    pub(super) fn returned(&mut self, id: &ThreadId, is_good: bool) {
        let Some(thread) = self.threads.get_mut(id).filter(|thread| thread.motion == Motion::Returning)
        else {
            return;
        };
        if is_good {
            self.timer(MOVE_STUCK_MS, Timer::Quiet(id.clone()));
            return self.stays(id);
        }
        // Then it is not there any more.
        thread.motion = Motion::Leaving;
        self.arrive(id);
    }

    /// The thread that was on its way is there, or stays: the next one.
    pub(super) fn moved_on(&mut self, id: &ThreadId) {
        if let Some(handover) = &mut self.handover
            && handover.on_its_way.as_ref() == Some(id)
        {
            handover.on_its_way = None;
        }
        self.pump();
        self.next_move();
        self.see_whether_all_have_left();
    }

    fn handover_progressed(&mut self) {
        let Some(handover) = &mut self.handover else { return };
        if handover.state == HandoverState::Moving && handover.listed && handover.on_its_way.is_none() {
            handover.state = HandoverState::Waiting;
            self.report_handover();
        }
    }

    /// Lets app-servers leave that hold nothing any more: no thread, no connection in use, no request under way.
    pub(super) fn see_whether_all_have_left(&mut self) {
        let outgoing: Vec<ServerId> = (self.servers.iter())
            .filter(|(_, server)| server.outgoing && !server.retired)
            .map(|(&id, _)| id)
            .collect();
        for id in outgoing {
            // While the new one does not answer, the old one serves.
            let successor_serves = self.serving.is_some_and(|serving| serving != id)
                || (self.persona.is_none() && self.is_ready());
            if !successor_serves || self.holds_anything(id) {
                continue;
            }
            if let Some(server) = self.servers.get_mut(&id) {
                server.retired = true;
                server.shared = super::servers::LinkState::Down;
            }
            self.out.push(Action::Close(Link::Shared(id)));
            self.out.push(Action::Retire(id));
            if let Some(handover) = self.handover.as_mut().filter(|handover| handover.from == id) {
                handover.state = HandoverState::Completed;
                self.report_handover();
                self.handover = None;
            }
        }
    }

    fn holds_anything(&self, id: ServerId) -> bool {
        // What is on its way has not arrived yet.
        let unsettled =
            |handover: &Handover| handover.from == id && (!handover.listed || handover.on_its_way.is_some());
        self.handover.as_ref().is_some_and(unsettled)
            || self.threads.values().any(|thread| thread.server == id)
            || self
                .clients
                .values()
                .any(|client| client.old_owns.contains(&id) || client.own.is_some_and(|own| own.server == id))
            || self.calls.values().any(|call| call.link.server() == id)
    }

    fn report_handover(&mut self) {
        if let Some(report) = self.handover_report() {
            self.out.push(Action::Report(Report::Handover(report)));
        }
    }

    pub(super) fn handover_report(&self) -> Option<HandoverReport> {
        let handover = self.handover.as_ref()?;
        let waiting = self.threads.values().filter(|thread| thread.server == handover.from);
        let mut threads_waiting: Vec<WaitingThread> = waiting
            .map(|thread| WaitingThread { thread_id: thread.id.to_string(), waits_for: thread.waits_for })
            .collect();
        threads_waiting.sort_by(|one, other| one.thread_id.cmp(&other.thread_id));
        let connections = self.clients.values().filter(|client| client.old_owns.contains(&handover.from));
        Some(HandoverReport {
            from: Some(handover.from),
            to: Some(handover.to),
            state: handover.state,
            threads_moved: handover.moved,
            threads_waiting,
            connections_waiting: connections.count(),
            took_ms: self.now.since_ms(handover.since),
        })
    }
}

impl super::Thread {
    /// What keeps it where it is, as far as that is known without asking.
    fn obviously_waits_for(&self, now: Now, has_ask: bool) -> Option<WaitsFor> {
        if self.is_busy(now) {
            Some(if has_ask { WaitsFor::Approval } else { WaitsFor::Turn })
        } else if self.ephemeral {
            Some(WaitsFor::Ephemeral)
        } else {
            None
        }
    }
}
