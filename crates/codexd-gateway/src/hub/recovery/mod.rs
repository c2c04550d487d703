//! An app-server is gone: what it owed is answered, and its threads are loaded in its successor.
//!
//! A graceful end often loses the last words of a turn on the wire (0.169.0 delivered `turn/completed` in 1 of 12 drains)
//! while the turn is whole on disk. So the truth is read first, then told.

mod reconciliation;
mod refused_threads;

use serde_json::{Value, json};

use crate::hub::clients::client::Stage;
use crate::hub::requests::pending::{InternalRequest, Origin, PendingRequest, RequestKind};
pub use refused_threads::Refusals;

use crate::hub::event::{Action, Connection, Now, Report, ServerId, Text};
use crate::hub::goals::RequestFate;
use crate::hub::requests::fair_queue::SERVER_ERROR;
use crate::hub::requests::refusal::{Refusal, is_transient};
use crate::hub::text;
use crate::hub::threads::thread::{ThreadId, ThreadState, Turn};
use crate::hub::upstream::servers::ConnectionState;
use crate::hub::{Hub, Timer};
use crate::limits::{
    AGAIN_AFTER_MS, EXPECTED_END_REPORTED_WITHIN_MS, GOAL_LOSSES_MAX, GOAL_STABLE_MS, HUSH_MS, QUIET_MS,
};

/// A loss that is being made good.
#[derive(Debug)]
pub struct Recovery {
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
            |id: &ServerId| servers.get(id).is_some_and(|server| server.is_draining || server.is_outgoing);
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

    pub(super) fn on_connection_lost(&mut self, connection: Connection) {
        self.orphan_server_requests(connection);
        self.full_connections.remove(&connection);
        self.drop_unsent(connection);
        // First of all nothing more is to be sent there.
        let was_up = match connection {
            Connection::Shared(server) => {
                let known = self.servers.get_mut(&server);
                known.is_some_and(|server| std::mem::take(&mut server.shared) == ConnectionState::Open)
            }
            Connection::Dedicated(..) => false,
        };
        match connection {
            Connection::Dedicated(id, server) => self.on_dedicated_lost(id, server),
            Connection::Shared(server) if was_up => {
                self.serving = self.serving.filter(|serving| *serving != server);
                self.abort_handover(server);
                let of_it = self.threads.values_mut().filter(|thread| thread.server == server);
                of_it.for_each(crate::hub::threads::thread::Thread::lose);
                self.drop_rollback_origin(server);
            }
            Connection::Shared(_) => {}
        }
        let owed = self.fail_pending_requests(connection);
        match connection {
            Connection::Shared(server) => self.on_shared_lost(server, was_up, owed),
            Connection::Dedicated(id, _) => self.close_drained(id),
        }
        self.changes.holding_released();
        self.changes.requests_changed();
    }

    /// Whoever waits for an answer over a connection is told that there will be none: nobody knows how far the request came.
    fn fail_pending_requests(&mut self, connection: Connection) -> usize {
        let mut ids: Vec<u64> = self
            .pending
            .iter()
            .filter(|(_, call)| call.connection == connection)
            .map(|(&id, _)| id)
            .collect();
        ids.sort_unstable();
        let mut owed = 0;
        for number in ids {
            let Some(PendingRequest { origin, has_permit, .. }) = self.pending.remove(&number) else {
                continue;
            };
            match origin {
                Origin::Internal(errand) => self.on_internal_request_lost(&errand),
                Origin::Client { client, id, thread, kind, text } => {
                    if has_permit {
                        self.release_permit(client);
                    }
                    self.cancel_deprecation_notice(client, &text);
                    if kind == RequestKind::EventStream {
                        self.remove_event_stream(client, &text);
                    }
                    if let Some(thread) = thread {
                        self.on_goal_request_done(&thread, number, RequestFate::Unknown);
                        self.on_thread_request_done(&thread);
                    }
                    if self.clients.contains_key(&client) {
                        owed += 1;
                        let message =
                            "the app-server ended before it answered; whether it acted is not known";
                        let data = json!({"reason": "appServerRestarted"});
                        self.send_to_client(client, text::error(&id, SERVER_ERROR, message, Some(&data)));
                    }
                }
            }
        }
        owed
    }

