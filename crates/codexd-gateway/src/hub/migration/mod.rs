//! Migration: threads move from outgoing app-servers to the serving one, one at a time, each only when that cuts
//! nothing.
//!
//! Steps: queue requests about the thread; check queue, goal, background terminals and rollout (`checks.rs`);
//! unsubscribe, which unloads it; wait for `thread/closed`; resume it in the successor; dispatch the queued requests.
//! An app-server that holds nothing is retired (`retire.rs`).
//!
//! Invariants: a busy thread does not move; a thread that the successor would refuse stays where it is
//! (`trial_load.rs`). Failure: a thread that is refused after unloading is loaded again on the old app-server
//! (`rollback.rs`).

mod checks;
mod retire;
mod rollback;
mod trial_load;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::rc::Rc;

use serde_json::json;

use crate::hub::event::{BlockedOn, BlockedThread, Connection, HandoverState, Now, ServerId, ThreadId};
use crate::hub::refusal::{Refusal, message_of};
use crate::hub::requests::pending::InternalRequest;
use crate::hub::threads::profile::Profile;
use crate::hub::threads::state::ThreadState;
use crate::hub::threads::thread::Audience;
use crate::hub::{Hub, Timer, text};
use crate::limits::{
    BUSY_AFTER_EVENT_MS, RETRY_AFTER_MS, SLOW_RETRIES_MAX, SUPPRESS_ECHO_MS, UNLOAD_TIMEOUT_MS,
};

use trial_load::{MayLoad, TrialLoad};

/// The handover that is under way, and the threads of trial loads.
#[derive(Debug, Default)]
pub struct Migration {
    handover: Option<Handover>,
    /// Threads of trial loads: their notifications go to no client.
    trial_threads: VecDeque<Box<str>>,
}

impl Migration {
    /// Whether a handover is under way.
    pub fn is_under_way(&self) -> bool {
        self.handover.is_some()
    }

    /// Whether the threads of this app-server are to move to another one.
    pub fn moves_threads_of(&self, server: ServerId) -> bool {
        self.handover.as_ref().is_some_and(|handover| handover.to != server)
    }
}

/// A handover.
#[derive(Debug)]
struct Handover {
    /// The newest of the outgoing app-servers.
    from: ServerId,
    to: ServerId,
    since: Now,
    state: HandoverState,
    moved: usize,
    /// Threads to check, in order.
    queue: VecDeque<ThreadId>,
    /// The threads in `queue`.
    queued: BTreeSet<ThreadId>,
    /// The thread that migrates now.
    migrating: Option<ThreadId>,
    /// Whether the successor loads threads of a folder and a provider.
    trial_loads: HashMap<Rc<Profile>, TrialLoad>,
    /// As last reported: the number of migrated threads, and the blocked ones.
    reported: (usize, Vec<BlockedThread>),
    /// [`HandoverState::Moving`] was reported.
    has_reported_moving: bool,
    /// [`HandoverState::Waiting`] was reported.
    has_reported_waiting: bool,
    /// [`Timer::HandoverReport`] is set.
    report_is_due: bool,
}

impl Hub {
    /// Begins a handover if there are outgoing app-servers, and begins it again if its app-servers have changed.
    pub(super) fn ensure_handover(&mut self) {
        let Some(to) = self.servers.serving_current().filter(|to| self.is_up(*to)) else { return };
        let leaves =
            |server: &crate::hub::upstream::servers::Server| server.is_outgoing && !server.is_retired;
        let from = self.servers.iter().filter(|(_, server)| leaves(server)).map(|(&id, _)| id).max();
        let known = self.migration.handover.as_ref().map(|handover| (handover.from, handover.to));
        match from {
            Some(from) if known != Some((from, to)) => self.begin_handover(from, to),
            None if known.is_some() => {
                self.migration.handover = None;
                self.resume_all_goals();
            }
            _ => {}
        }
    }

