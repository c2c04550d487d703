//! Goals at work: nobody has to be there for them to go on, so the gateway sees to it that their threads are loaded.
//!
//! The turns of an active goal follow each other without a pause, so it is held, that is, paused by the gateway, until its
//! thread has moved.
//!
//! Which ones are active and which are held outlives the gateway. A goal whose turn ends while no gateway is subscribed is
//! unloaded, and would rest until somebody opens its thread; one that is held would stay paused for ever.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::call::{Asker, Call, Errand};
use super::event::{Action, Report, Text, WaitsFor};
use super::moving::Refusal;
use super::thread::{Audience, Motion, Thread, ThreadId};
use super::{Hub, Timer, text};
use crate::host::KeptGoals;
use crate::limits::{AGAIN_AFTER_MS, MOVE_STUCK_MS, QUIET_MS};

/// What is remembered of goals.
#[derive(Debug, Default)]
pub struct Goals {
    /// At work as far as was heard, in threads that do not say so yet: they were so behind the gateway before this one, or a
    /// client was promised it.
    unseen: AtWork,
    /// What clients said of goals and is not answered yet.
    asked: BTreeMap<u64, (ThreadId, Word)>,
    /// Of which a client said something while they were held, and it is not answered yet.
    said: BTreeMap<ThreadId, Said>,
    /// As last kept.
    kept: AtWork,
}

/// The threads whose goals are at work.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct AtWork {
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
pub(super) enum Word {
    /// It is to be active.
    Active,
    /// It is to rest, or to end.
    Else,
}

/// What became of such a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fate {
    /// It holds.
    Taken,
    /// It was refused.
    Refused,
    /// Nobody knows, or it is sent again.
    Open,
}

impl Goals {
    pub fn kept_before(&mut self, kept: &KeptGoals) {
        let named = |threads: &[String]| threads.iter().map(|id| ThreadId::from(id.as_str())).collect();
        self.unseen = AtWork { active: named(&kept.active), held: named(&kept.held) };
        self.kept = self.unseen.clone();
    }

    /// Whether a thread is to be loaded although nobody watches it.
    pub fn are_at_work_in(&self, thread: &Thread) -> bool {
        let AtWork { active, held } = &self.unseen;
        thread.goal_held
            || thread.has_active_goal()
            || active.contains(&thread.id)
            || held.contains(&thread.id)
    }

    /// What its goal is has been told, or it is not to be found: whatever was heard before does not count any more.
    pub fn is_seen(&mut self, id: &str) {
        self.unseen.active.remove(id);
    }
}

impl AtWork {
    fn kept(&self) -> KeptGoals {
        let named = |threads: &BTreeSet<ThreadId>| threads.iter().map(ToString::to_string).collect();
        KeptGoals { active: named(&self.active), held: named(&self.held) }
    }
}

impl Thread {
    /// Whether its goal goes on by itself, as far as was told.
    pub(super) fn has_active_goal(&self) -> bool {
        let goal = self.goal.as_deref().and_then(|told| text::member(told, "goal"));
        goal.and_then(|goal| text::string(goal.get(), "status")).is_some_and(|status| status == "active")
    }
}

