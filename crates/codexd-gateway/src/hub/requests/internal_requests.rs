//! Answers to what the gateway asked for itself.

use std::cmp::Reverse;
use std::collections::VecDeque;

use serde_json::value::RawValue;

use crate::hub::event::{BlockedOn, Connection, ServerId};
use crate::hub::requests::pending::{Asker, Errand};
use crate::hub::requests::refusal::{Refusal, is_passing};
use crate::hub::threads::thread::{Audience, Motion, Thread, ThreadId};
use crate::hub::{Hub, Timer, text};
use crate::limits::{AGAIN_AFTER_MS, HUSH_MS, MOVE_STUCK_MS, QUIET_MS, TAKE_OVERS_MAX};

impl Hub {
    pub(in crate::hub) fn errand_answered(
        &mut self,
        link: Connection,
        errand: Errand,
        outcome: Result<&RawValue, &RawValue>,
    ) {
        let result = outcome.ok().map(RawValue::get);
        let outcome = outcome.map(RawValue::get).map_err(RawValue::get);
        if let (
            Errand::Arrive(thread)
            | Errand::Return(thread)
            | Errand::Recover(thread)
            | Errand::TakeOver(thread),
            Some(result),
        ) = (&errand, result)
        {
            let is_found = matches!(errand, Errand::TakeOver(_));
            self.settings_came_back(thread, link.server(), is_found, result);
        }
        match errand {
            Errand::LoadedList(server) => self.listed(server, outcome),
            Errand::UnloadDelay => self.unload_delay_told(link.server(), outcome),
            Errand::Read(thread) => self.path_told(&thread, result),
            Errand::CheckQueue(thread) => self.check_list(&thread, outcome, BlockedOn::Queue),
            Errand::CheckTerminals(thread) => {
                self.check_list(&thread, outcome, BlockedOn::BackgroundTerminals);
            }
            Errand::CheckGoal(thread) => self.check_goal(&thread, outcome),
            Errand::PauseGoal(thread) => self.goal_paused(&thread, result.is_some()),
            Errand::LookAtGoal(thread) => self.held_goal_told(&thread, outcome),
            Errand::ResumeGoal(thread) => self.goal_resumed(&thread, outcome),
            Errand::Leave(thread) => self.left(&thread, result),
            Errand::Return(thread) => self.returned(&thread, outcome),
            Errand::CheckConfig(profile) => self.config_told(link.server(), &profile, outcome),
            Errand::Rehearse(profile) => self.rehearsed(link.server(), &profile, outcome),
            Errand::Arrive(thread) => self.arrived(&thread, outcome),
            Errand::Release(thread) => self.released(&thread, result),
            Errand::Recover(thread) => self.recovered(&thread, outcome),
            Errand::LastTurn(thread) => self.last_turn_told(&thread, outcome),
            Errand::Running(thread) => self.running_told(&thread, result),
            Errand::ProcessState(part) => self.process_state_read(link.server(), part, outcome),
            Errand::GiveEnvironments(thread) => self.environments_given(&thread, result.is_some()),
            Errand::TakeOver(thread) => self.taken_over(link.server(), &thread, outcome),
            Errand::Lineage { thread, of } => {
                if thread == of {
                    self.child_told(&thread, link.server(), result);
                }
                self.lineage_told(&thread, &of, outcome);
            }
            Errand::Forget => {}
        }
    }

    /// The link broke before an errand was answered.
    pub(in crate::hub) fn errand_lost(&mut self, errand: &Errand) {
        let Some(id) = errand.thread().cloned() else { return };
        if let Errand::Lineage { .. } = errand {
            // It is asked again where the thread is by then.
            return self.threads.get_mut(&id).into_iter().for_each(|thread| thread.lineage.answer_lost());
        }
        // Whoever lost it finds it again: it counts among those of the lost app-server.
        if let Some(thread) = self.threads.get_mut(&id).filter(|thread| thread.motion != Motion::Still) {
            thread.motion = Motion::Lost;
        }
        // Whether it was done is not known: what is held stays so until it is known to go on.
        if let Errand::LookAtGoal(_) | Errand::ResumeGoal(_) = errand {
            self.request_ended(&id);
        }
        self.moved_on();
    }

    pub(in crate::hub) fn ask_what_is_loaded(&mut self, server: ServerId) {
        if let Some(server) = self.servers.get_mut(&server) {
            server.listed = false;
        }
        self.ask_for_list(server);
    }

