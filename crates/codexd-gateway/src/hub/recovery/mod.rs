//! An app-server is gone: what it owed is answered, and its threads are loaded in its successor.
//!
//! A graceful end often loses the last words of a turn on the wire (0.169.0 delivered `turn/completed` in 1 of 12 drains)
//! while the turn is whole on disk. So the truth is read first, then told.

mod reconciliation;
mod refused_threads;

use serde_json::{Value, json};

use crate::hub::clients::client::Stage;
use crate::hub::requests::pending::{Asker, Call, Errand, Kind};
pub use refused_threads::Refusals;

use crate::hub::event::{Action, Connection, Now, Report, ServerId, Text};
use crate::hub::goals::Fate;
use crate::hub::requests::fair_queue::SERVER_ERROR;
use crate::hub::requests::refusal::{Refusal, is_passing};
use crate::hub::text;
use crate::hub::threads::thread::{Motion, ThreadId, Turn};
use crate::hub::upstream::servers::LinkState;
use crate::hub::{Hub, Timer};
use crate::limits::{
    AGAIN_AFTER_MS, EXPECTED_END_REPORTED_WITHIN_MS, GOAL_LOSSES_MAX, GOAL_STABLE_MS, HUSH_MS, QUIET_MS,
};

/// A loss that is being made good.
#[derive(Debug)]
pub struct Loss {
    since: Now,
    recovered: usize,
    completed: usize,
    interrupted: usize,
}

/// An app-server whose end is not reported yet: the supervisor may still report that the end was requested.
#[derive(Clone, Copy, Debug)]
pub struct EndedServer {
    server: ServerId,
    threads: usize,
    requests: usize,
}

impl EndedServer {
    fn report(self, was_expected: bool) -> Action {
        let Self { server, threads, requests } = self;
        Action::Report(Report::ServerLost { server, threads, requests, was_expected })
    }
}

impl Hub {
    /// Reports the ends that are known to have been requested.
    pub(super) fn report_expected_ends(&mut self) {
        let servers = &self.servers;
        let was_expected =
            |id: &ServerId| servers.get(id).is_some_and(|server| server.draining || server.outgoing);
        for ended in self.ended_servers.extract_if(.., |ended| was_expected(&ended.server)) {
            self.out.push(ended.report(true));
        }
    }

    /// Reports an end as a loss: the app-server is gone from the supervisor's list, or the supervisor had time to report a request.
    pub(super) fn report_losses(&mut self, server: ServerId) {
        self.report_expected_ends();
        for ended in self.ended_servers.extract_if(.., |ended| ended.server == server) {
            self.out.push(ended.report(false));
        }
    }

    pub(super) fn link_lost(&mut self, link: Connection) {
        self.forget_asks(link);
        self.full_links.remove(&link);
        self.forget_unsent(link);
        // First of all nothing more is to be sent there.
        let was_up = match link {
            Connection::Shared(server) => {
                let known = self.servers.get_mut(&server);
                known.is_some_and(|server| std::mem::take(&mut server.shared) == LinkState::Up)
            }
            Connection::Dedicated(..) => false,
        };
        match link {
            Connection::Dedicated(id, server) => self.own_lost(id, server),
            Connection::Shared(server) if was_up => {
                self.serving = self.serving.filter(|serving| *serving != server);
                self.handover_broke(server);
                let of_it = self.threads.values_mut().filter(|thread| thread.server == server);
                of_it.for_each(crate::hub::threads::thread::Thread::lose);
                self.forget_origin(server);
            }
            Connection::Shared(_) => {}
        }
        let owed = self.answer_what_is_owed(link);
        match link {
            Connection::Shared(server) => self.shared_lost(server, was_up, owed),
            Connection::Dedicated(id, _) => self.close_drained(id),
        }
        self.see_whether_all_have_left();
        self.pump();
    }

