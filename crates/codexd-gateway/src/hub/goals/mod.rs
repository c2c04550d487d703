//! Goals at work: nobody has to be there for them to go on, so the gateway sees to it that their threads are loaded.
//!
//! The turns of an active goal follow each other without a pause, so it is held, that is, paused by the gateway, until its
//! thread has moved.
//!
//! Which ones are active and which are held outlives the gateway. A goal whose turn ends while no gateway is subscribed is
//! unloaded, and would rest until somebody opens its thread; one that is held would stay paused for ever.

mod persist;
mod suspend;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::value::RawValue;

use crate::host::PersistedGoals;
use crate::hub::event::{Action, Report};
use crate::hub::threads::thread::{Audience, Thread, ThreadId, ThreadState};
use crate::hub::{Hub, Timer, text};
use crate::limits::GOAL_POSTPONED_MS;

/// What is remembered of goals.
#[derive(Debug, Default)]
pub struct Goals {
    /// At work as far as was heard, in threads that do not say so yet: they were so behind the gateway before this one, or a
    /// client was promised it.
    unseen: ActiveGoals,
    /// What clients said of goals and is not answered yet.
    asked: BTreeMap<u64, (ThreadId, GoalIntent)>,
    /// Of which a client said something while they were held, and it is not answered yet.
    said: BTreeMap<ThreadId, Said>,
    /// Of which the threads are to be loaded later, and whether they are held.
    postponed: BTreeMap<ThreadId, bool>,
    /// As last kept.
    kept: ActiveGoals,
    /// Whether that is on disk, and what waits for it.
    storing: persist::PersistQueue,
}

/// The threads whose goals are at work.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct ActiveGoals {
    active: BTreeSet<ThreadId>,
    held: BTreeSet<ThreadId>,
}

/// What clients said of a goal that was held.
#[derive(Debug, Default)]
struct Said {
    /// The requests.
    calls: BTreeSet<u64>,
    /// The last of them wants it active.
    wants_it_active: bool,
}

/// What a request decides of a goal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::hub) enum GoalIntent {
    /// It is to be active.
    Active,
    /// It is to rest, or to end.
    Inactive,
}

/// What became of such a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::hub) enum RequestFate {
    /// It holds.
    Accepted,
    /// It was refused.
    Refused,
    /// Nobody knows.
    Unknown,
    /// It is sent again.
    Requeued,
}

impl Goals {
    pub fn restore(&mut self, kept: &PersistedGoals) {
        let named = |threads: &[String]| threads.iter().map(|id| ThreadId::from(id.as_str())).collect();
        self.unseen = ActiveGoals { active: named(&kept.active), held: named(&kept.held) };
        self.kept = self.unseen.clone();
    }

    /// Whether a thread is to be loaded although nobody watches it.
    pub fn has_work_in(&self, thread: &Thread) -> bool {
        let ActiveGoals { active, held } = &self.unseen;
        thread.goal_is_suspended
            || thread.goal_is_running()
            || active.contains(&thread.id)
            || held.contains(&thread.id)
    }

    /// Whether a client's request says what a goal is to be.
    pub fn changes_goal(&self, call: u64) -> bool {
        self.asked.contains_key(&call)
    }

    /// What its goal is has been told, or it is not to be found: whatever was heard before does not count any more.
    pub fn confirm(&mut self, id: &str) {
        self.unseen.active.remove(id);
        self.postponed.retain(|postponed, held| **postponed != *id || *held);
    }
}

impl ActiveGoals {
    fn kept(&self) -> PersistedGoals {
        let named = |threads: &BTreeSet<ThreadId>| threads.iter().map(ToString::to_string).collect();
        PersistedGoals { active: named(&self.active), held: named(&self.held) }
    }
}

impl Thread {
    /// What was told of its goal: the parameters of `thread/goal/updated` or of `thread/goal/cleared`.
    pub(in crate::hub) fn apply_goal(&mut self, params: &str) {
        self.goal = Some(params.into());
        self.goal_is_active = self.goal_status().is_some_and(|status| status == "active");
    }

    fn goal_status(&self) -> Option<Cow<'_, str>> {
        let goal = text::member(self.goal.as_deref()?, "goal")?;
        text::string(goal.get(), "status")
    }

    /// Whether its goal goes on by itself, as far as was told.
    fn goal_is_running(&self) -> bool {
        self.goal_is_active && !self.is_interrupted
    }
}

impl Hub {
    /// Has it remembered which goals are at work, if that has changed.
    pub(in crate::hub) fn persist_goals(&mut self) {
        let said = self.goals.said.iter().filter(|(_, said)| said.wants_it_active).map(|(id, _)| id);
        let mut now = self.goals.unseen.clone();
        for (id, held) in &self.goals.postponed {
            now.active.insert(id.clone());
            now.held.extend(held.then(|| id.clone()));
        }
        now.held.extend(said.cloned());
        let asked = self.goals.asked.values().filter(|(_, word)| *word == GoalIntent::Active);
        now.active.extend(asked.map(|(id, _)| id.clone()));
        for thread in self.threads.values() {
            if thread.goal_is_suspended {
                now.held.insert(thread.id.clone());
            }
            // That of a sub-agent goes on with its parent's, and nobody can load an ephemeral one again.
            if thread.goal_is_running() && !thread.is_child && !thread.is_ephemeral {
                now.active.insert(thread.id.clone());
            }
        }
        if now == self.goals.kept {
            return self.keep_stored_goals();
        }
        self.store_goals(now.kept());
        self.goals.kept = now;
    }

