//! What goals come to, and what is promised of them.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::summary::summary;
use super::World;

/// A goal as app-servers tell it.
pub(super) fn goal(thread: &str, status: &str) -> Value {
    json!({
        "threadId": thread, "objective": "o", "status": status, "tokenBudget": null, "tokensUsed": 0,
        "timeUsedSeconds": 0, "createdAt": 1, "updatedAt": 1,
    })
}

impl World {
    /// The turn says that its goal is achieved.
    pub fn achieve(&mut self, thread: &str) {
        let Some(server) = self.runs_in(thread) else { return };
        if !matches!(self.goals.get(thread), Some(&"active" | &"paused")) {
            return;
        }
        self.show(thread);
        self.goals.insert(thread.to_owned(), "complete");
        self.wanted_goals.remove(thread);
        self.paused_goals.remove(thread);
        self.achieved_goals.insert(thread.to_owned());
        let goal = goal(thread, "complete");
        self.note(server, "thread/goal/updated", json!({"threadId": thread, "goal": goal}));
    }

    /// The last report may not have arrived: whether a paused goal had ended before is unknown.
    pub(super) fn goals_are_forgotten(&mut self) {
        let goals = &self.goals;
        self.achieved_goals.retain(|thread| goals.get(thread) == Some(&"complete"));
    }

    /// What clients want of goals holds, whatever became of gateways and servers.
    pub fn goals_are_as_wanted(&self) -> Result<(), TestCaseError> {
        for thread in &self.achieved_goals {
            // One that was paused at the very end of a gateway rests as well.
            let rests = self.goals.get(thread) != Some(&"active");
            prop_assert!(rests, "the goal of {thread} goes on although it was achieved");
        }
        for thread in &self.paused_goals {
            let rests = self.goals.get(thread) == Some(&"paused");
            prop_assert!(rests, "the goal of {thread} goes on although it was paused");
        }
        for thread in &self.wanted_goals {
            let is_active = self.goals.get(thread) == Some(&"active");
            prop_assert!(is_active, "the goal of {thread} stays held: {}", summary(&self.hub));
            let works = self.runs_in(thread).is_some();
            prop_assert!(works, "the goal of {thread} rests: {}", summary(&self.hub));
        }
        Ok(())
    }
}
