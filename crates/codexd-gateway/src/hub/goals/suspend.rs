//! Suspending a goal while its thread migrates, hidden from clients, and resuming it.

use serde_json::json;

use crate::hub::event::{Action, BlockedOn, Report, Text, ThreadId};
use crate::hub::goals::goal_notification_params;
use crate::hub::refusal::{Refusal, is_transient};
use crate::hub::requests::pending::{InternalRequest, Origin, PendingRequest};
use crate::hub::threads::state::ThreadState;
use crate::hub::threads::thread::Thread;
use crate::hub::{Hub, Timer, text};
use crate::limits::{BUSY_AFTER_EVENT_MS, RETRY_AFTER_MS, UNLOAD_TIMEOUT_MS};

impl Hub {
    /// Suspends a goal, so that it starts no turns. A running turn ends first; then the thread is checked again.
    pub(in crate::hub) fn suspend_goal(&mut self, id: &ThreadId) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        thread.goal.suspend();
        thread.blocked_on = BlockedOn::Turn;
        let connection = thread.connection();
        // The pause is sent once this is on disk: otherwise the goal would stay paused if this gateway were killed.
        self.changes.goals_changed();
        let params = json!({"threadId": &**id, "status": "paused"});
        self.send_internal(connection, InternalRequest::PauseGoal(id.clone()), "thread/goal/set", &params);
    }

    /// Suspends a goal while one of its turns runs: its turns follow each other without a pause.
    pub(in crate::hub) fn suspend_goal_of_busy(&mut self, id: &ThreadId) {
        if self.would_suspend_goal(id) {
            self.suspend_goal(id);
        }
    }

    pub(in crate::hub) fn would_suspend_goal(&self, id: &ThreadId) -> bool {
        self.threads.get(id).is_some_and(|thread| {
            let runs = !thread.turns.is_empty() && thread.state == ThreadState::Attached;
            runs && !thread.goal.is_suspended() && thread.goal.is_active() && !self.is_goal_changing(thread)
        })
    }

    /// Whether a request about a goal is unanswered, or its effect not reported yet: a suspension now would override
    /// it.
    fn is_goal_changing(&self, thread: &Thread) -> bool {
        let id = &thread.id;
        let resumes = |pending: &PendingRequest| match &pending.origin {
            Origin::Internal(InternalRequest::ReadSuspendedGoal(of) | InternalRequest::ResumeGoal(of)) => {
                of == id
            }
            _ => false,
        };
        thread.goal.is_pausing()
            || self.goals.requests.values().any(|(of, _)| of == id)
            || self.pending.values().any(resumes)
    }

    pub(in crate::hub) fn on_goal_paused(&mut self, id: &ThreadId, is_good: bool) {
        if is_good {
            self.set_timer(BUSY_AFTER_EVENT_MS, Timer::ReEvaluate(id.clone()));
            return self.restore_ended_goal(id);
        }
        if let Some(thread) = self.threads.get_mut(id) {
            thread.goal.end_suspension();
            thread.blocked_on = BlockedOn::RetryLater;
        }
        self.changes.goals_changed();
        self.check_again_after(id, UNLOAD_TIMEOUT_MS);
    }

    /// The turn ended its goal before the pause arrived: restores the status that the goal had.
    fn restore_ended_goal(&mut self, id: &ThreadId) {
        let Some(thread) = self.threads.get(id).filter(|thread| !thread.goal.is_suspended()) else { return };
        if let Some(status) = thread.goal.status().filter(|status| !matches!(&**status, "active" | "paused"))
        {
            let (connection, params) = (thread.connection(), json!({"threadId": &**id, "status": status}));
            self.send_internal(connection, InternalRequest::IgnoreResponse, "thread/goal/set", &params);
        }
    }

    /// Resumes a suspended goal where its thread is now, if it is still paused or active: its turn may have ended it,
    /// and so may a client without a gateway.
    pub(in crate::hub) fn resume_goal(&mut self, id: &ThreadId) {
        let Some(thread) = self.threads.get_mut(id).filter(|thread| thread.goal.is_suspended()) else {
            return;
        };
        let (connection, params) = (thread.connection(), json!({"threadId": &**id}));
        thread.busy_until = thread.busy_until.max(self.now + BUSY_AFTER_EVENT_MS);
        self.pending.add_of_thread(id);
        self.send_internal(
            connection,
            InternalRequest::ReadSuspendedGoal(id.clone()),
            "thread/goal/get",
            &params,
        );
    }

    pub(in crate::hub) fn on_suspended_goal_read(&mut self, id: &ThreadId, outcome: Result<&str, &str>) {
        let Some(thread) = self.threads.get_mut(id).filter(|thread| thread.goal.is_suspended()) else {
            // A client has changed the goal meanwhile.
            return self.on_thread_request_done(id);
        };
        let goal = match outcome {
            Ok(result) => text::member(result, "goal"),
            Err(error) => return self.on_goal_resumed(id, Err(error)),
        };
        let status = goal.and_then(|goal| text::string(goal.get(), "status"));
        match (status.as_deref(), goal) {
            // Whether the pause has arrived is unknown.
            (Some("paused" | "active"), _) if !thread.goal.is_interrupted() => {
                let (connection, params) =
                    (thread.connection(), json!({"threadId": &**id, "status": "active"}));
                self.send_internal(
                    connection,
                    InternalRequest::ResumeGoal(id.clone()),
                    "thread/goal/set",
                    &params,
                );
            }
            // The user has interrupted the agent: the pause is not hidden any longer.
            (Some("paused"), Some(goal)) => {
                let params = goal_notification_params(id, goal);
                let method = "thread/goal/updated";
                thread.goal.end_suspension();
                thread.goal.apply(&params);
                let text = text::notification(method, &params);
                self.send_to_all(method, &text);
                self.changes.goals_changed();
                self.on_thread_request_done(id);
            }
            _ => {
                thread.goal.end_suspension();
                self.changes.goals_changed();
                self.on_thread_request_done(id);
            }
        }
    }

    /// The handover is over: resumes the goals that were suspended for it.
    pub(in crate::hub) fn resume_all_goals(&mut self) {
        let suspended =
            |thread: &&Thread| thread.goal.is_suspended() && thread.state == ThreadState::Attached;
        let mut suspended: Vec<ThreadId> =
            self.threads.values().filter(suspended).map(|thread| thread.id.clone()).collect();
        suspended.sort_unstable();
        for id in suspended {
            self.resume_goal(&id);
        }
    }

    pub(in crate::hub) fn on_goal_resumed(&mut self, id: &ThreadId, outcome: Result<&str, &str>) {
        let refusal = outcome.err().map(Refusal::of);
        let thread = self.threads.get_mut(id);
        match (refusal, thread) {
            (Some(_), _) if outcome.is_err_and(is_transient) => {
                self.set_timer(RETRY_AFTER_MS, Timer::ResumeGoal(id.clone()));
            }
            // It continues where the thread is loaded next.
            (Some(Refusal::Draining), Some(thread)) => {
                let server = thread.server;
                self.on_draining(server);
            }
            (refusal, Some(thread)) => {
                thread.goal.end_suspension();
                thread.busy_until = thread.busy_until.max(self.now + BUSY_AFTER_EVENT_MS);
                if refusal.is_some() {
                    self.out.push(Action::Report(Report::GoalLost { thread: id.to_string() }));
                }
            }
            (_, None) => {}
        }
        self.changes.goals_changed();
        self.on_thread_request_done(id);
    }

    /// Resumes a goal that is suspended again, unless its thread migrates or is about to.
    pub(in crate::hub) fn resume_goal_unless_migrating(&mut self, id: &ThreadId) {
        let Some(thread) = self.threads.get(id) else { return self.changes.goal_unloaded() };
        let is_to_move = self.migration.moves_threads_of(thread.server);
        if thread.state == ThreadState::Attached && !is_to_move {
            self.resume_goal(id);
        }
    }

    /// The response to `thread/goal/get`, with a suspended goal shown as active.
    pub(in crate::hub) fn hide_suspension(&self, thread: Option<&ThreadId>, text: &Text) -> Text {
        let suspended = thread
            .and_then(|thread| self.threads.get(thread))
            .is_some_and(|thread| thread.goal.is_suspended());
        let result = text::member(text, "result").filter(|_| suspended);
        let goal = result.and_then(|result| text::member(result.get(), "goal"));
        match goal.and_then(|goal| text::member(goal.get(), "status")) {
            Some(status) if status.get() == r#""paused""# => text::splice(text, status.get(), r#""active""#),
            _ => text.clone(),
        }
    }

    /// A thread was attached or loaded: takes over the suspension by the previous gateway. Returns whether there was
    /// one.
    pub(in crate::hub) fn adopt_suspended_goal(&mut self, id: &ThreadId) -> bool {
        let was_postponed = self.goals.postponed.remove(id) == Some(true);
        let is_found = self.goals.expected.suspended.remove(id) || was_postponed;
        if is_found && let Some(thread) = self.threads.get_mut(id) {
            // Whether the pause has arrived is unknown.
            thread.goal.suspend();
            match self.migration.moves_threads_of(thread.server) {
                true => self.suspend_goal(id),
                false => self.resume_goal(id),
            }
        }
        is_found
    }
}
