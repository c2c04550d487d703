//! Requests that an app-server never answers. Each class of requests has its time ([`routes::answer_within_ms`]): after it the
//! client gets an error, and the request blocks nothing any more. An answer that comes later is dropped.

use serde_json::json;

use crate::hub::event::{Action, Connection, Report};
use crate::hub::goals::Fate;
use crate::hub::requests::fair_queue::SERVER_ERROR;
use crate::hub::requests::pending::{Asker, Call, Kind};
use crate::hub::{Hub, Timer, text};
use crate::limits::OVERDUE_LOOK_MS;
use crate::routes;

impl Hub {
    /// From now on the answer to this request is waited for.
    pub(in crate::hub) fn answer_is_due(&mut self, number: u64, method: &str) {
        let Some(within_ms) = routes::answer_within_ms(method) else { return };
        let Some(call) = self.calls.get_mut(&number) else { return };
        call.overdue_at = Some(self.now + within_ms);
        if !std::mem::replace(&mut self.looks_for_overdue, true) {
            self.timer(OVERDUE_LOOK_MS, Timer::Overdue);
        }
    }

    pub(in crate::hub) fn answer_overdue_requests(&mut self) {
        let is_overdue = |call: &Call| call.overdue_at.is_some_and(|at| at <= self.now);
        let mut due: Vec<u64> =
            self.calls.iter().filter(|(_, call)| is_overdue(call)).map(|(&number, _)| number).collect();
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
            self.see_whether_all_have_left();
        }
        self.looks_for_overdue = self.calls.values().any(|call| call.overdue_at.is_some());
        if self.looks_for_overdue {
            self.timer(OVERDUE_LOOK_MS, Timer::Overdue);
        }
    }

    /// Answers a client's request with an error; returns the method.
    fn give_up_request(&mut self, number: u64) -> Option<String> {
        let Call { link, asker, holds_slot, .. } = self.calls.remove(&number)?;
        let Asker::Client { client, id, kind, thread, text: request } = asker else { return None };
        if holds_slot {
            self.give_back_slot(client);
        }
        self.no_notice_follows(client, &request);
        if kind == Kind::EventStream {
            self.stream_ended(client, &request);
        }
        let method = text::string(&request, "method").unwrap_or_default().into_owned();
        let waited_s = routes::answer_within_ms(&method).unwrap_or_default() / 1_000;
        let message =
            format!("the app-server has not answered for {waited_s} s; whether it acted is not known");
        let data = json!({"reason": "appServerUnresponsive"});
        self.tell(client, text::error(&id, SERVER_ERROR, &message, Some(&data)));
        if let Some(thread) = thread {
            if self.goal_answered(&thread, number, Fate::Open) {
                self.let_goal_go_on_unless_it_moves(&thread);
            }
            self.request_ended(&thread);
        }
        if let Connection::Dedicated(client, _) = link {
            self.close_drained(client);
        }
        Some(method)
    }
}