    fn begin_handover(&mut self, from: ServerId, to: ServerId) {
        self.migration.handover = Some(Handover {
            from,
            to,
            since: self.now,
            state: HandoverState::Moving,
            moved: 0,
            queue: VecDeque::new(),
            queued: BTreeSet::new(),
            migrating: None,
            trial_loads: HashMap::new(),
            reported: (0, Vec::new()),
            has_reported_moving: false,
            has_reported_waiting: false,
            report_is_due: false,
        });
        self.reopen_dedicated();
        // It may have loaded threads by itself. If its connection is not open, it is asked when it opens.
        if self.is_up(from) {
            self.request_loaded_list(from);
        }
        self.report_handover();
        let mut threads: Vec<ThreadId> = (self.threads.values().filter(|thread| thread.server != to))
            .map(|thread| thread.id.clone())
            .collect();
        threads.sort_unstable();
        for id in threads {
            if let Some(thread) =
                self.threads.get_mut(&id).filter(|thread| thread.state == ThreadState::Attached)
            {
                // Another app-server may load what the previous one refused.
                (thread.load_refusal, thread.load_attempts) = (None, 0);
            }
            self.changes.thread_changed(&id);
        }
    }

    /// The successor is gone: another one follows.
    pub(super) fn abort_handover(&mut self, server: ServerId) {
        if self.migration.handover.as_ref().is_some_and(|handover| handover.to == server) {
            self.migration.handover = None;
        }
    }

