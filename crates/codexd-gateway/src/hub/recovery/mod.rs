//! Recovery after the loss of an app-server: pending requests are answered with an error, and its threads are loaded
//! in the successor.
//!
//! A graceful end often loses the last notifications of a turn (0.169.0 delivered `turn/completed` in 1 of 12 drains)
//! while the turn is complete on disk. So the last turns are read first, then their end is reported.
//!
//! Invariants: no request is sent again unless it was refused unseen; every turn that clients saw start ends for
//! them. Failure: a refused load is retried with backoff (`refused_threads.rs`); a thread that cannot be loaded again
//! is closed and its turns are reported as interrupted.

mod lost_connections;
mod reconciliation;
mod refused_threads;

use serde_json::{Value, json};

use crate::hub::requests::pending::InternalRequest;
use reconciliation::found_in;
use refused_threads::Refusals;

use crate::hub::event::{Action, Connection, Now, Report, ServerId, Text, ThreadId};
use crate::hub::refusal::{Refusal, is_transient};
use crate::hub::text;
use crate::hub::threads::deferred::Deferred;
use crate::hub::threads::state::ThreadState;
use crate::hub::threads::thread::Turn;
use crate::hub::{Hub, Timer};
use crate::limits::{BUSY_AFTER_EVENT_MS, RETRY_AFTER_MS, SUPPRESS_ECHO_MS};

/// The recovery that is under way, and what was not reported yet.
#[derive(Debug, Default)]
pub struct Recovery {
    loss: Option<Loss>,
    ended_servers: Vec<EndedServer>,
    refused_threads: Refusals,
}

impl Recovery {
    /// Whether threads of a lost app-server are not loaded again yet.
    pub fn is_under_way(&self) -> bool {
        self.loss.is_some()
    }
}

/// The loss of an app-server that had threads.
#[derive(Debug)]
struct Loss {
    since: Now,
    recovered: usize,
    completed: usize,
    interrupted: usize,
}

/// An app-server whose end is not reported yet: the supervisor may still report that the end was requested.
#[derive(Clone, Copy, Debug)]
struct EndedServer {
    server: ServerId,
    threads: usize,
    requests: usize,
}

impl Hub {
    pub(super) fn recover_thread(&mut self, id: &ThreadId, server: ServerId) {
        let suppress_echo_until = self.now + SUPPRESS_ECHO_MS;
        let Some(thread) = self.threads.get_mut(id).filter(|thread| thread.state == ThreadState::Orphaned)
        else {
            return;
        };
        let moved = thread.server != server;
        thread.state = ThreadState::recovering();
        thread.server = server;
        if moved {
            thread.turns.iter_mut().for_each(|turn| turn.cut = true);
        }
        thread.last_subscriber = None;
        thread.suppress_echo_until = suppress_echo_until;
        if moved || thread.is_ephemeral() {
            thread.items.iter_mut().for_each(|item| item.orphaned = true);
        }
        if thread.is_ephemeral() {
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

    /// The response to the resume of a lost thread.
    pub(super) fn on_recovered(&mut self, id: &ThreadId, outcome: Result<&str, &str>) {
        let Some(thread) = self.threads.get_mut(id).filter(|thread| thread.is_recovering()) else {
            return;
        };
        match outcome {
            Ok(result) => {
                // Earlier notifications are older than this response; echoes follow it.
                if let ThreadState::Recovering { deferred, .. } = &mut thread.state {
                    deferred.clear();
                }
                let was_refused = thread.load_refusal.take().is_some();
                thread.suppress_echo_until = self.now + SUPPRESS_ECHO_MS;
                let reported = text::member(result, "thread").map(|thread| thread.get().to_owned());
                let before = thread.status.clone();
                if let Some(reported) = reported {
                    thread.describe(&reported);
                }
                // Clients keep the last status until the end of the turn is known.
                let now = std::mem::replace(&mut thread.status, before);
                let (connection, runs) = (thread.connection(), !thread.turns.is_empty());
                if was_refused {
                    self.on_refusal_resolved();
                }
                if !runs {
                    return self.finish_recovery(id, &now, None);
                }
                let state = self.threads.get_mut(id).map(|thread| &mut thread.state);
                if let Some(ThreadState::Recovering { status_after_load, .. }) = state {
                    *status_after_load = Some(now);
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
            Refusal::Draining => Some(RETRY_AFTER_MS),
        };
        // A client that has begun to wait meanwhile gets an answer soon.
        let wait = wait.map(|wait| if thread.demand.is_some() { wait.min(RETRY_AFTER_MS) } else { wait });
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

    /// The last turns as they stand on disk.
    pub(super) fn on_last_turns(&mut self, id: &ThreadId, outcome: Result<&str, &str>) {
        let Some(thread) = self.threads.get_mut(id).filter(|thread| thread.is_recovering()) else {
            return;
        };
        if let Err(error) = outcome
            && is_transient(error)
        {
            // The app-server could not read them now.
            return self.retry_recovery(id, Refusal::RetrySoon);
        }
        let is_refused = thread.load_refusal.is_some();
        let reported = match &mut thread.state {
            ThreadState::Recovering { status_after_load, .. } => status_after_load.take(),
            _ => None,
        };
        let status = reported.unwrap_or_else(|| thread.status.clone());
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
        let deferred = match std::mem::replace(&mut thread.state, ThreadState::Attached) {
            ThreadState::Recovering { deferred, .. } => deferred,
            _ => Deferred::default(),
        };
        thread.unloaded_from = None;
        thread.is_background_load = false;
        thread.demand = None;
        thread.recovered_at = Some(self.now);
        // An active goal starts turns by itself.
        thread.busy_until = thread.busy_until.max(self.now + BUSY_AFTER_EVENT_MS);
        thread.load_attempts = 0;
        let changed = *thread.status != *status;
        thread.status = status.into();
        let runs = thread.is_active();
        // If only the connection broke, the turn continues.
        let continues =
            |turn: &Turn| runs && found(turn).is_some_and(|found| found["status"] == "inProgress");
        let (going_on, lost): (Vec<Turn>, Vec<Turn>) =
            std::mem::take(&mut thread.turns).into_iter().partition(|turn| !turn.lost || continues(turn));
        thread.turns = going_on;
        for turn in &mut thread.turns {
            thread.items.iter_mut().filter(|item| item.turn == turn.id).for_each(|item| item.has_gap = true);
            turn.lost = false;
        }
        let is_alone = !thread.is_watched();
        let connection = thread.connection();
        let still: Vec<(Turn, Value)> =
            (thread.turns.iter()).filter_map(|turn| Some((turn.clone(), found(turn)?.clone()))).collect();
        thread.has_gap |= !still.is_empty();
        for (turn, found) in &still {
            // Items that completed meanwhile.
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
        let is_reported = |text: &Text| lost.iter().any(|turn| reconciliation::is_of(turn, text));
        for text in deferred.into_texts().filter(|text| !is_reported(text)) {
            self.on_connection_message(connection, &text);
        }
        if let Some(loss) = &mut self.recovery.loss {
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
        if self.recovery.loss.is_none() {
            return;
        }
        let missing = |thread: &crate::hub::threads::thread::Thread| {
            matches!(thread.state, ThreadState::Orphaned | ThreadState::Recovering { .. })
                && !thread.is_refused()
        };
        let Some(server) = self.servers.serving().filter(|_| !self.threads.values().any(missing)) else {
            return;
        };
        if let Some(loss) = self.recovery.loss.take() {
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
