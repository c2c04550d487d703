//! Holding goals: the gateway pauses one until its thread has moved, and nobody else is to notice.

use serde_json::json;

use crate::hub::event::{Action, BlockedOn, Report, Text};
use crate::hub::goals::told_of_goal;
use crate::hub::requests::pending::{Asker, Call, Errand};
use crate::hub::requests::refusal::{Refusal, is_passing};
use crate::hub::threads::thread::{Motion, Thread, ThreadId};
use crate::hub::{Hub, Timer, text};
use crate::limits::{AGAIN_AFTER_MS, MOVE_STUCK_MS, QUIET_MS};

impl Hub {
    /// Keeps a goal from beginning turns. Its turn, if one runs, ends first; then the look is taken again.
    pub(in crate::hub) fn hold_goal(&mut self, id: &ThreadId) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        thread.goal_held = true;
        thread.blocked_on = BlockedOn::Turn;
        let link = thread.link();
        // First of all: from here on it would stay paused if this gateway were killed.
        self.keep_goals();
        let params = json!({"threadId": &**id, "status": "paused"});
        self.errand(link, Errand::PauseGoal(id.clone()), "thread/goal/set", &params);
    }

    /// The turns of an active goal follow each other without a pause: it is held while one of them runs.
    pub(in crate::hub) fn hold_goal_of_busy(&mut self, id: &ThreadId) {
        if self.would_hold_goal(id) {
            self.hold_goal(id);
        }
    }

    pub(in crate::hub) fn would_hold_goal(&self, id: &ThreadId) -> bool {
        self.threads.get(id).is_some_and(|thread| {
            let runs = !thread.turns.is_empty() && thread.motion == Motion::Still;
            runs && !thread.goal_held && thread.goal_is_active && !self.is_goal_in_question(thread)
        })
    }

    /// Something was said of a goal and is not answered or not told yet: to hold it now would override that.
    fn is_goal_in_question(&self, thread: &Thread) -> bool {
        let id = &thread.id;
        let resumes = |call: &Call| match &call.asker {
            Asker::Gateway(Errand::LookAtGoal(of) | Errand::ResumeGoal(of)) => of == id,
            _ => false,
        };
        thread.goal_rests
            || self.goals.asked.values().any(|(of, _)| of == id)
            || self.calls.values().any(resumes)
    }

    pub(in crate::hub) fn goal_paused(&mut self, id: &ThreadId, is_good: bool) {
        if is_good {
            self.timer(QUIET_MS, Timer::Quiet(id.clone()));
            return self.end_goal_again(id);
        }
        if let Some(thread) = self.threads.get_mut(id) {
            thread.goal_held = false;
            thread.blocked_on = BlockedOn::RetryLater;
        }
        self.keep_goals();
        self.look_again(id, MOVE_STUCK_MS);
    }

    /// The turn had ended its goal when the pause came there: it is not paused, but what it was.
    fn end_goal_again(&mut self, id: &ThreadId) {
        let Some(thread) = self.threads.get(id).filter(|thread| !thread.goal_held) else { return };
        if let Some(status) = thread.goal_status().filter(|status| !matches!(&**status, "active" | "paused"))
        {
            let (link, params) = (thread.link(), json!({"threadId": &**id, "status": status}));
            self.errand(link, Errand::Forget, "thread/goal/set", &params);
        }
    }

    /// A goal that was held goes on where the thread is now, if it still is what it was: its turn may have ended it, and
    /// whoever opened the thread behind no gateway may have.
    pub(in crate::hub) fn let_goal_go_on(&mut self, id: &ThreadId) {
        let Some(thread) = self.threads.get_mut(id).filter(|thread| thread.goal_held) else { return };
        let (link, params) = (thread.link(), json!({"threadId": &**id}));
        thread.quiet_at = thread.quiet_at.max(self.now + QUIET_MS);
        self.requests_of(id, 1);
        self.errand(link, Errand::LookAtGoal(id.clone()), "thread/goal/get", &params);
    }

    pub(in crate::hub) fn held_goal_told(&mut self, id: &ThreadId, outcome: Result<&str, &str>) {
        let Some(thread) = self.threads.get_mut(id).filter(|thread| thread.goal_held) else {
            // A client has said meanwhile what it is to be.
            return self.request_ended(id);
        };
        let goal = match outcome {
            Ok(result) => text::member(result, "goal"),
            Err(error) => return self.goal_resumed(id, Err(error)),
        };
        let status = goal.and_then(|goal| text::string(goal.get(), "status"));
        match (status.as_deref(), goal) {
            // Whether the pause has come there by now is not known.
            (Some("paused" | "active"), _) if !thread.interrupted => {
                let (link, params) = (thread.link(), json!({"threadId": &**id, "status": "active"}));
                self.errand(link, Errand::ResumeGoal(id.clone()), "thread/goal/set", &params);
            }
            // Its user has stopped the agent: that it is paused is not hidden any longer.
            (Some("paused"), Some(goal)) => {
                let params = told_of_goal(id, goal);
                let method = "thread/goal/updated";
                thread.goal_held = false;
                thread.learn_goal(&params);
                let text = text::notification(method, &params);
                self.tell_everyone(method, &text);
                self.keep_goals();
                self.request_ended(id);
            }
            _ => {
                thread.goal_held = false;
                self.keep_goals();
                self.request_ended(id);
            }
        }
    }

    /// Nothing is to leave any more: what was held for a move goes on.
    pub(in crate::hub) fn let_goals_go_on(&mut self) {
        let held = |thread: &&Thread| thread.goal_held && thread.motion == Motion::Still;
        let mut held: Vec<ThreadId> =
            self.threads.values().filter(held).map(|thread| thread.id.clone()).collect();
        held.sort_unstable();
        for id in held {
            self.let_goal_go_on(&id);
        }
    }

    pub(in crate::hub) fn goal_resumed(&mut self, id: &ThreadId, outcome: Result<&str, &str>) {
        let refusal = outcome.err().map(Refusal::of);
        let thread = self.threads.get_mut(id);
        match (refusal, thread) {
            (Some(_), _) if outcome.is_err_and(is_passing) => {
                self.timer(AGAIN_AFTER_MS, Timer::Goal(id.clone()));
            }
            // It goes on where the thread is loaded next.
            (Some(Refusal::Draining), Some(thread)) => {
                let server = thread.server;
                self.drains(server);
            }
            (refusal, Some(thread)) => {
                thread.goal_held = false;
                thread.quiet_at = thread.quiet_at.max(self.now + QUIET_MS);
                if refusal.is_some() {
                    self.out.push(Action::Report(Report::GoalLost { thread: id.to_string() }));
                }
            }
            (_, None) => {}
        }
        self.keep_goals();
        self.request_ended(id);
    }

    /// A goal that is held again goes on, unless its thread is on its way or about to be.
    pub(in crate::hub) fn let_goal_go_on_unless_it_moves(&mut self, id: &ThreadId) {
        let Some(thread) = self.threads.get(id) else { return self.load_goals() };
        let is_to_move = self.handover.as_ref().is_some_and(|handover| handover.to != thread.server);
        if thread.motion == Motion::Still && !is_to_move {
            self.let_goal_go_on(id);
        }
    }

    /// The answer to `thread/goal/get`: that a goal is held concerns nobody.
    pub(in crate::hub) fn goal_as_it_will_be(&self, thread: Option<&ThreadId>, text: &Text) -> Text {
        let held = thread.and_then(|thread| self.threads.get(thread)).is_some_and(|thread| thread.goal_held);
        let result = text::member(text, "result").filter(|_| held);
        let goal = result.and_then(|result| text::member(result.get(), "goal"));
        match goal.and_then(|goal| text::member(goal.get(), "status")) {
            Some(status) if status.get() == r#""paused""# => text::splice(text, status.get(), r#""active""#),
            _ => text.clone(),
        }
    }

    /// A thread was found whose goal the gateway before this one may have held. Answers whether it has.
    pub(in crate::hub) fn find_held_goal(&mut self, id: &ThreadId) -> bool {
        let was_postponed = self.goals.postponed.remove(id) == Some(true);
        let is_found = self.goals.unseen.held.remove(id) || was_postponed;
        if is_found && let Some(thread) = self.threads.get_mut(id) {
            // Whether it is paused by now is not known.
            thread.goal_held = true;
            match self.handover.as_ref().is_some_and(|handover| handover.to != thread.server) {
                true => self.hold_goal(id),
                false => self.let_goal_go_on(id),
            }
        }
        is_found
    }
}
