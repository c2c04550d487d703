//! Goals. An active goal starts turns without a client, so the gateway keeps its thread loaded. Its turns follow each
//! other without a pause, so it is suspended, that is, paused by the gateway, until its thread has migrated.
//!
//! Invariant: which goals are active and which are suspended outlives the gateway (`persist.rs`): otherwise a
//! suspended goal would stay paused for good. Failure: a goal whose thread cannot be loaded is postponed for
//! `GOAL_POSTPONED_MS`.

mod persist;
mod suspend;
pub(super) mod thread_goal;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::value::RawValue;

use crate::host::PersistedGoals;
use crate::hub::event::{Action, Report, ThreadId};
use crate::hub::threads::state::ThreadState;
use crate::hub::threads::thread::{Audience, Thread};
use crate::hub::{Hub, Timer, text};
use crate::limits::GOAL_POSTPONED_MS;

/// The goals that are active, and what clients have requested of them.
#[derive(Debug, Default)]
pub struct Goals {
    /// Goals that are expected to be active or suspended in threads that have not reported it: the previous gateway
    /// stored them, or a client's request was accepted.
    expected: ActiveGoals,
    /// Unanswered requests of clients that change a goal.
    requests: BTreeMap<u64, (ThreadId, GoalIntent)>,
    /// Goals that a client's unanswered request changes and that were suspended before.
    overridden: BTreeMap<ThreadId, OverriddenSuspension>,
    /// Goals whose threads are loaded later, and whether they are suspended.
    postponed: BTreeMap<ThreadId, bool>,
    /// As persisted last.
    persisted: ActiveGoals,
    /// Whether that is on disk, and which requests wait for it.
    queue: persist::PersistQueue,
}

/// The threads with active goals and with suspended goals.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct ActiveGoals {
    active: BTreeSet<ThreadId>,
    suspended: BTreeSet<ThreadId>,
}

/// Requests of clients about a goal that was suspended.
#[derive(Debug, Default)]
struct OverriddenSuspension {
    /// Ids of the requests.
    requests: BTreeSet<u64>,
    /// The last request activates it.
    activates: bool,
}

/// What a request makes of a goal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::hub) enum GoalIntent {
    /// It activates the goal.
    Active,
    /// It pauses or ends the goal.
    Inactive,
}

/// The outcome of such a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::hub) enum RequestFate {
    /// The app-server accepted it.
    Accepted,
    /// The app-server refused it.
    Refused,
    /// Its outcome is unknown.
    Unknown,
    /// It was refused unseen and is queued again.
    Requeued,
}

impl Goals {
    pub fn restore(&mut self, stored: &PersistedGoals) {
        let named = |threads: &[String]| threads.iter().map(|id| ThreadId::from(id.as_str())).collect();
        self.expected = ActiveGoals { active: named(&stored.active), suspended: named(&stored.suspended) };
        self.persisted = self.expected.clone();
    }

    /// Whether a thread is to stay loaded without viewers.
    pub fn has_work_in(&self, thread: &Thread) -> bool {
        let ActiveGoals { active, suspended } = &self.expected;
        thread.goal.is_suspended()
            || thread.goal.is_running()
            || active.contains(&thread.id)
            || suspended.contains(&thread.id)
    }

    /// Whether an unanswered request changes a goal.
    pub fn changes_goal(&self, request: u64) -> bool {
        self.requests.contains_key(&request)
    }

    /// Upstream has reported the goal of a thread, or the thread does not exist: earlier expectations are void.
    pub fn confirm(&mut self, id: &str) {
        self.expected.active.remove(id);
        self.postponed.retain(|postponed, suspended| **postponed != *id || *suspended);
    }
}

impl ActiveGoals {
    fn to_persist(&self) -> PersistedGoals {
        let named = |threads: &BTreeSet<ThreadId>| threads.iter().map(ToString::to_string).collect();
        PersistedGoals { active: named(&self.active), suspended: named(&self.suspended) }
    }
}

impl Hub {
    /// Persists which goals are active and suspended, if that has changed.
    pub(in crate::hub) fn persist_goals(&mut self) {
        let overridden =
            self.goals.overridden.iter().filter(|(_, overridden)| overridden.activates).map(|(id, _)| id);
        let mut now = self.goals.expected.clone();
        for (id, suspended) in &self.goals.postponed {
            now.active.insert(id.clone());
            now.suspended.extend(suspended.then(|| id.clone()));
        }
        now.suspended.extend(overridden.cloned());
        let requests = self.goals.requests.values().filter(|(_, intent)| *intent == GoalIntent::Active);
        now.active.extend(requests.map(|(id, _)| id.clone()));
        for thread in self.threads.values() {
            if thread.goal.is_suspended() {
                now.suspended.insert(thread.id.clone());
            }
            // A sub-agent's goal continues with its parent's, and an ephemeral thread cannot be loaded again.
            if thread.goal.is_running() && !thread.is_child && !thread.is_ephemeral() {
                now.active.insert(thread.id.clone());
            }
        }
        if now == self.goals.persisted {
            return self.keep_stored_goals();
        }
        self.store_goals(now.to_persist());
        self.goals.persisted = now;
    }

