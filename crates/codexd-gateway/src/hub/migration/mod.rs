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
use crate::hub::requests::pending::InternalRequest;
use crate::hub::requests::refusal::{Refusal, message_of};
use crate::hub::threads::thread::{Audience, ThreadId, ThreadState};
use crate::hub::{Hub, Timer, text};
use crate::limits::{AGAIN_AFTER_MS, HUSH_MS, LATE_TRIES_MAX, MOVE_STUCK_MS, QUIET_MS};

pub use trial_load::Profile;
use trial_load::{MayLoad, TrialLoad};

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
    migrating: Option<ThreadId>,
    /// Whether the new app-server loads threads of a folder and a provider.
    trial_loads: HashMap<Rc<Profile>, TrialLoad>,
    /// As last reported: how many have moved, and what waits.
    reported: (usize, Vec<BlockedThread>),
    /// That it has begun has been reported.
    has_reported_moving: bool,
    /// That it waits has been reported.
    has_reported_waiting: bool,
    /// A report is due soon.
    report_is_due: bool,
}

impl Hub {
    /// Begins what outgoing app-servers make necessary, or begins it again when those at its ends have changed.
    pub(super) fn ensure_handover(&mut self) {
        let serves = |to: &ServerId| self.current == Some(*to) && self.is_up(*to);
        let Some(to) = self.serving.filter(serves) else { return };
        let leaves =
            |server: &crate::hub::upstream::servers::Server| server.is_outgoing && !server.is_retired;
        let from = self.servers.iter().filter(|(_, server)| leaves(server)).map(|(&id, _)| id).max();
        let known = self.handover.as_ref().map(|handover| (handover.from, handover.to));
        match from {
            Some(from) if known != Some((from, to)) => self.begin_handover(from, to),
            None if known.is_some() => {
                self.handover = None;
                self.resume_all_goals();
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
            migrating: None,
            trial_loads: HashMap::new(),
            reported: (0, Vec::new()),
            has_reported_moving: false,
            has_reported_waiting: false,
            report_is_due: false,
        });
        self.reopen_dedicated();
        // What it loaded by itself meanwhile. One whose connection is not open tells it when it is.
        if self.is_up(from) {
            self.request_loaded_list(from);
        }
        self.report_handover();
        let mut threads: Vec<ThreadId> = (self.threads.values().filter(|thread| thread.server != to))
            .map(|thread| thread.id.clone())
            .collect();
        threads.sort_unstable();
        for id in threads {
            if let Some(thread) = self.threads.get_mut(&id) {
                thread.is_queued = false;
                if thread.state == ThreadState::Attached {
                    // What another one has refused this one may load.
                    (thread.load_refusal, thread.load_attempts) = (None, 0);
                }
            }
            self.changes.thread_changed(&id);
        }
    }

    /// The app-server that threads were to go to is gone: another one will come.
    pub(super) fn abort_handover(&mut self, server: ServerId) {
        if self.handover.as_ref().is_some_and(|handover| handover.to == server) {
            self.handover = None;
        }
    }