    fn ask_for_list(&mut self, server: ServerId) {
        let errand = Errand::LoadedList(server);
        self.errand(Connection::Shared(server), errand, "thread/loaded/list", &serde_json::json!({}));
    }

    /// What an app-server has loaded. What is not known here was there before this gateway, or belongs to a sub-agent.
    fn listed(&mut self, server: ServerId, outcome: Result<&str, &str>) {
        if let Err(error) = outcome
            && is_passing(error)
        {
            // Too much is asked of it; without its list nobody may let it go.
            return self.timer(AGAIN_AFTER_MS, Timer::List(server));
        }
        let data = outcome.ok().and_then(|result| text::member(result, "data"));
        let listed: Option<Vec<String>> = data.and_then(|data| serde_json::from_str(data.get()).ok());
        self.close_deserted(server, listed.as_deref());
        let mut ids = listed.unwrap_or_default();
        // The answer to what is being asked there about a thread tells as much.
        let is_asked_about = |id: &str| {
            self.under_way.contains_key(id)
                && self.calls.values().any(|call| match &call.asker {
                    Asker::Client { thread: Some(thread), .. } => {
                        **thread == *id && call.link.server() == server
                    }
                    _ => false,
                })
        };
        ids.retain(|id| !self.threads.contains_key(&**id) && !is_asked_about(id));
        ids.retain(|id| !self.is_rehearsal(server, id, "thread/loaded/list"));
        for id in ids {
            let id: ThreadId = id.as_str().into();
            let mut thread = Thread::new(id.clone(), server, Audience::Viewers(Vec::new()));
            thread.unwatched_since = Some(self.now);
            thread.motion = Motion::Finding;
            self.threads.insert(id.clone(), thread);
            self.finds.push_back(id);
        }
        if let Some(server) = self.servers.get_mut(&server) {
            server.listed = true;
        }
        self.take_over_next();
        self.load_goals();
        self.moved_on();
    }

    /// Threads that nobody can join end by themselves. That is told to everybody, but may have been said before it was heard:
    /// so the list is asked for again as long as there is one.
    fn close_deserted(&mut self, server: ServerId, loaded: Option<&[String]>) {
        let deserted =
            |thread: &&Thread| thread.deserted && thread.server == server && thread.motion == Motion::Still;
        let is_loaded = |id: &ThreadId| loaded.is_none_or(|all| all.iter().any(|loaded| **loaded == **id));
        let (still, mut gone): (Vec<ThreadId>, Vec<ThreadId>) =
            self.threads.values().filter(deserted).map(|thread| thread.id.clone()).partition(is_loaded);
        gone.sort_unstable();
        gone.iter().for_each(|id| self.tell_closed(id));
        if !still.is_empty() {
            self.list_again(server);
        }
    }

    fn list_again(&mut self, server: ServerId) {
        let again = Timer::ListDeserted(server);
        if self.timers.iter().all(|Reverse((_, timer))| *timer != again) {
            self.timer(MOVE_STUCK_MS, again);
        }
    }

    /// Asks whether those are still there that nobody can join. Nobody waits for it.
    pub(in crate::hub) fn look_for_deserted(&mut self, server: ServerId) {
        let some = self.threads.values().any(|thread| thread.deserted && thread.server == server);
        if some && self.is_up(server) {
            self.ask_for_list(server);
        }
    }

    /// Subscribes to what was found, a few at a time.
    fn take_over_next(&mut self) {
        let under_way = |call: &crate::hub::requests::pending::Call| {
            matches!(&call.asker, Asker::Gateway(Errand::TakeOver(_)))
        };
        let mut free = match self.finds.is_empty() {
            true => return,
            false => {
                TAKE_OVERS_MAX.saturating_sub(self.calls.values().filter(|call| under_way(call)).count())
            }
        };
        while free > 0
            && let Some(id) = self.finds.pop_front()
        {
            let found = self.threads.get(&id).filter(|thread| thread.motion == Motion::Finding);
            let Some(link) = found.map(Thread::link) else { continue };
            free -= 1;
            self.take_over(link, id);
        }
    }

