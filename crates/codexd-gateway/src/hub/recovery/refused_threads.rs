//! Threads that an app-server refuses to load for a recoverable reason, such as an invalid config.toml: retried with
//! backoff and whenever a client asks. Viewers stay. Requests about such a thread are answered with the app-server's
//! error. The host receives the list.

use serde_json::{Value, json};

use crate::hub::event::{Action, Connection, RefusedThread, Report, ThreadId};
use crate::hub::recovery::reconciliation::found_in;
use crate::hub::refusal::{Refusal, message_of};
use crate::hub::requests::pending::InternalRequest;
use crate::hub::threads::state::ThreadState;
use crate::hub::threads::thread::{Thread, Turn};
use crate::hub::{Hub, Timer, text};
use crate::limits::{FAST_RETRIES_MAX, REFUSALS_REPORT_AFTER_MS, REFUSED_THREADS_LISTED_MAX};

/// The refusals that were reported to the host.
#[derive(Debug, Default)]
pub struct Refusals {
    /// They have changed since, and [`Timer::ReportRefusedThreads`] is set.
    is_due: bool,
    reported: Vec<RefusedThread>,
    count: usize,
}

impl Hub {
    /// An app-server refused to load a lost thread.
    pub(super) fn on_load_refused(&mut self, id: &ThreadId, error: &str) {
        let refusal = Refusal::of(error);
        let Some(thread) = self.threads.get_mut(id) else { return };
        let lasts = match refusal {
            Refusal::Recoverable => true,
            Refusal::RetrySoon => thread.load_attempts > FAST_RETRIES_MAX,
            Refusal::Draining | Refusal::Gone => false,
        };
        if !lasts {
            return self.retry_recovery(id, refusal);
        }
        thread.load_refusal = Some(message_of(error));
        thread.demand = None;
        let (connection, is_cut) = (thread.connection(), thread.turns.iter().any(|turn| turn.cut));
        self.schedule_refusal_report();
        self.refuse_queued_for_thread(id, error);
        match is_cut {
            // Its viewers learn how its turn ended before it is loaded.
            true => self.request_last_turns(connection, id),
            false => self.retry_recovery(id, refusal),
        }
    }

    pub(super) fn request_last_turns(&mut self, connection: Connection, id: &ThreadId) {
        let params = json!({"threadId": &**id, "limit": 4, "sortDirection": "desc", "itemsView": "full"});
        self.send_internal(connection, InternalRequest::LastTurns(id.clone()), "thread/turns/list", &params);
    }

    /// Reports the end of the turns of a thread that cannot be loaded now.
    pub(super) fn end_turns_of_refused(&mut self, id: &ThreadId, listed: Option<&Value>) {
        self.withdraw_server_requests(id, true);
        let Some(thread) = self.threads.get_mut(id) else { return };
        let (cut, others): (Vec<Turn>, Vec<Turn>) =
            std::mem::take(&mut thread.turns).into_iter().partition(|turn| turn.cut);
        thread.turns = others;
        let status = json!({"type": "idle"});
        thread.status = status.to_string().into();
        let ends: Vec<_> = cut
            .iter()
            .map(|turn| self.reconcile_turn(id, turn, listed.and_then(|all| found_in(all, turn))))
            .collect();
        let method = "thread/status/changed";
        let params = json!({"threadId": &**id, "status": status});
        self.send_to_all(method, &text::notification(method, &params));
        for end in ends {
            self.send_to_viewers(id, "turn/completed", &end);
        }
        self.retry_recovery(id, Refusal::Recoverable);
    }

    /// A refused thread is loaded: the cause may be gone for the others too.
    pub(in crate::hub) fn on_refusal_resolved(&mut self) {
        for thread in self.threads.values_mut().filter(|thread| thread.is_refused()) {
            thread.retry_at = self.now;
        }
        self.schedule_refusal_report();
    }

    /// Reports refusals to the host soon: there may be hundreds at once.
    pub(in crate::hub) fn schedule_refusal_report(&mut self) {
        if !std::mem::replace(&mut self.recovery.refused_threads.is_due, true) {
            self.set_timer(REFUSALS_REPORT_AFTER_MS, Timer::ReportRefusedThreads);
        }
    }

    pub(in crate::hub) fn report_refused_threads(&mut self) {
        self.recovery.refused_threads.is_due = false;
        let named = |thread: &Thread| {
            let reason = thread.load_refusal.as_ref().map(ToString::to_string).unwrap_or_default();
            RefusedThread { thread_id: thread.id.to_string(), reason }
        };
        let refused = self.threads.values().filter(|thread| thread.is_refused());
        let mut refused: Vec<RefusedThread> = refused.map(named).collect();
        refused.sort_unstable_by(|one, other| one.thread_id.cmp(&other.thread_id));
        let count = refused.len();
        refused.truncate(REFUSED_THREADS_LISTED_MAX);
        if count != self.recovery.refused_threads.count || refused != self.recovery.refused_threads.reported {
            self.out.push(Action::Report(Report::NotLoaded { count, threads: refused.clone() }));
            (self.recovery.refused_threads.count, self.recovery.refused_threads.reported) = (count, refused);
        }
    }
}

impl Thread {
    /// Whether an app-server refused to load it for a recoverable reason and it has not been loaded since.
    pub(in crate::hub) fn is_refused(&self) -> bool {
        self.load_refusal.is_some()
            && matches!(self.state, ThreadState::Orphaned | ThreadState::Recovering { .. })
    }
}