    fn on_shared_lost(&mut self, id: ServerId, was_up: bool, requests: usize) {
        let Some(server) = self.servers.get_mut(&id) else { return };
        server.is_listed = false;
        // The process may live on: then its connection is opened anew.
        let wait = server.backoff.lost(self.now);
        self.set_timer(wait, Timer::Reconnect);
        if !was_up {
            // It could not be opened: nothing was lost with it.
            return;
        }
        let threads = self.threads.values().filter(|thread| thread.server == id).count();
        self.ended_servers.push(EndedServer { server: id, threads, requests });
        self.set_timer(EXPECTED_END_REPORTED_WITHIN_MS, Timer::EndedServer(id));
        self.report_expected_ends();
        if threads > 0 && self.recovery.is_none() {
            self.recovery = Some(Recovery { since: self.now, recovered: 0, completed: 0, interrupted: 0 });
        }
        // Another one serves already.
        let up = self.servers.iter().filter(|(_, server)| server.shared == ConnectionState::Open);
        self.serving = self.serving.or(up.map(|(&other, _)| other).max());
        self.changes.loads_changed();
    }

    /// An app-server died that had these threads, perhaps of one of them: those that nobody watches wait a while.
    pub(super) fn postpone_crashing_threads(&mut self, server: ServerId) {
        let mut postponed = Vec::new();
        for thread in self.threads.values_mut().filter(|thread| thread.server == server) {
            if self.goals.has_work_in(thread) && thread.crashes_too_often(self.now) {
                postponed.push(thread.id.clone());
            }
        }
        postponed.sort_unstable();
        postponed.iter().for_each(|thread| self.postpone_goal(thread));
    }

    /// Opens what broke and is needed.
    pub(super) fn reconnect(&mut self) {
        self.open_shared_connections();
        let waits = |client: &&crate::hub::clients::client::Client| {
            client.lost_dedicated
                || (client.dedicated.current().is_none()
                    && matches!(client.stage, Stage::Initializing { asks_upstream: true, .. }))
        };
        let mut lost: Vec<_> = self.clients.values().filter(waits).map(|client| client.id).collect();
        lost.sort_unstable();
        for client in lost {
            self.open_dedicated(client);
        }
    }

    pub(super) fn recover_thread(&mut self, id: &ThreadId, server: ServerId) {
        let suppress_echo_until = self.now + HUSH_MS;
        let Some(thread) = self.threads.get_mut(id).filter(|thread| thread.state == ThreadState::Orphaned)
        else {
            return;
        };
        let moved = thread.server != server;
        thread.state = ThreadState::Recovering;
        thread.server = server;
        if moved {
            thread.turns.iter_mut().for_each(|turn| turn.cut = true);
        }
        thread.last_subscriber = None;
        thread.suppress_echo_until = suppress_echo_until;
        thread.deferred.clear();
        if moved || thread.is_ephemeral {
            thread.items.iter_mut().for_each(|item| item.orphaned = true);
        }
        if thread.is_ephemeral {
            return self.end_unrecoverable(id);
        }
        if moved && std::mem::take(&mut thread.has_realtime_session) {
            let params = json!({"threadId": &**id, "reason": "appServerRestarted"});
            let method = "thread/realtime/closed";
            self.send_to_viewers(id, method, &text::notification(method, &params));
        }
        let params = self.resume_params(id);
        self.send_internal(
            Connection::Shared(server),
            InternalRequest::Recover(id.clone()),
            "thread/resume",
            &params,
        );
    }

