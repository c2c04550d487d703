//! Checks before a thread is unloaded: known blockers, and what the app-server has to be asked.

use serde_json::json;

use crate::hub::event::{Action, BlockedOn, ThreadId};
use crate::hub::goals::goal_notification_params;
use crate::hub::requests::pending::InternalRequest;
use crate::hub::threads::state::{Check, ThreadState};
use crate::hub::{Hub, Timer, text};
use crate::limits::{CHECK_VALID_MS, UNLOAD_DELAY_MS, UNLOAD_TIMEOUT_MS};

impl Hub {
    /// What is known to block a thread: whatever runs in it, and unanswered requests about it, which may start
    /// something or fail because of the unloading.
    pub(in crate::hub) fn known_blocker(&self, id: &ThreadId) -> Option<BlockedOn> {
        let thread = self.threads.get(id)?;
        if thread.is_busy(self.now) {
            Some(if self.server_requests.is_pending(id) { BlockedOn::Approval } else { BlockedOn::Turn })
        } else if self.pending.concern(id) {
            Some(BlockedOn::Request)
        } else if thread.has_realtime_session {
            Some(BlockedOn::Realtime)
        } else if thread.is_ephemeral() {
            Some(BlockedOn::Ephemeral)
        } else {
            None
        }
    }

    /// Requests everything that could block the unloading. Until the responses are there, nothing new reaches the
    /// thread.
    pub(in crate::hub) fn start_checks(&mut self, id: &ThreadId, to_evict: bool) {
        let since = self.now;
        let Some(thread) = self.threads.get_mut(id) else { return };
        let outstanding = if to_evict { 3 } else { 4 };
        thread.state = ThreadState::Checking(Check { since, outstanding, to_evict, ..Check::default() });
        let (connection, path, is_on_disk) =
            (thread.connection(), thread.path.clone(), thread.residency.is_on_disk());
        let params = json!({"threadId": &**id});
        self.send_internal(connection, InternalRequest::CheckGoal(id.clone()), "thread/goal/get", &params);
        self.send_internal(connection, InternalRequest::CheckQueue(id.clone()), "thread/queue/list", &params);
        self.send_internal(
            connection,
            InternalRequest::CheckTerminals(id.clone()),
            "thread/backgroundTerminals/list",
            &params,
        );
        match path {
            _ if to_evict => {}
            _ if is_on_disk => self.on_check_done(id, |_| {}),
            Some(path) => self.out.push(Action::CheckRollout { thread: id.to_string(), path }),
            None => self.send_internal(
                connection,
                InternalRequest::ReadThread(id.clone()),
                "thread/read",
                &params,
            ),
        }
    }

