//! Requests that an app-server does not answer in time ([`routes::response_timeout_ms`]): the client gets an error, and
//! the request blocks nothing any more. A later response is dropped.

use serde_json::json;

use crate::hub::event::{Action, Connection, Report};
use crate::hub::goals::RequestFate;
use crate::hub::requests::pending::{Origin, PendingRequest, RequestKind};
use crate::hub::text::SERVER_ERROR;
use crate::hub::{Hub, Timer, text};
use crate::limits::OVERDUE_CHECK_INTERVAL_MS;
use crate::routes;

impl Hub {
    /// Starts the timeout of a request.
    pub(in crate::hub) fn answer_is_due(&mut self, number: u64, method: &str) {
        let Some(within_ms) = routes::response_timeout_ms(method) else { return };
        let Some(pending) = self.pending.get_mut(number) else { return };
        pending.overdue_at = Some(self.now + within_ms);
        if self.pending.needs_overdue_timer() {
            self.set_timer(OVERDUE_CHECK_INTERVAL_MS, Timer::Overdue);
        }
    }

    pub(in crate::hub) fn answer_overdue_requests(&mut self) {
        let is_overdue = |pending: &PendingRequest| pending.overdue_at.is_some_and(|at| at <= self.now);
        let mut due: Vec<u64> = self
            .pending
            .iter()
            .filter(|(_, pending)| is_overdue(pending))
            .map(|(number, _)| number)
            .collect();
        due.sort_unstable();
        let mut methods: Vec<String> = Vec::new();
        for number in due {
            methods.extend(self.give_up_request(number));
        }
        if !methods.is_empty() {
            let count = methods.len();
            methods.sort_unstable();
            methods.dedup();
            self.out.push(Action::Report(Report::Unanswered { count, methods }));
            self.changes.holding_released();
        }
        self.pending.overdue_timer_reached();
        if self.pending.values().any(|pending| pending.overdue_at.is_some())
            && self.pending.needs_overdue_timer()
        {
            self.set_timer(OVERDUE_CHECK_INTERVAL_MS, Timer::Overdue);
        }
    }

    /// Answers a client's request with a timeout error. Returns the method.
    fn give_up_request(&mut self, number: u64) -> Option<String> {
        let PendingRequest { connection, origin, has_permit, .. } = self.pending.remove(number)?;
        let Origin::Client { client, id, kind, thread, text: request } = origin else { return None };
        if has_permit {
            self.release_permit(client);
        }
        self.deprecation_notices.request_done(client, &request);
        if kind == RequestKind::EventStream {
            self.remove_event_stream(client, &request);
        }
        let method = text::string(&request, "method").unwrap_or_default().into_owned();
        let waited_s = routes::response_timeout_ms(&method).unwrap_or_default() / 1_000;
        let message =
            format!("the app-server has not answered for {waited_s} s; whether it acted is not known");
        let data = json!({"reason": "appServerUnresponsive"});
        self.send_to_client(client, text::error(&id, SERVER_ERROR, &message, Some(&data)));
        if let Some(thread) = thread {
            if self.on_goal_request_done(&thread, number, RequestFate::Unknown) {
                self.resume_goal_unless_migrating(&thread);
            }
            self.on_thread_request_done(&thread);
        }
        if let Connection::Dedicated(client, _) = connection {
            self.changes.dedicated_released(client);
        }
        Some(method)
    }
}
