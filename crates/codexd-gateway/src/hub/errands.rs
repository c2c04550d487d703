//! Answers to what the gateway asked for itself.

use serde_json::value::RawValue;

use super::call::Errand;
use super::event::WaitsFor;
use super::event::{Link, ServerId};
use super::thread::{Audience, Motion, Thread, ThreadId};
use super::{Hub, text};

impl Hub {
    pub(super) fn errand_answered(&mut self, errand: Errand, outcome: Result<&RawValue, &RawValue>) {
        let result = outcome.ok().map(RawValue::get);
        let outcome = outcome.map(RawValue::get).map_err(RawValue::get);
        match errand {
            Errand::LoadedList(server) => self.listed(server, result),
            Errand::Read(thread) => self.path_told(&thread, result),
            Errand::CheckQueue(thread) => self.check_list(&thread, result, WaitsFor::Queue),
            Errand::CheckTerminals(thread) => self.check_list(&thread, result, WaitsFor::BackgroundTerminals),
            Errand::CheckGoal(thread) => {
                let goal = result.and_then(|result| text::member(result, "goal"));
                let status = goal.and_then(|goal| text::string(goal.get(), "status"));
                let active = status.is_some_and(|status| status == "active");
                self.checked(&thread, |check| check.goal_is_active |= active);
            }
            Errand::PauseGoal(thread) => self.goal_paused(&thread),
            Errand::ResumeGoal(thread) => self.goal_resumed(&thread),
            Errand::Leave(thread) => self.left(&thread, result),
            Errand::Return(thread) => self.returned(&thread, result.is_some()),
            Errand::Arrive(thread) => self.arrived(&thread, outcome),
            Errand::Release(thread) => self.released(&thread, result.is_some()),
            Errand::Recover(thread) => self.recovered(&thread, outcome),
            Errand::LastTurn(thread) => self.last_turn_told(&thread, result),
            Errand::TakeOver(thread) => self.taken_over(&thread, result),
            Errand::Forget => {}
        }
    }

    /// The link broke before an errand was answered.
    pub(super) fn errand_lost(&mut self, errand: &Errand) {
        if let Some(thread) = errand.thread().and_then(|thread| self.threads.get_mut(thread))
            && thread.motion != Motion::Still
        {
            // Whoever lost it finds it again: it counts among those of the lost app-server.
            thread.motion = Motion::Lost;
        }
        if let (Errand::LoadedList(server), Some(handover)) = (errand, &mut self.handover)
            && handover.from == *server
        {
            handover.listed = true;
        }
        if let Some(thread) = errand.thread().cloned() {
            self.moved_on(&thread);
        }
    }

    fn check_list(&mut self, thread: &ThreadId, result: Option<&str>, waits_for: WaitsFor) {
        let data = result.and_then(|result| text::member(result, "data"));
        let any = data.is_some_and(|data| {
            serde_json::from_str::<Vec<serde::de::IgnoredAny>>(data.get()).is_ok_and(|list| !list.is_empty())
        });
        self.checked(thread, |check| {
            if any {
                check.waits_for = Some(waits_for);
            }
        });
    }

    /// What an app-server has loaded. What is not known here was there before this gateway, or belongs to a sub-agent.
    fn listed(&mut self, server: ServerId, result: Option<&str>) {
        let data = result.and_then(|result| text::member(result, "data"));
        let ids: Vec<String> =
            data.and_then(|data| serde_json::from_str(data.get()).ok()).unwrap_or_default();
        if let Some(handover) = self.handover.as_mut().filter(|handover| handover.from == server) {
            handover.listed = true;
        }
        for id in ids {
            if self.threads.contains_key(&*id) {
                continue;
            }
            let id: ThreadId = id.as_str().into();
            let mut thread = Thread::new(id.clone(), server, Audience::Viewers(Vec::new()));
            thread.unwatched_since = Some(self.now);
            self.threads.insert(id.clone(), thread);
            let params = serde_json::json!({"threadId": &*id, "excludeTurns": true});
            self.errand(Link::Shared(server), Errand::TakeOver(id), "thread/resume", &params);
        }
        let waiting: Vec<ThreadId> = self.threads.keys().cloned().collect();
        if self.handover.is_some() {
            for thread in waiting {
                self.thread_stirred(&thread);
            }
        }
        self.see_whether_all_have_left();
    }

    fn taken_over(&mut self, id: &ThreadId, result: Option<&str>) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        match result.and_then(|result| text::member(result, "thread")) {
            Some(told) => thread.describe(told.get()),
            // It cannot be resumed by another: never written to disk, or ephemeral. Nobody watches it either.
            None => {
                if !thread.is_watched() {
                    self.threads.remove(id);
                }
                return;
            }
        }
        self.left_alone(id);
        self.thread_stirred(id);
    }

    /// A thread that nobody watches was unloaded: everybody is told, as upstream would.
    pub(super) fn unloaded(&mut self, id: &ThreadId) {
        self.tell_closed(id);
    }
}