    /// Whoever waits for an answer over a link is told that there will be none: nobody knows how far the request came.
    fn answer_what_is_owed(&mut self, link: Connection) -> usize {
        let mut ids: Vec<u64> =
            self.calls.iter().filter(|(_, call)| call.link == link).map(|(&id, _)| id).collect();
        ids.sort_unstable();
        let mut owed = 0;
        for number in ids {
            let Some(Call { asker, holds_slot, .. }) = self.calls.remove(&number) else { continue };
            match asker {
                Asker::Gateway(errand) => self.errand_lost(&errand),
                Asker::Client { client, id, thread, kind, text } => {
                    if holds_slot {
                        self.give_back_slot(client);
                    }
                    self.no_notice_follows(client, &text);
                    if kind == Kind::EventStream {
                        self.stream_ended(client, &text);
                    }
                    if let Some(thread) = thread {
                        self.goal_answered(&thread, number, Fate::Open);
                        self.request_ended(&thread);
                    }
                    if self.clients.contains_key(&client) {
                        owed += 1;
                        let message =
                            "the app-server ended before it answered; whether it acted is not known";
                        let data = json!({"reason": "appServerRestarted"});
                        self.tell(client, text::error(&id, SERVER_ERROR, message, Some(&data)));
                    }
                }
            }
        }
        owed
    }

    fn shared_lost(&mut self, id: ServerId, was_up: bool, requests: usize) {
        let Some(server) = self.servers.get_mut(&id) else { return };
        server.listed = false;
        // The process may live on: then its link is opened anew.
        let wait = server.backoff.lost(self.now);
        self.timer(wait, Timer::Reconnect);
        if !was_up {
            // It could not be opened: nothing was lost with it.
            return;
        }
        let threads = self.threads.values().filter(|thread| thread.server == id).count();
        self.ended_servers.push(EndedServer { server: id, threads, requests });
        self.timer(EXPECTED_END_REPORTED_WITHIN_MS, Timer::EndedServer(id));
        self.report_expected_ends();
        if threads > 0 && self.loss.is_none() {
            self.loss = Some(Loss { since: self.now, recovered: 0, completed: 0, interrupted: 0 });
        }
        // Another one serves already.
        let up = self.servers.iter().filter(|(_, server)| server.shared == LinkState::Up);
        self.serving = self.serving.or(up.map(|(&other, _)| other).max());
        self.recover_lost();
    }

    /// An app-server died that had these threads, perhaps of one of them: those that nobody watches wait a while.
    pub(super) fn postpone_what_is_lost_too_often(&mut self, server: ServerId) {
        let mut postponed = Vec::new();
        for thread in self.threads.values_mut().filter(|thread| thread.server == server) {
            if self.goals.are_at_work_in(thread) && thread.is_lost_too_often(self.now) {
                postponed.push(thread.id.clone());
            }
        }
        postponed.sort_unstable();
        postponed.iter().for_each(|thread| self.postpone_goal(thread));
    }

    /// Opens what broke and is needed.
    pub(super) fn reconnect(&mut self) {
        self.connect_where_needed();
        let waits = |client: &&crate::hub::clients::client::Client| {
            client.lost_own
                || (client.dedicated.current().is_none()
                    && matches!(client.stage, Stage::Asked { asks_upstream: true, .. }))
        };
        let mut lost: Vec<_> = self.clients.values().filter(waits).map(|client| client.id).collect();
        lost.sort_unstable();
        for client in lost {
            self.open_own(client);
        }
    }

    pub(super) fn recover_thread(&mut self, id: &ThreadId, server: ServerId) {
        let hush_until = self.now + HUSH_MS;
        let Some(thread) = self.threads.get_mut(id).filter(|thread| thread.motion == Motion::Lost) else {
            return;
        };
        let moved = thread.server != server;
        thread.motion = Motion::Recovering;
        thread.server = server;
        if moved {
            thread.turns.iter_mut().for_each(|turn| turn.cut = true);
        }
        thread.joiner = None;
        thread.hush_until = hush_until;
        thread.deferred.clear();
        if moved || thread.ephemeral {
            thread.items.iter_mut().for_each(|item| item.orphaned = true);
        }
        if thread.ephemeral {
            return self.end_as_lost(id);
        }
        if moved && std::mem::take(&mut thread.realtime) {
            let params = json!({"threadId": &**id, "reason": "appServerRestarted"});
            let method = "thread/realtime/closed";
            self.tell_viewers(id, method, &text::notification(method, &params));
        }
        let params = self.resume_params(id);
        self.errand(Connection::Shared(server), Errand::Recover(id.clone()), "thread/resume", &params);
    }

