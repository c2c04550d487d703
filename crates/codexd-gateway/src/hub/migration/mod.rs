//! Live replacement: threads move from app-servers that are to leave to the one that serves, one at a time, each only
//! when nothing of it could be cut.
//!
//! A move is: hold what names the thread; ask whether anything would be lost (queue, goal, background terminals, not on
//! disk yet: `checks.rs`); unsubscribe, which unloads it; wait for `thread/closed`; resume it in its new place; let go of
//! what was held. An app-server that holds nothing any more is retired (`leaving.rs`).

mod checks;
mod retire;
mod rollback;
mod trial_load;

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use serde_json::json;

use crate::hub::event::{BlockedOn, BlockedThread, Connection, HandoverState, Now, ServerId};
use crate::hub::requests::pending::Errand;
use crate::hub::requests::refusal::{Refusal, message_of};
use crate::hub::threads::thread::{Audience, Motion, ThreadId};
use crate::hub::{Hub, Timer, text};
use crate::limits::{AGAIN_AFTER_MS, HUSH_MS, LATE_TRIES_MAX, MOVE_STUCK_MS, QUIET_MS};

pub use trial_load::Profile;
use trial_load::{MayLoad, Rehearsal};

/// A handover that is under way.
#[derive(Debug)]
pub struct Handover {
    /// The newest of those that are to leave.
    pub from: ServerId,
    pub to: ServerId,
    pub since: Now,
    pub state: HandoverState,
    pub moved: usize,
    /// Threads to look at, in turn.
    queue: VecDeque<ThreadId>,
    /// The one that is on its way.
    on_its_way: Option<ThreadId>,
    /// Whether the new app-server loads threads of a folder and a provider.
    rehearsals: HashMap<Rc<Profile>, Rehearsal>,
    /// As last reported: how many have moved, and what waits.
    reported: (usize, Vec<BlockedThread>),
    /// That it has begun has been reported.
    told_to_move: bool,
    /// That it waits has been reported.
    told_to_wait: bool,
    /// A report is due soon.
    report_is_due: bool,
}

impl Hub {
    /// Begins what outgoing app-servers make necessary, or begins it again when those at its ends have changed.
    pub(super) fn ensure_handover(&mut self) {
        let serves = |to: &ServerId| self.current == Some(*to) && self.is_up(*to);
        let Some(to) = self.serving.filter(serves) else { return };
        let leaves = |server: &crate::hub::upstream::servers::Server| server.outgoing && !server.retired;
        let from = self.servers.iter().filter(|(_, server)| leaves(server)).map(|(&id, _)| id).max();
        let known = self.handover.as_ref().map(|handover| (handover.from, handover.to));
        match from {
            Some(from) if known != Some((from, to)) => self.begin_handover(from, to),
            None if known.is_some() => {
                self.handover = None;
                self.let_goals_go_on();
            }
            _ => {}
        }
    }

    fn begin_handover(&mut self, from: ServerId, to: ServerId) {
        self.handover = Some(Handover {
            from,
            to,
            since: self.now,
            state: HandoverState::Moving,
            moved: 0,
            queue: VecDeque::new(),
            on_its_way: None,
            rehearsals: HashMap::new(),
            reported: (0, Vec::new()),
            told_to_move: false,
            told_to_wait: false,
            report_is_due: false,
        });
        self.open_owns_anew();
        // What it loaded by itself meanwhile. One whose link is not open tells it when it is.
        if self.is_up(from) {
            self.ask_what_is_loaded(from);
        }
        self.report_handover();
        let mut threads: Vec<ThreadId> = (self.threads.values().filter(|thread| thread.server != to))
            .map(|thread| thread.id.clone())
            .collect();
        threads.sort_unstable();
        for id in threads {
            if let Some(thread) = self.threads.get_mut(&id) {
                thread.queued = false;
                if thread.motion == Motion::Still {
                    // What another one has refused this one may load.
                    (thread.refused, thread.tries) = (None, 0);
                }
            }
            self.thread_stirred(&id);
        }
    }

    /// The app-server that threads were to go to is gone: another one will come.
    pub(super) fn handover_broke(&mut self, server: ServerId) {
        if self.handover.as_ref().is_some_and(|handover| handover.to == server) {
            self.handover = None;
        }
    }