    /// `thread/read` returned the path of the rollout file.
    pub(in crate::hub) fn on_thread_read(&mut self, id: &ThreadId, result: Option<&str>) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        if let Some(reported) = result.and_then(|result| text::member(result, "thread")) {
            thread.describe(reported.get());
        }
        if !matches!(thread.state, ThreadState::Checking(_)) {
            return;
        }
        match (&thread.path, thread.is_ephemeral()) {
            (Some(path), false) => {
                let path = path.clone();
                self.out.push(Action::CheckRollout { thread: id.to_string(), path });
            }
            (None, false) if result.is_some() => {
                self.on_check_done(id, |check| check.blocked_on = Some(BlockedOn::FirstTurn));
            }
            (_, true) => self.on_check_done(id, |check| check.blocked_on = Some(BlockedOn::Ephemeral)),
            _ => self.on_check_done(id, |check| check.blocked_on = Some(BlockedOn::RetryLater)),
        }
    }

    pub(in crate::hub) fn on_rollout_checked(&mut self, thread: &str, exists: bool) {
        let Some(known) = self.threads.get_mut(thread) else { return };
        if exists {
            known.residency.found_on_disk();
        }
        let id = known.id.clone();
        self.on_check_done(&id, |check| {
            if !exists {
                check.blocked_on = Some(BlockedOn::FirstTurn);
            }
        });
    }

    /// The response to the goal check.
    pub(in crate::hub) fn on_goal_checked(&mut self, id: &ThreadId, outcome: Result<&str, &str>) {
        let goal = outcome.ok().and_then(|result| text::member(result, "goal"));
        let status = goal.and_then(|goal| text::string(goal.get(), "status"));
        let active = status.is_some_and(|status| status == "active");
        if let Some(goal) = goal.filter(|goal| goal.get() != "null")
            && let Some(thread) = self.threads.get_mut(id).filter(|thread| thread.goal.reported().is_none())
        {
            // So that its clearing is reported, even if upstream has not reported the goal to this gateway.
            thread.goal.apply(&goal_notification_params(id, goal));
        }
        self.on_check_done(id, |check| {
            check.goal_is_active |= active;
            check.trouble(outcome);
        });
    }

    /// The response to the check of queued messages or of background terminals.
    pub(in crate::hub) fn on_list_checked(
        &mut self,
        id: &ThreadId,
        outcome: Result<&str, &str>,
        blocked_on: BlockedOn,
    ) {
        let data = outcome.ok().and_then(|result| text::member(result, "data"));
        let any = data.is_some_and(|data| {
            serde_json::from_str::<Vec<serde::de::IgnoredAny>>(data.get()).is_ok_and(|list| !list.is_empty())
        });
        let rests = self.threads.get(id).is_some_and(|thread| thread.is_queue_paused);
        let any = any && !(rests && blocked_on == BlockedOn::Queue);
        self.on_check_done(id, |check| {
            if any {
                check.blocked_on = Some(blocked_on);
            }
            check.trouble(outcome);
        });
    }

    /// One of the checks of a thread is done.
    fn on_check_done(&mut self, id: &ThreadId, note: impl FnOnce(&mut Check)) {
        let now = self.now;
        let Some(thread) = self.threads.get_mut(id) else { return self.changes.thread_state_changed() };
        let ThreadState::Checking(check) = &mut thread.state else { return };
        note(check);
        check.outstanding = check.outstanding.saturating_sub(1);
        if check.outstanding > 0 {
            return;
        }
        if now.since_ms(check.since) >= CHECK_VALID_MS {
            // A turn may have begun since the app-server answered.
            check.blocked_on.get_or_insert(BlockedOn::RetryLater);
        }
        let check = check.clone();
        thread.state = ThreadState::Attached;
        if check.to_evict {
            return self.on_eviction_checked(id, &check);
        }
        let is_alone = !thread.is_watched();
        let late = self.known_blocker(id);
        if is_alone && late.is_none() && check.blocked_on == Some(BlockedOn::FirstTurn) {
            // It had no turn, and no client can find it again.
            self.evict(id);
            return self.changes.thread_state_changed();
        }
        if let Some(blocked_on) = check.blocked_on.or(late) {
            self.set_blocked_on(id, blocked_on);
            if late.is_none() {
                // How long that takes is unknown.
                self.resume_goal(id);
            }
            // Nothing reports the end of some of these.
            if late.is_none() && blocked_on != BlockedOn::FirstTurn {
                self.check_again_after(id, UNLOAD_TIMEOUT_MS);
            }
            return self.changes.thread_state_changed();
        }
        if check.goal_is_active {
            self.suspend_goal(id);
            return self.changes.thread_state_changed();
        }
        self.unload(id);
    }

    fn on_eviction_checked(&mut self, id: &ThreadId, check: &Check) {
        let late = self.known_blocker(id).filter(|blocked_on| *blocked_on != BlockedOn::Ephemeral);
        let goal_is_suspended = self.threads.get(id).is_some_and(|thread| thread.goal.is_suspended());
        if check.blocked_on.or(late).is_some() || check.goal_is_active || goal_is_suspended {
            // What runs in it continues without viewers.
            if let Some(thread) = self.threads.get_mut(id) {
                thread.blocked_on = check.blocked_on.unwrap_or(BlockedOn::Turn);
            }
            self.check_again_after(id, UNLOAD_DELAY_MS);
        } else {
            self.evict(id);
        }
        self.changes.thread_state_changed();
    }

    /// Checks a thread again later, once.
    pub(in crate::hub) fn check_again_after(&mut self, id: &ThreadId, after_ms: u64) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        if !std::mem::replace(&mut thread.has_check_timer, true) {
            self.set_timer(after_ms, Timer::CheckAgain(id.clone()));
        }
    }

    pub(in crate::hub) fn on_check_timer(&mut self, id: &ThreadId) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        thread.has_check_timer = false;
        thread.is_queue_paused |= thread.blocked_on == BlockedOn::Queue && !thread.is_busy(self.now);
        self.changes.thread_changed(id);
    }
}

impl Check {
    /// Overload and internal errors block the unloading for now. Any other error does not: the app-server does not
    /// know the method, or the thread has no such thing.
    fn trouble(&mut self, outcome: Result<&str, &str>) {
        let code = outcome.err().and_then(|error| text::member(error, "code")).map(|code| code.get());
        if matches!(code, Some("-32001" | "-32603")) {
            self.blocked_on.get_or_insert(BlockedOn::RetryLater);
        }
    }
}