    /// A client's request changes a goal: it takes precedence over a suspension.
    pub(in crate::hub) fn on_goal_request(&mut self, id: &ThreadId, request: u64, intent: GoalIntent) {
        let thread = self.threads.get_mut(id);
        let was_suspended = thread.is_some_and(|thread| thread.goal.end_suspension());
        if self.goals.expected.suspended.remove(id) || was_suspended || self.goals.overridden.contains_key(id)
        {
            let overridden = self.goals.overridden.entry(id.clone()).or_default();
            overridden.requests.insert(request);
            overridden.activates = intent == GoalIntent::Active;
        }
        self.goals.requests.insert(request, (id.clone(), intent));
        self.changes.goals_changed();
    }

    /// A client's request that changes a goal is no longer pending. Returns whether the goal is suspended again: the
    /// request was refused, or would have activated it.
    pub(in crate::hub) fn on_goal_request_done(
        &mut self,
        id: &ThreadId,
        request: u64,
        fate: RequestFate,
    ) -> bool {
        if let Some((_, intent)) = self.goals.requests.remove(&request) {
            self.apply_goal_intent(id, intent, fate);
        }
        let Some(overridden) = self.goals.overridden.get_mut(id) else { return false };
        if !overridden.requests.remove(&request)
            || (!overridden.requests.is_empty() && fate != RequestFate::Accepted)
        {
            return false;
        }
        let is_suspended_again = match fate {
            RequestFate::Accepted => false,
            RequestFate::Refused => true,
            RequestFate::Unknown | RequestFate::Requeued => overridden.activates,
        };
        self.goals.overridden.remove(id);
        if is_suspended_again {
            match self.threads.get_mut(id) {
                Some(thread) => thread.goal.suspend(),
                None => _ = self.goals.expected.suspended.insert(id.clone()),
            }
        }
        self.changes.goals_changed();
        is_suspended_again
    }

    /// A client's request was accepted, or may have been: its effect counts before the app-server reports it.
    fn apply_goal_intent(&mut self, id: &ThreadId, intent: GoalIntent, fate: RequestFate) {
        let thread = self.threads.get_mut(id);
        let is_reported = thread.as_ref().is_some_and(|thread| thread.goal.is_active());
        if fate == RequestFate::Accepted
            && let Some(thread) = thread
        {
            thread.goal.set_pausing(intent == GoalIntent::Inactive && is_reported);
        }
        if matches!(fate, RequestFate::Accepted | RequestFate::Unknown)
            && intent == GoalIntent::Active
            && !is_reported
        {
            self.goals.expected.active.insert(id.clone());
        }
        self.changes.goals_changed();
    }

    /// Postpones loading a thread for its goal. A client that resumes the thread does not wait for that.
    pub(in crate::hub) fn postpone_goal(&mut self, id: &ThreadId) {
        let is_suspended = self.threads.get(id).is_some_and(|thread| thread.goal.is_suspended());
        let is_suspended = self.goals.expected.suspended.remove(id) || is_suspended;
        self.close_thread(id);
        self.goals.postponed.insert(id.clone(), is_suspended);
        self.changes.goals_changed();
        self.set_timer(GOAL_POSTPONED_MS, Timer::LoadPostponedGoals);
        self.out.push(Action::Report(Report::GoalPostponed { thread: id.to_string() }));
    }

    pub(in crate::hub) fn load_postponed_goals(&mut self) {
        for (id, is_suspended) in std::mem::take(&mut self.goals.postponed) {
            self.goals.expected.suspended.extend(is_suspended.then(|| id.clone()));
            self.goals.expected.active.insert(id);
        }
        self.changes.goal_unloaded();
    }

    /// Forgets a thread. Clients that know it receive `thread/closed`.
    pub(in crate::hub) fn close_thread(&mut self, id: &ThreadId) {
        match self.threads.get(id).is_some_and(|thread| thread.is_background_load) {
            true => self.forget_thread(id),
            false => self.send_thread_closed(id),
        }
    }

    /// Loads the threads of active goals that no app-server has loaded.
    pub(in crate::hub) fn load_goals(&mut self) {
        let all_listed = self.servers.values().all(|server| server.is_listed || server.is_retired);
        let Some(server) = self.servers.serving_current().filter(|_| all_listed) else {
            return;
        };
        let ActiveGoals { active, suspended } = self.goals.expected.clone();
        let mut threads = Vec::new();
        for id in active.union(&suspended) {
            if !self.threads.contains_key(id) {
                let mut thread = Thread::new(id.clone(), server, Audience::Viewers(Vec::new()));
                thread.unwatched_since = Some(self.now);
                thread.state = ThreadState::Orphaned;
                thread.is_background_load = true;
                if self.goals.expected.suspended.remove(id) {
                    thread.goal.suspend();
                }
                self.threads.insert(thread);
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

/// What a request makes of a goal, if anything.
pub(in crate::hub) fn goal_intent(method: &str, request: &str) -> Option<GoalIntent> {
    match method {
        "thread/goal/clear" => Some(GoalIntent::Inactive),
        "thread/goal/set" => {
            let params = text::member(request, "params")?;
            // Without a status, or with null, the goal's status stays as it is.
            let status = text::member(params.get(), "status").filter(|status| status.get() != "null")?;
            Some(if status.get() == r#""active""# { GoalIntent::Active } else { GoalIntent::Inactive })
        }
        _ => None,
    }
}