impl Hub {
    /// Keeps a goal from beginning turns. Its turn, if one runs, ends first; then the look is taken again.
    pub(super) fn hold_goal(&mut self, id: &ThreadId) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        thread.goal_held = true;
        thread.waits_for = WaitsFor::Turn;
        let link = thread.link();
        // First of all: from here on it would stay paused if this gateway were killed.
        self.keep_goals();
        let params = json!({"threadId": &**id, "status": "paused"});
        self.errand(link, Errand::PauseGoal(id.clone()), "thread/goal/set", &params);
    }

    /// The turns of an active goal follow each other without a pause: it is held while one of them runs.
    pub(super) fn hold_goal_of_busy(&mut self, id: &ThreadId) {
        let Some(thread) = self.threads.get(id) else { return };
        let runs = !thread.turns.is_empty() && thread.motion == Motion::Still;
        if runs && !thread.goal_held && thread.has_active_goal() && !self.is_goal_in_question(thread) {
            self.hold_goal(id);
        }
    }

    /// Something was said of a goal and is not answered or not told yet: to hold it now would override that.
    fn is_goal_in_question(&self, thread: &Thread) -> bool {
        let id = &thread.id;
        let resumes = |call: &Call| matches!(&call.asker, Asker::Gateway(Errand::ResumeGoal(of)) if of == id);
        thread.goal_rests
            || self.goals.asked.values().any(|(of, _)| of == id)
            || self.calls.values().any(resumes)
    }

    pub(super) fn goal_paused(&mut self, id: &ThreadId, is_good: bool) {
        if is_good {
            return self.timer(QUIET_MS, Timer::Quiet(id.clone()));
        }
        if let Some(thread) = self.threads.get_mut(id) {
            thread.goal_held = false;
            thread.waits_for = WaitsFor::Trouble;
        }
        self.keep_goals();
        self.look_again(id, MOVE_STUCK_MS);
    }

    /// A goal that was held goes on where the thread is now.
    pub(super) fn let_goal_go_on(&mut self, id: &ThreadId) {
        let Some(thread) = self.threads.get_mut(id).filter(|thread| thread.goal_held) else { return };
        let (link, params) = (thread.link(), json!({"threadId": &**id, "status": "active"}));
        thread.quiet_at = self.now + QUIET_MS;
        self.requests_of(id, 1);
        self.errand(link, Errand::ResumeGoal(id.clone()), "thread/goal/set", &params);
    }

    /// Nothing is to leave any more: what was held for a move goes on.
    pub(super) fn let_goals_go_on(&mut self) {
        let held = |thread: &&Thread| thread.goal_held && thread.motion == Motion::Still;
        let mut held: Vec<ThreadId> =
            self.threads.values().filter(held).map(|thread| thread.id.clone()).collect();
        held.sort_unstable();
        for id in held {
            self.let_goal_go_on(&id);
        }
    }

    pub(super) fn goal_resumed(&mut self, id: &ThreadId, outcome: Result<&str, &str>) {
        let quiet_at = self.now + QUIET_MS;
        let not_yet = outcome.is_err_and(|error| Refusal::of(error) == Refusal::NotYet);
        if not_yet {
            self.timer(AGAIN_AFTER_MS, Timer::Goal(id.clone()));
        } else if let Some(thread) = self.threads.get_mut(id) {
            thread.goal_held = false;
            thread.quiet_at = quiet_at;
        }
        self.keep_goals();
        self.request_ended(id);
    }

    /// Has it remembered which goals are at work, if that has changed.
    pub(super) fn keep_goals(&mut self) {
        let said = self.goals.said.iter().filter(|(_, said)| said.wants_it_active).map(|(id, _)| id);
        let mut now = self.goals.unseen.clone();
        now.held.extend(said.cloned());
        let asked = self.goals.asked.values().filter(|(_, word)| *word == Word::Active);
        now.active.extend(asked.map(|(id, _)| id.clone()));
        for thread in self.threads.values() {
            if thread.goal_held {
                now.held.insert(thread.id.clone());
            }
            // That of a sub-agent goes on with its parent's, and nobody can load an ephemeral one again.
            if thread.has_active_goal() && !thread.is_child && !thread.ephemeral {
                now.active.insert(thread.id.clone());
            }
        }
        if now != self.goals.kept {
            self.out.push(Action::KeepGoals(now.kept()));
            self.goals.kept = now;
        }
    }

    /// What a client says of a goal holds, whatever the gateway was about to do with it.
    pub(super) fn goal_said(&mut self, id: &ThreadId, call: u64, word: Word) {
        let thread = self.threads.get_mut(id);
        let was_held = thread.is_some_and(|thread| std::mem::take(&mut thread.goal_held));
        if self.goals.unseen.held.remove(id) || was_held || self.goals.said.contains_key(id) {
            let said = self.goals.said.entry(id.clone()).or_default();
            said.calls.insert(call);
            said.wants_it_active = word == Word::Active;
        }
        self.goals.asked.insert(call, (id.clone(), word));
        self.keep_goals();
    }

    /// What became of a client's request, if it was one about a goal that was held. Whether the goal is held again: since what was
    /// said was refused; or since it was to be active anyway.
    pub(super) fn goal_answered(&mut self, id: &ThreadId, call: u64, fate: Fate) -> bool {
        if let Some((_, word)) = self.goals.asked.remove(&call) {
            self.goal_decided(id, word, fate);
        }
        let Some(said) = self.goals.said.get_mut(id) else { return false };
        if !said.calls.remove(&call) || (!said.calls.is_empty() && fate != Fate::Taken) {
            return false;
        }
        let is_held_again = match fate {
            Fate::Taken => false,
            Fate::Refused => true,
            Fate::Open => said.wants_it_active,
        };
        self.goals.said.remove(id);
        if is_held_again {
            match self.threads.get_mut(id) {
                Some(thread) => thread.goal_held = true,
                None => _ = self.goals.unseen.held.insert(id.clone()),
            }
        }
        self.keep_goals();
        is_held_again
    }

    /// The word of a client was taken, or may have been: it is known before the app-server tells it.
    fn goal_decided(&mut self, id: &ThreadId, word: Word, fate: Fate) {
        let thread = self.threads.get_mut(id);
        let is_told = thread.as_ref().is_some_and(|thread| thread.has_active_goal());
        if fate == Fate::Taken
            && let Some(thread) = thread
        {
            thread.goal_rests = word == Word::Else && is_told;
        }
        if fate != Fate::Refused && word == Word::Active && !is_told {
            self.goals.unseen.active.insert(id.clone());
        }
        self.keep_goals();
    }

    /// A goal that is held again goes on, unless its thread is on its way or about to be.
    pub(super) fn let_goal_go_on_unless_it_moves(&mut self, id: &ThreadId) {
        let Some(thread) = self.threads.get(id) else { return self.load_goals() };
        let is_to_move = self.handover.as_ref().is_some_and(|handover| handover.to != thread.server);
        if thread.motion == Motion::Still && !is_to_move {
            self.let_goal_go_on(id);
        }
    }

    /// The answer to `thread/goal/get`: that a goal is held concerns nobody.
    pub(super) fn goal_as_it_will_be(&self, thread: Option<&ThreadId>, text: &Text) -> Text {
        let held = thread.and_then(|thread| self.threads.get(thread)).is_some_and(|thread| thread.goal_held);
        let result = text::member(text, "result").filter(|_| held);
        let goal = result.and_then(|result| text::member(result.get(), "goal"));
        match goal.and_then(|goal| text::member(goal.get(), "status")) {
            Some(status) if status.get() == r#""paused""# => text::splice(text, status.get(), r#""active""#),
            _ => text.clone(),
        }
    }

    /// A thread was found whose goal the gateway before this one may have held. Answers whether it has.
    pub(super) fn find_held_goal(&mut self, id: &ThreadId) -> bool {
        let is_found = self.goals.unseen.held.remove(id);
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

    /// No app-server has the threads of these goals any more: they are loaded, so that they go on.
    pub(super) fn load_goals(&mut self) {
        let all_listed = self.servers.values().all(|server| server.listed || server.retired);
        let Some(server) = self.serving.filter(|server| self.current == Some(*server) && all_listed) else {
            return;
        };
        let AtWork { active, held } = self.goals.unseen.clone();
        let mut threads = Vec::new();
        for id in active.union(&held) {
            if !self.threads.contains_key(id) {
                let mut thread = Thread::new(id.clone(), server, Audience::Viewers(Vec::new()));
                thread.unwatched_since = Some(self.now);
                thread.motion = Motion::Lost;
                thread.goal_held = self.goals.unseen.held.remove(id);
                self.threads.insert(id.clone(), thread);
                threads.push(id.to_string());
            }
        }
        if !threads.is_empty() {
            self.out.push(Action::Report(Report::GoalsLoaded { server, threads }));
        }
        self.recover_lost();
    }
}

/// What a request decides of a goal, if anything.
pub(super) fn word_of_goal(method: &str, request: &str) -> Option<Word> {
    match method {
        "thread/goal/clear" => Some(Word::Else),
        "thread/goal/set" => {
            let params = text::member(request, "params")?;
            let status = text::member(params.get(), "status")?;
            Some(if status.get() == r#""active""# { Word::Active } else { Word::Else })
        }
        _ => None,
    }
}