    /// Something happened to a thread: it may be able to move now.
    pub(super) fn thread_stirred(&mut self, id: &ThreadId) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        let moves = self.handover.as_ref().is_some_and(|handover| handover.to != thread.server);
        // An ephemeral one has nowhere to move to: all that can come of it is that it is let go.
        if thread.unwatched_since.is_some() && (thread.ephemeral || !moves) {
            return self.release_if_unwatched(id);
        }
        self.enqueue(id);
        self.next_move();
    }

    /// Puts a thread that is to move behind those that are looked at.
    fn enqueue(&mut self, id: &ThreadId) {
        let (Some(handover), Some(thread)) = (self.handover.as_mut(), self.threads.get_mut(id)) else {
            return;
        };
        if handover.to != thread.server && thread.motion == Motion::Still && !thread.queued {
            thread.queued = true;
            handover.queue.push_back(id.clone());
        }
    }

    fn next_move(&mut self) {
        loop {
            let Some(handover) = &mut self.handover else { return };
            if let Some(id) = &handover.on_its_way
                && self.threads.get(id).is_some_and(crate::hub::threads::thread::Thread::is_moving)
            {
                return;
            }
            handover.on_its_way = None;
            let Some(id) = handover.queue.pop_front() else { break };
            let to = handover.to;
            let Some(thread) = self.threads.get_mut(&id) else { continue };
            thread.queued = false;
            if thread.server == to || thread.motion != Motion::Still {
                continue;
            }
            if let Some(blocked_on) = self.obviously_waits_for(&id) {
                self.waits(&id, blocked_on);
                if self.would_hold_goal(&id) && self.may_load(&id, to) == MayLoad::Yes {
                    self.hold_goal_of_busy(&id);
                }
                continue;
            }
            match self.may_load(&id, to) {
                MayLoad::Yes => {}
                MayLoad::Asked => continue,
                MayLoad::No => {
                    self.stays_refused(&id);
                    continue;
                }
            }
            if let Some(handover) = &mut self.handover {
                handover.on_its_way = Some(id.clone());
            }
            self.look_at(&id, false);
        }
        self.handover_progressed();
    }

    /// A thread cannot move yet; if only time has to pass, it is looked at again then.
    pub(super) fn waits(&mut self, id: &ThreadId, blocked_on: BlockedOn) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        thread.blocked_on = blocked_on;
        if thread.turns.is_empty() && self.now < thread.quiet_at {
            let wait = thread.quiet_at.since_ms(self.now);
            self.timer(wait, Timer::Quiet(id.clone()));
        }
    }

    fn leave(&mut self, id: &ThreadId) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        thread.motion = Motion::Leaving;
        let from = thread.server;
        self.unsubscribe_own_links(id);
        let params = json!({"threadId": &**id});
        self.errand(Connection::Shared(from), Errand::Leave(id.clone()), "thread/unsubscribe", &params);
        self.timer(MOVE_STUCK_MS, Timer::Stuck(id.clone()));
    }

    /// Every connection is subscribed to the threads of sub-agents: none may be left when one is to unload.
    pub(super) fn unsubscribe_own_links(&mut self, id: &ThreadId) {
        let Some(thread) = self.threads.get(id) else { return };
        if !thread.is_child && !matches!(thread.audience, Audience::Everyone { .. }) {
            return;
        }
        let from = thread.server;
        let own = self.clients.values().filter(|client| client.dedicated.is_open_to(from));
        let mut own: Vec<_> = own.map(|client| client.id).collect();
        own.sort_unstable();
        let params = json!({"threadId": &**id});
        for client in own {
            self.errand(Connection::Dedicated(client, from), Errand::Forget, "thread/unsubscribe", &params);
        }
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
        if !thread.is_watched() && !thread.goal_held {
            // Nobody asks for it: it is loaded again when somebody does.
            if let Some(handover) = &mut self.handover {
                handover.moved += 1;
            }
            self.park_settings(id);
            self.unloaded(id);
            return self.moved_on();
        }
        let Some(to) = to else {
            // The one that it was to go to is gone meanwhile: the next one loads it.
            thread.motion = Motion::Lost;
            self.moved_on();
            return self.recover_lost();
        };
        thread.motion = Motion::Arriving;
        thread.came_from = Some(thread.server);
        thread.server = to;
        thread.joiner = None;
        thread.hush_until = hush_until;
        self.load(id, to);
    }

    fn load(&mut self, id: &ThreadId, to: ServerId) {
        let params = self.resume_params(id);
        self.errand(Connection::Shared(to), Errand::Arrive(id.clone()), "thread/resume", &params);
    }

    pub(super) fn arrive_again(&mut self, id: &ThreadId) {
        let Some(thread) = self.threads.get(id) else { return };
        match &thread.motion {
            Motion::Arriving => self.load(&id.clone(), thread.server),
            Motion::Lost => self.recover_lost(),
            _ => {}
        }
    }

    /// The new app-server has the thread, or says why not.
    pub(super) fn arrived(&mut self, id: &ThreadId, outcome: Result<&str, &str>) {
        let Some(thread) = self.threads.get_mut(id).filter(|thread| thread.motion == Motion::Arriving) else {
            return self.moved_on();
        };
        let (server, now) = (thread.server, self.now);
        let Err(error) = outcome else {
            thread.motion = Motion::Still;
            thread.quiet_at = thread.quiet_at.max(now + QUIET_MS);
            // The echoes come behind the answer, which a slow disk may hold up.
            thread.hush_until = now + HUSH_MS;
            thread.tries = 0;
            (thread.refused, thread.came_from) = (None, None);
            thread.blocked_on = BlockedOn::Nothing;
            let is_alone = !thread.is_watched();
            if let Some(handover) = &mut self.handover {
                handover.moved += 1;
            }
            self.let_goal_go_on(id);
            self.begin_streams_again(id);
            if is_alone {
                self.left_alone(id);
            }
            // The one that it came to may be leaving as well by now.
            self.thread_stirred(id);
            return self.moved_on();
        };
        match Refusal::of(error) {
            Refusal::Draining => {
                thread.motion = Motion::Lost;
                thread.again_at = now + AGAIN_AFTER_MS;
                self.drains(server);
                self.timer(AGAIN_AFTER_MS, Timer::Again(id.clone()));
                self.moved_on();
            }
            Refusal::NotYet if thread.tries < LATE_TRIES_MAX => {
                let wait = thread.try_again_after(Refusal::NotYet).unwrap_or(AGAIN_AFTER_MS);
                self.timer(wait, Timer::Again(id.clone()));
            }
            // Also the thread's own end is taken from the one that had it until now, if that is there.
            refusal => self.roll_back(id, refusal, message_of(error)),
        }
    }

    /// It was asked to unload and did not: it is subscribed again where it is, and tried later.
    pub(super) fn stuck(&mut self, id: &ThreadId) {
        match self.threads.get(id).map(|thread| &thread.motion) {
            Some(Motion::Leaving) => self.trouble(id),
            // Nothing will come of it: whoever wants it subscribes the shared link anew.
            Some(Motion::Releasing) => {
                self.forget_thread(id);
                self.moved_on();
            }
            _ => {}
        }
    }

    fn trouble(&mut self, id: &ThreadId) {
        let Some(thread) = self.threads.get_mut(id).filter(|thread| thread.motion == Motion::Leaving) else {
            return;
        };
        let link = thread.link();
        thread.blocked_on = BlockedOn::RetryLater;
        // Until it is known to be loaded and subscribed, nothing reaches it: the unloading may only be late.
        thread.motion = Motion::Returning;
        let params = self.resume_params(id);
        self.errand(link, Errand::Return(id.clone()), "thread/resume", &params);
    }

    /// The thread that was on its way is there, or stays: the next one.
    pub(super) fn moved_on(&mut self) {
        self.pump();
        self.next_move();
        self.see_whether_all_have_left();
    }
}

impl crate::hub::threads::thread::Thread {
    fn is_moving(&self) -> bool {
        match &self.motion {
            Motion::Checking(check) => !check.to_release,
            Motion::Leaving | Motion::Returning | Motion::Arriving => true,
            _ => false,
        }
    }
}