    /// Subscribes first to what clients wait for, however many are being subscribed to.
    pub(in crate::hub) fn take_over_demanded(&mut self) {
        let is_demanded = |id: &ThreadId| {
            self.threads
                .get(id)
                .is_some_and(|thread| thread.motion == Motion::Finding && thread.demand.is_some())
        };
        let (demanded, others) = std::mem::take(&mut self.finds).into_iter().partition(is_demanded);
        self.finds = others;
        let demanded: VecDeque<ThreadId> = demanded;
        for id in demanded {
            let Some(link) = self.threads.get(&id).map(Thread::link) else { continue };
            self.take_over(link, id);
        }
    }

    fn take_over(&mut self, link: Connection, id: ThreadId) {
        let params = self.resume_params(&id);
        self.errand(link, Errand::TakeOver(id), "thread/resume", &params);
    }

    fn taken_over(&mut self, server: ServerId, id: &ThreadId, outcome: Result<&str, &str>) {
        let Some(thread) = self.threads.get_mut(id).filter(|thread| thread.motion == Motion::Finding) else {
            return self.take_over_next();
        };
        match outcome.map(|result| text::member(result, "thread")) {
            // It was closed before it was asked for.
            Err(_) if thread.is_unloaded() => {
                self.forget_thread(id);
                self.load_goals();
            }
            Err(error) if matches!(Refusal::of(error), Refusal::NotYet | Refusal::MayHeal) => {
                // As long as it is not known what runs there, it is not to be let go.
                let wait = thread.try_again_after(Refusal::of(error)).unwrap_or(MOVE_STUCK_MS);
                self.finds.push_back(id.clone());
                return self.timer(wait, Timer::Find);
            }
            Err(error) if Refusal::of(error) == Refusal::Draining => {
                // It ends by itself when its turns have ended: until then it is not to be told to again.
                thread.motion = Motion::Lost;
                self.drains(server);
            }
            Ok(Some(told)) => {
                thread.motion = Motion::Still;
                thread.demand = None;
                thread.quiet_at = thread.quiet_at.max(self.now + QUIET_MS);
                // Upstream tells everybody of the goal that it has, or has not: they did not ask.
                thread.hush_until = self.now + HUSH_MS;
                thread.tries = 0;
                thread.describe(told.get());
                // Who comes later is no subscriber of a sub-agent's, as upstream has it.
                if thread.is_child && !self.clients.is_empty() {
                    thread.audience = Audience::everyone();
                    thread.unwatched_since = None;
                }
                let (link, runs) = (thread.link(), thread.is_active());
                if runs {
                    let params = serde_json::json!({"threadId": &**id, "limit": 1, "sortDirection": "desc"});
                    self.errand(link, Errand::Running(id.clone()), "thread/turns/list", &params);
                }
                self.learn_lineage(id);
                self.find_held_goal(id);
                if !self.threads.get(id).is_some_and(Thread::is_watched) {
                    self.left_alone(id);
                }
                self.thread_stirred(id);
            }
            // Never written to disk, or ephemeral. Its turn runs all the same.
            Err(_) => {
                thread.motion = Motion::Still;
                thread.demand = None;
                (thread.ephemeral, thread.deserted) = (true, true);
                thread.blocked_on = BlockedOn::Ephemeral;
                thread.unwatched_since = None;
                self.learn_lineage(id);
                self.list_again(server);
            }
            Ok(None) => self.forget_thread(id),
        }
        self.take_over_next();
        self.moved_on();
    }

    /// The turn that runs in a thread that was found: its end has to be told even if its app-server is lost.
    fn running_told(&mut self, id: &ThreadId, result: Option<&str>) {
        let data = result.and_then(|result| text::member(result, "data"));
        let turns: Vec<Box<RawValue>> =
            data.and_then(|data| serde_json::from_str(data.get()).ok()).unwrap_or_default();
        let Some(thread) = self.threads.get_mut(id).filter(|thread| thread.is_active()) else { return };
        for turn in turns {
            let runs = text::string(turn.get(), "status").is_some_and(|status| status == "inProgress");
            if let Some(turn_id) = text::string(turn.get(), "id").filter(|_| runs) {
                thread.turn_began(&turn_id, turn.get());
            }
        }
    }

    pub(in crate::hub) fn find_more(&mut self) {
        self.take_over_next();
    }

    /// A thread that nobody watches was unloaded: everybody is told, as upstream would.
    pub(in crate::hub) fn unloaded(&mut self, id: &ThreadId) {
        self.tell_closed(id);
    }
}