    /// Something happened to a thread: queues it for migration, or unloads it, if it may be able to now.
    pub(super) fn evaluate_thread(&mut self, id: &ThreadId) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        let moves = self.handover.as_ref().is_some_and(|handover| handover.to != thread.server);
        // An ephemeral one has nowhere to move to: all that can come of it is that it is let go.
        if thread.unwatched_since.is_some() && (thread.is_ephemeral || !moves) {
            return self.unload_if_unwatched(id);
        }
        self.enqueue_migration(id);
    }

    /// Puts a thread that is to move behind those that are looked at.
    fn enqueue_migration(&mut self, id: &ThreadId) {
        let (Some(handover), Some(thread)) = (self.handover.as_mut(), self.threads.get_mut(id)) else {
            return;
        };
        if handover.to != thread.server && thread.state == ThreadState::Attached && !thread.is_queued {
            thread.is_queued = true;
            handover.queue.push_back(id.clone());
        }
    }

    /// Moves the threads of the migration queue, one at a time.
    pub(super) fn migrate_next(&mut self) {
        loop {
            let Some(handover) = &mut self.handover else { return };
            if let Some(id) = &handover.migrating
                && self.threads.get(id).is_some_and(crate::hub::threads::thread::Thread::is_moving)
            {
                return;
            }
            handover.migrating = None;
            let Some(id) = handover.queue.pop_front() else { break };
            let to = handover.to;
            let Some(thread) = self.threads.get_mut(&id) else { continue };
            thread.is_queued = false;
            if thread.server == to || thread.state != ThreadState::Attached {
                continue;
            }
            if let Some(blocked_on) = self.known_blocker(&id) {
                self.set_blocked_on(&id, blocked_on);
                if self.would_suspend_goal(&id) && self.may_load(&id, to) == MayLoad::Yes {
                    self.suspend_goal_of_busy(&id);
                }
                continue;
            }
            match self.may_load(&id, to) {
                MayLoad::Yes => {}
                MayLoad::Pending => continue,
                MayLoad::No => {
                    self.stay_on_old_server(&id);
                    continue;
                }
            }
            if let Some(handover) = &mut self.handover {
                handover.migrating = Some(id.clone());
            }
            self.start_checks(&id, false);
        }
        self.handover_progressed();
    }

    /// A thread cannot move yet; if only time has to pass, it is looked at again then.
    pub(super) fn set_blocked_on(&mut self, id: &ThreadId, blocked_on: BlockedOn) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        thread.blocked_on = blocked_on;
        if thread.turns.is_empty() && self.now < thread.busy_until {
            let wait = thread.busy_until.since_ms(self.now);
            self.set_timer(wait, Timer::ReEvaluate(id.clone()));
        }
    }

    fn unload(&mut self, id: &ThreadId) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        thread.state = ThreadState::Unloading;
        let from = thread.server;
        self.unsubscribe_dedicated(id);
        let params = json!({"threadId": &**id});
        self.send_internal(
            Connection::Shared(from),
            InternalRequest::Unload(id.clone()),
            "thread/unsubscribe",
            &params,
        );
        self.set_timer(MOVE_STUCK_MS, Timer::UnloadTimeout(id.clone()));
    }

    /// Every connection is subscribed to the threads of sub-agents: none may be left when one is to unload.
    pub(super) fn unsubscribe_dedicated(&mut self, id: &ThreadId) {
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
            self.send_internal(
                Connection::Dedicated(client, from),
                InternalRequest::IgnoreResponse,
                "thread/unsubscribe",
                &params,
            );
        }
    }

    /// The answer to the unsubscribe of a move.
    pub(super) fn on_unload_response(&mut self, id: &ThreadId, result: Option<&str>) {
        let status = result.and_then(|result| text::string(result, "status"));
        match status.as_deref() {
            // `thread/closed` follows.
            Some("unsubscribed") => {}
            // It was not loaded any more: nothing follows.
            Some("notLoaded" | "notSubscribed") => self.load_in_successor(id),
            _ => self.reattach_after_failed_unload(id),
        }
    }

    /// A word about a thread from an app-server that does not have it, or is about to lose it.
    pub(super) fn on_event_from_previous_server(&mut self, thread: &str, server: ServerId, method: &str) {
        let Some(known) = self.threads.get(thread) else { return };
        if known.server == server && known.state == ThreadState::Unloading && method == "thread/closed" {
            let id = known.id.clone();
            self.load_in_successor(&id);
        }
    }

    fn load_in_successor(&mut self, id: &ThreadId) {
        let suppress_echo_until = self.now + HUSH_MS;
        let to = self.serving.filter(|to| self.is_up(*to));
        let Some(thread) = self.threads.get_mut(id).filter(|thread| thread.state == ThreadState::Unloading)
        else {
            return;
        };
        if !thread.is_watched() && !thread.goal_is_suspended {
            // Nobody asks for it: it is loaded again when somebody does.
            if let Some(handover) = &mut self.handover {
                handover.moved += 1;
            }
            self.park_settings(id);
            self.close_unloaded(id);
            return self.changes.thread_state_changed();
        }
        let Some(to) = to else {
            // The one that it was to go to is gone meanwhile: the next one loads it.
            thread.state = ThreadState::Orphaned;
            self.changes.thread_state_changed();
            return self.changes.loads_changed();
        };
        thread.state = ThreadState::Loading;
        thread.unloaded_from = Some(thread.server);
        thread.server = to;
        thread.last_subscriber = None;
        thread.suppress_echo_until = suppress_echo_until;
        self.send_load(id, to);
    }

    fn send_load(&mut self, id: &ThreadId, to: ServerId) {
        let params = self.resume_params(id);
        self.send_internal(
            Connection::Shared(to),
            InternalRequest::Load(id.clone()),
            "thread/resume",
            &params,
        );
    }

    pub(super) fn retry_load(&mut self, id: &ThreadId) {
        let Some(thread) = self.threads.get(id) else { return };
        match &thread.state {
            ThreadState::Loading => self.send_load(&id.clone(), thread.server),
            ThreadState::Orphaned => self.changes.loads_changed(),
            _ => {}
        }
    }

    /// The new app-server has the thread, or says why not.
    pub(super) fn on_loaded_in_successor(&mut self, id: &ThreadId, outcome: Result<&str, &str>) {
        let Some(thread) = self.threads.get_mut(id).filter(|thread| thread.state == ThreadState::Loading)
        else {
            return self.changes.thread_state_changed();
        };
        let (server, now) = (thread.server, self.now);
        let Err(error) = outcome else {
            thread.state = ThreadState::Attached;
            thread.busy_until = thread.busy_until.max(now + QUIET_MS);
            // The echoes come behind the answer, which a slow disk may hold up.
            thread.suppress_echo_until = now + HUSH_MS;
            thread.load_attempts = 0;
            (thread.load_refusal, thread.unloaded_from) = (None, None);
            thread.blocked_on = BlockedOn::Nothing;
            let is_alone = !thread.is_watched();
            if let Some(handover) = &mut self.handover {
                handover.moved += 1;
            }
            self.resume_goal(id);
            self.replay_event_streams(id);
            if is_alone {
                self.on_no_subscribers(id);
            }
            // The one that it came to may be leaving as well by now.
            self.changes.thread_changed(id);
            return self.changes.thread_state_changed();
        };
        match Refusal::of(error) {
            Refusal::Draining => {
                thread.state = ThreadState::Orphaned;
                thread.retry_at = now + AGAIN_AFTER_MS;
                self.on_draining(server);
                self.set_timer(AGAIN_AFTER_MS, Timer::RetryLoad(id.clone()));
                self.changes.thread_state_changed();
            }
            Refusal::RetrySoon if thread.load_attempts < LATE_TRIES_MAX => {
                let wait = thread.try_again_after(Refusal::RetrySoon).unwrap_or(AGAIN_AFTER_MS);
                self.set_timer(wait, Timer::RetryLoad(id.clone()));
            }
            // Also the thread's own end is taken from the one that had it until now, if that is there.
            refusal => self.roll_back(id, refusal, message_of(error)),
        }
    }

    /// It was asked to unload and did not: it is subscribed again where it is, and tried later.
    pub(super) fn on_unload_timeout(&mut self, id: &ThreadId) {
        match self.threads.get(id).map(|thread| &thread.state) {
            Some(ThreadState::Unloading) => self.reattach_after_failed_unload(id),
            // Nothing will come of it: whoever wants it subscribes the shared connection anew.
            Some(ThreadState::Evicting) => {
                self.forget_thread(id);
            }
            _ => {}
        }
    }

    fn reattach_after_failed_unload(&mut self, id: &ThreadId) {
        let Some(thread) = self.threads.get_mut(id).filter(|thread| thread.state == ThreadState::Unloading)
        else {
            return;
        };
        let connection = thread.connection();
        thread.blocked_on = BlockedOn::RetryLater;
        // Until it is known to be loaded and subscribed, nothing reaches it: the unloading may only be late.
        thread.state = ThreadState::RollingBack;
        let params = self.resume_params(id);
        self.send_internal(connection, InternalRequest::RollBack(id.clone()), "thread/resume", &params);
    }
}

impl crate::hub::threads::thread::Thread {
    fn is_moving(&self) -> bool {
        match &self.state {
            ThreadState::Checking(check) => !check.to_evict,
            ThreadState::Unloading | ThreadState::RollingBack | ThreadState::Loading => true,
            _ => false,
        }
    }
}