    /// The successor has loaded a thread, or says why not.
    pub(super) fn on_recovered(&mut self, id: &ThreadId, outcome: Result<&str, &str>) {
        let Some(thread) = self.threads.get_mut(id).filter(|thread| thread.state == ThreadState::Recovering)
        else {
            return;
        };
        match outcome {
            Ok(result) => {
                // What came before is older than this answer, the echoes come behind it.
                thread.deferred.clear();
                let was_refused = thread.load_refusal.take().is_some();
                thread.suppress_echo_until = self.now + HUSH_MS;
                let told = text::member(result, "thread").map(|thread| thread.get().to_owned());
                let before = thread.status.clone();
                if let Some(told) = told {
                    thread.describe(&told);
                }
                // What was told last stands until the truth about the turn is known.
                let now = std::mem::replace(&mut thread.status, before);
                let (connection, runs) = (thread.connection(), !thread.turns.is_empty());
                if was_refused {
                    self.on_refusal_resolved();
                }
                if !runs {
                    return self.finish_recovery(id, &now, None);
                }
                if let Some(thread) = self.threads.get_mut(id) {
                    thread.status_after_load = Some(now);
                }
                self.request_last_turns(connection, id);
            }
            Err(error) => self.on_load_refused(id, error),
        }
    }

    fn retry_recovery(&mut self, id: &ThreadId, refusal: Refusal) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        let server = thread.server;
        let wait = match refusal {
            Refusal::Gone => None,
            Refusal::RetrySoon | Refusal::Recoverable => thread.try_again_after(refusal),
            Refusal::Draining => Some(AGAIN_AFTER_MS),
        };
        // A client that has begun to wait meanwhile is to be answered.
        let wait = wait.map(|wait| if thread.demand.is_some() { wait.min(AGAIN_AFTER_MS) } else { wait });
        let Some(wait) = wait else {
            match refusal {
                Refusal::Gone => self.end_unrecoverable(id),
                _ => self.postpone_goal(id),
            }
            return self.changes.loads_changed();
        };
        thread.state = ThreadState::Orphaned;
        thread.retry_at = self.now + wait;
        if refusal == Refusal::Recoverable {
            thread.try_other_server_next();
        }
        if refusal == Refusal::Draining {
            self.on_draining(server);
        }
        self.set_timer(wait, Timer::RetryLoad(id.clone()));
        self.changes.loads_changed();
    }

    /// How the turns that were running have ended, as it stands on disk.
    pub(super) fn on_last_turns(&mut self, id: &ThreadId, outcome: Result<&str, &str>) {
        let Some(thread) = self.threads.get_mut(id).filter(|thread| thread.state == ThreadState::Recovering)
        else {
            return;
        };
        if let Err(error) = outcome
            && is_transient(error)
        {
            // Not the truth yet.
            return self.retry_recovery(id, Refusal::RetrySoon);
        }
        let is_refused = thread.load_refusal.is_some();
        let status = thread.status_after_load.take().unwrap_or_else(|| thread.status.clone());
        let listed: Option<Value> = outcome.ok().and_then(|result| serde_json::from_str(result).ok());
        match is_refused {
            true => self.end_turns_of_refused(id, listed.as_ref()),
            false => self.finish_recovery(id, &status, listed.as_ref()),
        }
    }

    fn finish_recovery(&mut self, id: &ThreadId, status: &str, listed: Option<&Value>) {
        let found = |turn: &Turn| listed.and_then(|listed| found_in(listed, turn));
        self.withdraw_server_requests(id, true);
        let Some(thread) = self.threads.get_mut(id) else { return };
        thread.state = ThreadState::Attached;
        thread.unloaded_from = None;
        thread.is_background_load = false;
        thread.demand = None;
        thread.recovered_at = Some(self.now);
        // An active goal goes on by itself.
        thread.busy_until = thread.busy_until.max(self.now + QUIET_MS);
        thread.load_attempts = 0;
        let changed = *thread.status != *status;
        thread.status = status.into();
        let runs = thread.is_active();
        // The process may live and only the connection have broken: then the turn goes on.
        let continues =
            |turn: &Turn| runs && found(turn).is_some_and(|found| found["status"] == "inProgress");
        let (going_on, lost): (Vec<Turn>, Vec<Turn>) =
            std::mem::take(&mut thread.turns).into_iter().partition(|turn| !turn.lost || continues(turn));
        thread.turns = going_on;
        for turn in &mut thread.turns {
            thread.items.iter_mut().filter(|item| item.turn == turn.id).for_each(|item| item.has_gap = true);
            turn.lost = false;
        }
        let (is_alone, deferred) = (!thread.is_watched(), std::mem::take(&mut thread.deferred));
        let connection = thread.connection();
        let still: Vec<(Turn, Value)> =
            (thread.turns.iter()).filter_map(|turn| Some((turn.clone(), found(turn)?.clone()))).collect();
        thread.has_gap |= !still.is_empty();
        for (turn, found) in &still {
            // What was done meanwhile.
            self.send_missing_items(id, turn, found);
        }
        let ends: Vec<Text> = lost.iter().map(|turn| self.reconcile_turn(id, turn, found(turn))).collect();
        if changed || !ends.is_empty() {
            let status: Value = serde_json::from_str(status).unwrap_or(Value::Null);
            let params = json!({"threadId": &**id, "status": status});
            let method = "thread/status/changed";
            self.send_to_all(method, &text::notification(method, &params));
        }
        for end in ends {
            self.send_to_viewers(id, "turn/completed", &end);
        }
        self.end_background_terminals(id);
        for text in deferred.iter().filter(|text| !lost.iter().any(|turn| reconciliation::is_of(turn, text)))
        {
            self.on_connection_message(connection, text);
        }
        if let Some(loss) = &mut self.recovery {
            loss.recovered += 1;
        }
        if !self.adopt_suspended_goal(id) {
            self.resume_goal(id);
        }
        self.replay_event_streams(id);
        self.learn_lineage(id);
        if is_alone {
            self.on_no_subscribers(id);
        }
        self.changes.loads_changed();
        self.changes.thread_changed(id);
        self.changes.thread_state_changed();
    }

    /// A thread that cannot be loaded again: ephemeral, or never written to disk.
    pub(super) fn end_unrecoverable(&mut self, id: &ThreadId) {
        self.withdraw_server_requests(id, false);
        if self.threads.get(id).is_some_and(|thread| self.goals.has_work_in(thread)) {
            self.out.push(Action::Report(Report::GoalLost { thread: id.to_string() }));
        }
        let turns = self.threads.get(id).map(|thread| thread.turns.clone()).unwrap_or_default();
        for turn in turns {
            let end = self.reconcile_turn(id, &turn, None);
            self.send_to_viewers(id, "turn/completed", &end);
        }
        self.end_background_terminals(id);
        self.close_thread(id);
    }

    pub(super) fn send_thread_closed(&mut self, id: &ThreadId) {
        let status = json!({"threadId": &**id, "status": {"type": "notLoaded"}});
        let method = "thread/status/changed";
        self.send_to_all(method, &text::notification(method, &status));
        let method = "thread/closed";
        self.send_to_all(method, &text::notification(method, &json!({"threadId": &**id})));
        self.forget_thread(id);
    }

    /// Reports the recovery once no thread is missing that can be loaded.
    pub(super) fn report_recovery_if_complete(&mut self) {
        if self.recovery.is_none() {
            return;
        }
        let missing = |thread: &crate::hub::threads::thread::Thread| {
            matches!(thread.state, ThreadState::Orphaned | ThreadState::Recovering) && !thread.is_refused()
        };
        let Some(server) = self.serving.filter(|_| !self.threads.values().any(missing)) else { return };
        if let Some(loss) = self.recovery.take() {
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
    fn crashes_too_often(&mut self, now: Now) -> bool {
        let lasted = self.recovered_at.take().is_some_and(|at| now.since_ms(at) >= GOAL_STABLE_MS);
        self.crash_count = if lasted { 1 } else { self.crash_count + 1 };
        self.crash_count >= GOAL_LOSSES_MAX && !self.is_watched()
    }

    /// The connection that told it broke.
    fn lose(&mut self) {
        self.state = ThreadState::Orphaned;
        self.retry_at = Now::default();
        for turn in &mut self.turns {
            turn.lost = true;
        }
    }
}