    /// The successor has loaded a thread, or says why not.
    pub(super) fn recovered(&mut self, id: &ThreadId, outcome: Result<&str, &str>) {
        let Some(thread) = self.threads.get_mut(id).filter(|thread| thread.motion == Motion::Recovering)
        else {
            return;
        };
        match outcome {
            Ok(result) => {
                // What came before is older than this answer, the echoes come behind it.
                thread.deferred.clear();
                let was_refused = thread.refused.take().is_some();
                thread.hush_until = self.now + HUSH_MS;
                let told = text::member(result, "thread").map(|thread| thread.get().to_owned());
                let before = thread.status.clone();
                if let Some(told) = told {
                    thread.describe(&told);
                }
                // What was told last stands until the truth about the turn is known.
                let now = std::mem::replace(&mut thread.status, before);
                let (link, runs) = (thread.link(), !thread.turns.is_empty());
                if was_refused {
                    self.refusal_healed();
                }
                if !runs {
                    return self.at_home_again(id, &now, None);
                }
                if let Some(thread) = self.threads.get_mut(id) {
                    thread.status_now = Some(now);
                }
                self.ask_for_last_turns(link, id);
            }
            Err(error) => self.load_refused(id, error),
        }
    }

    fn not_recovered(&mut self, id: &ThreadId, refusal: Refusal) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        let server = thread.server;
        let wait = match refusal {
            Refusal::Gone => None,
            Refusal::NotYet | Refusal::MayHeal => thread.try_again_after(refusal),
            Refusal::Draining => Some(AGAIN_AFTER_MS),
        };
        // A client that has begun to wait meanwhile is to be answered.
        let wait = wait.map(|wait| if thread.demand.is_some() { wait.min(AGAIN_AFTER_MS) } else { wait });
        let Some(wait) = wait else {
            match refusal {
                Refusal::Gone => self.end_as_lost(id),
                _ => self.postpone_goal(id),
            }
            return self.recover_lost();
        };
        thread.motion = Motion::Lost;
        thread.again_at = self.now + wait;
        if refusal == Refusal::MayHeal {
            thread.ask_other_next();
        }
        if refusal == Refusal::Draining {
            self.drains(server);
        }
        self.timer(wait, Timer::Again(id.clone()));
        self.recover_lost();
    }

    /// How the turns that were running have ended, as it stands on disk.
    pub(super) fn last_turn_told(&mut self, id: &ThreadId, outcome: Result<&str, &str>) {
        let Some(thread) = self.threads.get_mut(id).filter(|thread| thread.motion == Motion::Recovering)
        else {
            return;
        };
        if let Err(error) = outcome
            && is_passing(error)
        {
            // Not the truth yet.
            return self.not_recovered(id, Refusal::NotYet);
        }
        let is_refused = thread.refused.is_some();
        let status = thread.status_now.take().unwrap_or_else(|| thread.status.clone());
        let listed: Option<Value> = outcome.ok().and_then(|result| serde_json::from_str(result).ok());
        match is_refused {
            true => self.end_turns_of_refused(id, listed.as_ref()),
            false => self.at_home_again(id, &status, listed.as_ref()),
        }
    }

    fn at_home_again(&mut self, id: &ThreadId, status: &str, listed: Option<&Value>) {
        let found = |turn: &Turn| listed.and_then(|listed| found_in(listed, turn));
        self.withdraw_asks(id, true);
        let Some(thread) = self.threads.get_mut(id) else { return };
        thread.motion = Motion::Still;
        thread.came_from = None;
        thread.loads_unasked = false;
        thread.demand = None;
        thread.loaded_at = Some(self.now);
        // An active goal goes on by itself.
        thread.quiet_at = thread.quiet_at.max(self.now + QUIET_MS);
        thread.tries = 0;
        let changed = *thread.status != *status;
        thread.status = status.into();
        let runs = thread.is_active();
        // The process may live and only the link have broken: then the turn goes on.
        let goes_on = |turn: &Turn| runs && found(turn).is_some_and(|found| found["status"] == "inProgress");
        let (going_on, lost): (Vec<Turn>, Vec<Turn>) =
            std::mem::take(&mut thread.turns).into_iter().partition(|turn| !turn.lost || goes_on(turn));
        thread.turns = going_on;
        for turn in &mut thread.turns {
            thread.items.iter_mut().filter(|item| item.turn == turn.id).for_each(|item| item.gapped = true);
            turn.lost = false;
        }
        let (is_alone, deferred) = (!thread.is_watched(), std::mem::take(&mut thread.deferred));
        let link = thread.link();
        let still: Vec<(Turn, Value)> =
            (thread.turns.iter()).filter_map(|turn| Some((turn.clone(), found(turn)?.clone()))).collect();
        thread.gap |= !still.is_empty();
        for (turn, found) in &still {
            // What was done meanwhile.
            self.tell_rest(id, turn, found);
        }
        let ends: Vec<Text> = lost.iter().map(|turn| self.end_of(id, turn, found(turn))).collect();
        if changed || !ends.is_empty() {
            let status: Value = serde_json::from_str(status).unwrap_or(Value::Null);
            let params = json!({"threadId": &**id, "status": status});
            let method = "thread/status/changed";
            self.tell_everyone(method, &text::notification(method, &params));
        }
        for end in ends {
            self.tell_viewers(id, "turn/completed", &end);
        }
        self.end_background_terminals(id);
        for text in deferred.iter().filter(|text| !lost.iter().any(|turn| reconciliation::is_of(turn, text)))
        {
            self.link_said(link, text);
        }
        if let Some(loss) = &mut self.loss {
            loss.recovered += 1;
        }
        if !self.find_held_goal(id) {
            self.let_goal_go_on(id);
        }
        self.begin_streams_again(id);
        self.learn_lineage(id);
        if is_alone {
            self.left_alone(id);
        }
        self.recover_lost();
        self.thread_stirred(id);
        self.moved_on();
    }

    /// A thread that cannot be loaded again: ephemeral, or never written to disk.
    pub(super) fn end_as_lost(&mut self, id: &ThreadId) {
        self.withdraw_asks(id, false);
        if self.threads.get(id).is_some_and(|thread| self.goals.are_at_work_in(thread)) {
            self.out.push(Action::Report(Report::GoalLost { thread: id.to_string() }));
        }
        let turns = self.threads.get(id).map(|thread| thread.turns.clone()).unwrap_or_default();
        for turn in turns {
            let end = self.end_of(id, &turn, None);
            self.tell_viewers(id, "turn/completed", &end);
        }
        self.end_background_terminals(id);
        self.end_unheard(id);
        self.see_whether_recovered();
        self.pump();
    }

    pub(super) fn tell_closed(&mut self, id: &ThreadId) {
        let status = json!({"threadId": &**id, "status": {"type": "notLoaded"}});
        let method = "thread/status/changed";
        self.tell_everyone(method, &text::notification(method, &status));
        let method = "thread/closed";
        self.tell_everyone(method, &text::notification(method, &json!({"threadId": &**id})));
        self.forget_thread(id);
    }

    pub(super) fn see_whether_recovered(&mut self) {
        let missing = |thread: &crate::hub::threads::thread::Thread| {
            matches!(thread.motion, Motion::Lost | Motion::Recovering) && !thread.is_refused()
        };
        let Some(server) = self.serving.filter(|_| !self.threads.values().any(missing)) else { return };
        if let Some(loss) = self.loss.take() {
            self.out.push(Action::Report(Report::Recovered {
                server,
                threads: loss.recovered,
                completed: loss.completed,
                interrupted: loss.interrupted,
                took_ms: self.now.since_ms(loss.since),
            }));
        }
    }
}

/// A turn as it stands in an answer to `thread/turns/list`.
fn found_in<'a>(listed: &'a Value, turn: &Turn) -> Option<&'a Value> {
    listed["data"].as_array()?.iter().find(|listed| listed["id"] == *turn.id)
}

impl crate::hub::threads::thread::Thread {
    /// Whether nobody watches it and its app-server was lost again and again with it, or while it was being loaded.
    fn is_lost_too_often(&mut self, now: Now) -> bool {
        let lasted = self.loaded_at.take().is_some_and(|at| now.since_ms(at) >= GOAL_STABLE_MS);
        self.losses = if lasted { 1 } else { self.losses + 1 };
        self.losses >= GOAL_LOSSES_MAX && !self.is_watched()
    }

    /// The link that told it broke.
    fn lose(&mut self) {
        self.motion = Motion::Lost;
        self.again_at = Now::default();
        for turn in &mut self.turns {
            turn.lost = true;
        }
    }
}
