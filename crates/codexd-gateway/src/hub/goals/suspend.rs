//! Holding goals: the gateway pauses one until its thread has moved, and nobody else is to notice.

use serde_json::json;

use crate::hub::event::{Action, BlockedOn, Report, Text};
use crate::hub::goals::goal_notification_params;
use crate::hub::requests::pending::{InternalRequest, Origin, PendingRequest};
use crate::hub::requests::refusal::{Refusal, is_transient};
use crate::hub::threads::thread::{Thread, ThreadId, ThreadState};
use crate::hub::{Hub, Timer, text};
use crate::limits::{AGAIN_AFTER_MS, MOVE_STUCK_MS, QUIET_MS};

impl Hub {
    /// Keeps a goal from beginning turns. Its turn, if one runs, ends first; then the look is taken again.
    pub(in crate::hub) fn suspend_goal(&mut self, id: &ThreadId) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        thread.goal_is_suspended = true;
        thread.blocked_on = BlockedOn::Turn;
        let connection = thread.connection();
        // The pause waits until that is on disk: from here on it would stay paused if this gateway were killed.
        self.changes.goals_changed();
        let params = json!({"threadId": &**id, "status": "paused"});
        self.send_internal(connection, InternalRequest::PauseGoal(id.clone()), "thread/goal/set", &params);
    }

    /// The turns of an active goal follow each other without a pause: it is held while one of them runs.
    pub(in crate::hub) fn suspend_goal_of_busy(&mut self, id: &ThreadId) {
        if self.would_suspend_goal(id) {
            self.suspend_goal(id);
        }
    }

    pub(in crate::hub) fn would_suspend_goal(&self, id: &ThreadId) -> bool {
        self.threads.get(id).is_some_and(|thread| {
            let runs = !thread.turns.is_empty() && thread.state == ThreadState::Attached;
            runs && !thread.goal_is_suspended && thread.goal_is_active && !self.is_goal_changing(thread)
        })
    }

    /// Something was said of a goal and is not answered or not told yet: to hold it now would override that.
    fn is_goal_changing(&self, thread: &Thread) -> bool {
        let id = &thread.id;
        let resumes = |call: &PendingRequest| match &call.origin {
            Origin::Internal(InternalRequest::ReadSuspendedGoal(of) | InternalRequest::ResumeGoal(of)) => {
                of == id
            }
            _ => false,
        };
        thread.goal_is_pausing
            || self.goals.asked.values().any(|(of, _)| of == id)
            || self.pending.values().any(resumes)
    }

    pub(in crate::hub) fn on_goal_paused(&mut self, id: &ThreadId, is_good: bool) {
        if is_good {
            self.set_timer(QUIET_MS, Timer::ReEvaluate(id.clone()));
            return self.restore_ended_goal(id);
        }
        if let Some(thread) = self.threads.get_mut(id) {
            thread.goal_is_suspended = false;
            thread.blocked_on = BlockedOn::RetryLater;
        }
        self.changes.goals_changed();
        self.check_again_after(id, MOVE_STUCK_MS);
    }

    /// The turn had ended its goal when the pause came there: it is not paused, but what it was.
    fn restore_ended_goal(&mut self, id: &ThreadId) {
        let Some(thread) = self.threads.get(id).filter(|thread| !thread.goal_is_suspended) else { return };
        if let Some(status) = thread.goal_status().filter(|status| !matches!(&**status, "active" | "paused"))
        {
            let (connection, params) = (thread.connection(), json!({"threadId": &**id, "status": status}));
            self.send_internal(connection, InternalRequest::IgnoreResponse, "thread/goal/set", &params);
        }
    }

    /// A goal that was held goes on where the thread is now, if it still is what it was: its turn may have ended it, and
    /// whoever opened the thread behind no gateway may have.
    pub(in crate::hub) fn resume_goal(&mut self, id: &ThreadId) {
        let Some(thread) = self.threads.get_mut(id).filter(|thread| thread.goal_is_suspended) else { return };
        let (connection, params) = (thread.connection(), json!({"threadId": &**id}));
        thread.busy_until = thread.busy_until.max(self.now + QUIET_MS);
        self.add_pending_of_thread(id, 1);
        self.send_internal(
            connection,
            InternalRequest::ReadSuspendedGoal(id.clone()),
            "thread/goal/get",
            &params,
        );
    }

    pub(in crate::hub) fn on_suspended_goal_read(&mut self, id: &ThreadId, outcome: Result<&str, &str>) {
        let Some(thread) = self.threads.get_mut(id).filter(|thread| thread.goal_is_suspended) else {
            // A client has said meanwhile what it is to be.
            return self.on_thread_request_done(id);
        };
        let goal = match outcome {
            Ok(result) => text::member(result, "goal"),
            Err(error) => return self.on_goal_resumed(id, Err(error)),
        };
        let status = goal.and_then(|goal| text::string(goal.get(), "status"));
        match (status.as_deref(), goal) {
            // Whether the pause has come there by now is not known.
            (Some("paused" | "active"), _) if !thread.is_interrupted => {
                let (connection, params) =
                    (thread.connection(), json!({"threadId": &**id, "status": "active"}));
                self.send_internal(
                    connection,
                    InternalRequest::ResumeGoal(id.clone()),
                    "thread/goal/set",
                    &params,
                );
            }
            // Its user has stopped the agent: that it is paused is not hidden any longer.
            (Some("paused"), Some(goal)) => {
                let params = goal_notification_params(id, goal);
                let method = "thread/goal/updated";
                thread.goal_is_suspended = false;
                thread.apply_goal(&params);
                let text = text::notification(method, &params);
                self.send_to_all(method, &text);
                self.changes.goals_changed();
                self.on_thread_request_done(id);
            }
            _ => {
                thread.goal_is_suspended = false;
                self.changes.goals_changed();
                self.on_thread_request_done(id);
            }
        }
    }

    /// Nothing is to leave any more: what was held for a move goes on.
    pub(in crate::hub) fn resume_all_goals(&mut self) {
        let held = |thread: &&Thread| thread.goal_is_suspended && thread.state == ThreadState::Attached;
        let mut held: Vec<ThreadId> =
            self.threads.values().filter(held).map(|thread| thread.id.clone()).collect();
        held.sort_unstable();
        for id in held {
            self.resume_goal(&id);
        }
    }

    pub(in crate::hub) fn on_goal_resumed(&mut self, id: &ThreadId, outcome: Result<&str, &str>) {
        let refusal = outcome.err().map(Refusal::of);
        let thread = self.threads.get_mut(id);
        match (refusal, thread) {
            (Some(_), _) if outcome.is_err_and(is_transient) => {
                self.set_timer(AGAIN_AFTER_MS, Timer::ResumeGoal(id.clone()));
            }
            // It goes on where the thread is loaded next.
            (Some(Refusal::Draining), Some(thread)) => {
                let server = thread.server;
                self.on_draining(server);
            }
            (refusal, Some(thread)) => {
                thread.goal_is_suspended = false;
                thread.busy_until = thread.busy_until.max(self.now + QUIET_MS);
                if refusal.is_some() {
                    self.out.push(Action::Report(Report::GoalLost { thread: id.to_string() }));
                }
            }
            (_, None) => {}
        }
        self.changes.goals_changed();
        self.on_thread_request_done(id);
    }

    /// A goal that is held again goes on, unless its thread is on its way or about to be.
    pub(in crate::hub) fn resume_goal_unless_migrating(&mut self, id: &ThreadId) {
        let Some(thread) = self.threads.get(id) else { return self.changes.goal_unloaded() };
        let is_to_move = self.handover.as_ref().is_some_and(|handover| handover.to != thread.server);
        if thread.state == ThreadState::Attached && !is_to_move {
            self.resume_goal(id);
        }
    }

    /// The answer to `thread/goal/get`: that a goal is held concerns nobody.
    pub(in crate::hub) fn hide_suspension(&self, thread: Option<&ThreadId>, text: &Text) -> Text {
        let held =
            thread.and_then(|thread| self.threads.get(thread)).is_some_and(|thread| thread.goal_is_suspended);
        let result = text::member(text, "result").filter(|_| held);
        let goal = result.and_then(|result| text::member(result.get(), "goal"));
        match goal.and_then(|goal| text::member(goal.get(), "status")) {
            Some(status) if status.get() == r#""paused""# => text::splice(text, status.get(), r#""active""#),
            _ => text.clone(),
        }
    }

    /// A thread was found whose goal the gateway before this one may have held. Answers whether it has.
    pub(in crate::hub) fn adopt_suspended_goal(&mut self, id: &ThreadId) -> bool {
        let was_postponed = self.goals.postponed.remove(id) == Some(true);
        let is_found = self.goals.unseen.held.remove(id) || was_postponed;
        if is_found && let Some(thread) = self.threads.get_mut(id) {
            // Whether it is paused by now is not known.
            thread.goal_is_suspended = true;
            match self.handover.as_ref().is_some_and(|handover| handover.to != thread.server) {
                true => self.suspend_goal(id),
                false => self.resume_goal(id),
            }
        }
        is_found
    }
}