    /// What a client says of a goal holds, whatever the gateway was about to do with it.
    pub(in crate::hub) fn on_goal_request(&mut self, id: &ThreadId, call: u64, word: GoalIntent) {
        let thread = self.threads.get_mut(id);
        let was_held = thread.is_some_and(|thread| std::mem::take(&mut thread.goal_is_suspended));
        if self.goals.unseen.held.remove(id) || was_held || self.goals.said.contains_key(id) {
            let said = self.goals.said.entry(id.clone()).or_default();
            said.calls.insert(call);
            said.wants_it_active = word == GoalIntent::Active;
        }
        self.goals.asked.insert(call, (id.clone(), word));
        self.changes.goals_changed();
    }

    /// What became of a client's request, if it was one about a goal that was held. Whether the goal is held again: since what was
    /// said was refused; or since it was to be active anyway.
    pub(in crate::hub) fn on_goal_request_done(
        &mut self,
        id: &ThreadId,
        call: u64,
        fate: RequestFate,
    ) -> bool {
        if let Some((_, word)) = self.goals.asked.remove(&call) {
            self.apply_goal_intent(id, word, fate);
        }
        let Some(said) = self.goals.said.get_mut(id) else { return false };
        if !said.calls.remove(&call) || (!said.calls.is_empty() && fate != RequestFate::Accepted) {
            return false;
        }
        let is_held_again = match fate {
            RequestFate::Accepted => false,
            RequestFate::Refused => true,
            RequestFate::Unknown | RequestFate::Requeued => said.wants_it_active,
        };
        self.goals.said.remove(id);
        if is_held_again {
            match self.threads.get_mut(id) {
                Some(thread) => thread.goal_is_suspended = true,
                None => _ = self.goals.unseen.held.insert(id.clone()),
            }
        }
        self.changes.goals_changed();
        is_held_again
    }

    /// The word of a client was taken, or may have been: it is known before the app-server tells it.
    fn apply_goal_intent(&mut self, id: &ThreadId, word: GoalIntent, fate: RequestFate) {
        let thread = self.threads.get_mut(id);
        let is_told = thread.as_ref().is_some_and(|thread| thread.goal_is_active);
        if fate == RequestFate::Accepted
            && let Some(thread) = thread
        {
            thread.goal_is_pausing = word == GoalIntent::Inactive && is_told;
        }
        if matches!(fate, RequestFate::Accepted | RequestFate::Unknown)
            && word == GoalIntent::Active
            && !is_told
        {
            self.goals.unseen.active.insert(id.clone());
        }
        self.changes.goals_changed();
    }

    /// A thread is not loaded again for its goal's sake for a while: whoever opens it is not to wait for that.
    pub(in crate::hub) fn postpone_goal(&mut self, id: &ThreadId) {
        let is_held = self.threads.get(id).is_some_and(|thread| thread.goal_is_suspended);
        let is_held = self.goals.unseen.held.remove(id) || is_held;
        self.close_thread(id);
        self.goals.postponed.insert(id.clone(), is_held);
        self.changes.goals_changed();
        self.set_timer(GOAL_POSTPONED_MS, Timer::LoadPostponedGoals);
        self.out.push(Action::Report(Report::GoalPostponed { thread: id.to_string() }));
    }

    pub(in crate::hub) fn load_postponed_goals(&mut self) {
        for (id, is_held) in std::mem::take(&mut self.goals.postponed) {
            self.goals.unseen.held.extend(is_held.then(|| id.clone()));
            self.goals.unseen.active.insert(id);
        }
        self.changes.goal_unloaded();
    }

    /// Forgets a thread; whoever knew of it is told that it is not loaded.
    pub(in crate::hub) fn close_thread(&mut self, id: &ThreadId) {
        match self.threads.get(id).is_some_and(|thread| thread.is_background_load) {
            true => self.forget_thread(id),
            false => self.send_thread_closed(id),
        }
    }

    /// No app-server has the threads of these goals any more: they are loaded, so that they go on.
    pub(in crate::hub) fn load_goals(&mut self) {
        let all_listed = self.servers.values().all(|server| server.is_listed || server.is_retired);
        let Some(server) = self.serving.filter(|server| self.current == Some(*server) && all_listed) else {
            return;
        };
        let ActiveGoals { active, held } = self.goals.unseen.clone();
        let mut threads = Vec::new();
        for id in active.union(&held) {
            if !self.threads.contains_key(id) {
                let mut thread = Thread::new(id.clone(), server, Audience::Viewers(Vec::new()));
                thread.unwatched_since = Some(self.now);
                thread.state = ThreadState::Orphaned;
                thread.is_background_load = true;
                thread.goal_is_suspended = self.goals.unseen.held.remove(id);
                self.threads.insert(id.clone(), thread);
                threads.push(id.to_string());
            }
        }
        if !threads.is_empty() {
            self.out.push(Action::Report(Report::GoalsToLoad { server, threads }));
        }
        self.changes.loads_changed();
    }
}

/// The parameters of `thread/goal/updated`.
pub(in crate::hub) fn goal_notification_params(id: &ThreadId, goal: &RawValue) -> String {
    format!(r#"{{"threadId":{},"goal":{}}}"#, serde_json::Value::from(&**id), goal.get())
}

/// What a request decides of a goal, if anything.
pub(in crate::hub) fn goal_intent(method: &str, request: &str) -> Option<GoalIntent> {
    match method {
        "thread/goal/clear" => Some(GoalIntent::Inactive),
        "thread/goal/set" => {
            let params = text::member(request, "params")?;
            // One that is not named, or null, stays what it is.
            let status = text::member(params.get(), "status").filter(|status| status.get() != "null")?;
            Some(if status.get() == r#""active""# { GoalIntent::Active } else { GoalIntent::Inactive })
        }
        _ => None,
    }
}