    /// A thread may be able to migrate or to be unloaded: queues it for migration, or unloads it.
    pub(super) fn evaluate_thread(&mut self, id: &ThreadId) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        let moves = self.migration.moves_threads_of(thread.server);
        // An ephemeral thread cannot migrate: it can only be unloaded.
        if thread.unwatched_since.is_some() && (thread.is_ephemeral() || !moves) {
            return self.unload_if_unwatched(id);
        }
        self.enqueue_migration(id);
    }

    /// Adds a thread to the migration queue.
    fn enqueue_migration(&mut self, id: &ThreadId) {
        let (Some(handover), Some(thread)) = (self.migration.handover.as_mut(), self.threads.get(id)) else {
            return;
        };
        if handover.to != thread.server
            && thread.state == ThreadState::Attached
            && handover.queued.insert(id.clone())
        {
            handover.queue.push_back(id.clone());
        }
    }

    /// Moves the threads of the migration queue, one at a time.
    pub(super) fn migrate_next(&mut self) {
        loop {
            let Some(handover) = &mut self.migration.handover else { return };
            if let Some(id) = &handover.migrating
                && self.threads.get(id).is_some_and(crate::hub::threads::thread::Thread::is_moving)
            {
                return;
            }
            handover.migrating = None;
            let Some(id) = handover.queue.pop_front() else { break };
            let to = handover.to;
            handover.queued.remove(&id);
            let Some(thread) = self.threads.get(&id) else { continue };
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
            if let Some(handover) = &mut self.migration.handover {
                handover.migrating = Some(id.clone());
            }
            self.start_checks(&id, false);
        }
        self.handover_progressed();
    }

    /// A thread is blocked. If only time has to pass, it is checked again then.
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
        self.set_timer(UNLOAD_TIMEOUT_MS, Timer::UnloadTimeout(id.clone()));
    }

    /// Unsubscribes the dedicated connections from a sub-agent's thread: upstream subscribes every connection to it.
    pub(super) fn unsubscribe_dedicated(&mut self, id: &ThreadId) {
        let Some(thread) = self.threads.get(id) else { return };
        if !thread.is_child && !matches!(thread.audience, Audience::Everyone { .. }) {
            return;
        }
        let from = thread.server;
        let connected = self.clients.values().filter(|client| client.dedicated.is_open_to(from));
        let mut connected: Vec<_> = connected.map(|client| client.id).collect();
        connected.sort_unstable();
        let params = json!({"threadId": &**id});
        for client in connected {
            self.send_internal(
                Connection::Dedicated(client, from),
                InternalRequest::IgnoreResponse,
                "thread/unsubscribe",
                &params,
            );
        }
    }

    /// The response to the unsubscribe of a migration.
    pub(super) fn on_unload_response(&mut self, id: &ThreadId, result: Option<&str>) {
        let status = result.and_then(|result| text::string(result, "status"));
        match status.as_deref() {
            // `thread/closed` follows.
            Some("unsubscribed") => {}
            // It was not loaded any more: no notification follows.
            Some("notLoaded" | "notSubscribed") => self.load_in_successor(id),
            _ => self.reattach_after_failed_unload(id),
        }
    }

    /// A notification about a thread from an app-server that does not have it, or is unloading it.
    pub(super) fn on_event_from_previous_server(&mut self, thread: &str, server: ServerId, method: &str) {
        let Some(known) = self.threads.get(thread) else { return };
        if known.server == server && known.state == ThreadState::Unloading && method == "thread/closed" {
            let id = known.id.clone();
            self.load_in_successor(&id);
        }
    }

    fn load_in_successor(&mut self, id: &ThreadId) {
        let suppress_echo_until = self.now + SUPPRESS_ECHO_MS;
        let to = self.servers.serving().filter(|to| self.is_up(*to));
        let Some(thread) = self.threads.get_mut(id).filter(|thread| thread.state == ThreadState::Unloading)
        else {
            return;
        };
        if !thread.is_watched() && !thread.goal.is_suspended() {
            // It has no viewers: it is loaded when a client resumes it.
            if let Some(handover) = &mut self.migration.handover {
                handover.moved += 1;
            }
            self.park_settings(id);
            self.send_thread_closed(id);
            return self.changes.thread_state_changed();
        }
        let Some(to) = to else {
            // The successor is gone: the next one loads it.
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

    /// The response to the resume in the successor.
    pub(super) fn on_loaded_in_successor(&mut self, id: &ThreadId, outcome: Result<&str, &str>) {
        let Some(thread) = self.threads.get_mut(id).filter(|thread| thread.state == ThreadState::Loading)
        else {
            return self.changes.thread_state_changed();
        };
        let (server, now) = (thread.server, self.now);
        let Err(error) = outcome else {
            thread.state = ThreadState::Attached;
            thread.busy_until = thread.busy_until.max(now + BUSY_AFTER_EVENT_MS);
            // The echoes follow the response, which a slow disk may delay.
            thread.suppress_echo_until = now + SUPPRESS_ECHO_MS;
            thread.load_attempts = 0;
            (thread.load_refusal, thread.unloaded_from) = (None, None);
            thread.blocked_on = BlockedOn::Nothing;
            let is_alone = !thread.is_watched();
            if let Some(handover) = &mut self.migration.handover {
                handover.moved += 1;
            }
            self.resume_goal(id);
            self.replay_event_streams(id);
            if is_alone {
                self.on_no_subscribers(id);
            }
            // Its app-server may be outgoing as well by now.
            self.changes.thread_changed(id);
            return self.changes.thread_state_changed();
        };
        match Refusal::of(error) {
            Refusal::Draining => {
                thread.state = ThreadState::Orphaned;
                thread.retry_at = now + RETRY_AFTER_MS;
                self.on_draining(server);
                self.set_timer(RETRY_AFTER_MS, Timer::RetryLoad(id.clone()));
                self.changes.thread_state_changed();
            }
            Refusal::RetrySoon if thread.load_attempts < SLOW_RETRIES_MAX => {
                let wait = thread.try_again_after(Refusal::RetrySoon).unwrap_or(RETRY_AFTER_MS);
                self.set_timer(wait, Timer::RetryLoad(id.clone()));
            }
            // Whether the thread has ended is decided by the app-server that had it, if that is up.
            refusal => self.roll_back(id, refusal, message_of(error)),
        }
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
