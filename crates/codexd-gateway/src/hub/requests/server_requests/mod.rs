//! Server requests: what app-servers ask clients, above all approvals.
//!
//! Upstream numbers its requests from 0 in every process, so ids of two app-servers collide; the gateway assigns an
//! id of its own to each. Recipients: `recipients.rs`.

mod recipients;
mod snapshot;

use std::collections::HashMap;

use codexd_core::config::SubagentApprovals;
use serde_json::value::RawValue;

use crate::hub::event::{Action, ClientId, Connection, Report, ServerId, Text, ThreadId};
use crate::hub::text::thread_of;
use crate::hub::{Hub, Timer, text};
use crate::limits::{ANSWER_CONFIRM_TIMEOUT_MS, SERVER_REQUEST_MAX_MS};
use crate::routes::{self, ServerRequestScope, gates};

/// An approval kind for clients that declare `requiredHumanApproval`.
const HUMAN: &str = "humanCommand";

/// Sent to one client that declares `requestAttestation`.
const ATTESTATION: &str = "attestation/generate";

/// Response to a server request about no thread that no client answered.
fn unanswered(id: &str) -> Text {
    text::error(id, text::SERVER_ERROR, "no client that could answer is connected, or none did", None)
}

/// A server request that is not resolved.
#[derive(Clone, Debug)]
pub struct PendingServerRequest {
    /// The gateway's id.
    number: u64,
    connection: Connection,
    /// Upstream's id, raw JSON.
    upstream: Box<str>,
    thread: Option<ThreadId>,
    /// The request under the gateway's id.
    text: Text,
    human_only: bool,
    /// It is `attestation/generate`, for one client.
    is_attestation: bool,
    /// Clients that received it.
    recipients: Vec<ClientId>,
    /// Clients that answered with an error while others may still answer.
    declined: Vec<ClientId>,
    /// The first answer, as sent upstream.
    answer: Option<Text>,
    /// The second answer: sent if the app-server does not resolve the request after the first.
    next_answer: Option<Text>,
    /// It was sent to its recipients again, because no answer was accepted.
    is_repeated: bool,
    /// Its connection broke. If the process is alive, it sends the request again.
    lost: bool,
    /// Only for clients with `experimentalApi`.
    experimental_only: bool,
    /// Upstream does not report its end: it ends with its turn.
    ends_with_turn: bool,
}

impl PendingServerRequest {
    fn may_see(&self, experimental: bool, human_approval: bool) -> bool {
        (human_approval || !self.human_only) && (experimental || !self.experimental_only)
    }
}

/// All unresolved server requests.
#[derive(Debug, Default)]
pub struct PendingServerRequests {
    waiting: HashMap<u64, PendingServerRequest>,
    next: u64,
    /// Which clients answer those of sub-agents.
    subagent_approvals: SubagentApprovals,
}

impl PendingServerRequests {
    pub fn new(subagent_approvals: SubagentApprovals) -> Self {
        Self { subagent_approvals, ..Self::default() }
    }

    /// Removes a client. Returns the ids of requests about no thread that have no recipient left.
    fn on_client_disconnected(&mut self, client: ClientId) -> Vec<u64> {
        self.waiting.retain(
            |_, request| !matches!(request.connection, Connection::Dedicated(owner, _) if owner == client),
        );
        let mut abandoned = Vec::new();
        for request in self.waiting.values_mut() {
            request.recipients.retain(|recipient| *recipient != client);
            if request.thread.is_none() && request.recipients.is_empty() {
                abandoned.push(request.number);
            }
        }
        abandoned.sort_unstable();
        abandoned
    }

    pub fn thread_gone(&mut self, thread: &ThreadId) {
        self.waiting.retain(|_, request| request.thread.as_ref() != Some(thread));
    }

    /// Drops the requests whose end upstream does not report.
    pub fn turn_ended(&mut self, thread: &ThreadId) {
        self.waiting.retain(|_, request| !request.ends_with_turn || request.thread.as_ref() != Some(thread));
    }

    /// Whether a request about the thread is unanswered.
    pub fn is_pending(&self, thread: &ThreadId) -> bool {
        self.waiting
            .values()
            .any(|request| request.thread.as_ref() == Some(thread) && request.answer.is_none())
    }

    /// Whether an answer of this client to this raw id is expected.
    pub fn awaits(&self, client: ClientId, id: &str) -> bool {
        let request = id.parse().ok().and_then(|number: u64| self.waiting.get(&number));
        request.is_some_and(|request| request.answer.is_none() && request.recipients.contains(&client))
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    fn find(&self, connection: Connection, upstream: &str) -> Option<u64> {
        self.waiting
            .values()
            .find(|request| request.connection == connection && *request.upstream == *upstream)
            .map(|request| request.number)
    }
}

impl Hub {
    /// An app-server sent a request.
    pub(in crate::hub) fn on_server_request(
        &mut self,
        connection: Connection,
        id: &RawValue,
        method: &str,
        params: Option<&RawValue>,
        text: &Text,
    ) {
        let scope = routes::server_request(method);
        let thread = match scope {
            Some(ServerRequestScope::Connection | ServerRequestScope::All) => None,
            _ => thread_of(params),
        };
        // Upstream sends it on every connection; the shared one delivers it.
        let asks_all = thread.is_some() || scope == Some(ServerRequestScope::All);
        if matches!(connection, Connection::Dedicated(..)) && asks_all {
            return;
        }
        if let Some(number) = self.server_requests.find(connection, id.get()) {
            return self.on_repeated_request(connection, number);
        }
        if let Some(thread) = thread.as_ref().filter(|thread| !self.threads.contains_key(thread)) {
            let is_known = self.pending.concern(thread);
            self.add_subagent_thread(connection.server(), thread, is_known);
        }
        let number = self.server_requests.next;
        self.server_requests.next += 1;
        let kind = params.and_then(|params| text::string(params.get(), "kind"));
        let mode = params.and_then(|params| text::string(params.get(), "mode"));
        let request = PendingServerRequest {
            number,
            connection,
            upstream: id.get().into(),
            thread,
            text: text::splice(text, id.get(), &number.to_string()),
            human_only: kind.is_some_and(|kind| kind == HUMAN),
            recipients: Vec::new(),
            declined: Vec::new(),
            answer: None,
            next_answer: None,
            is_repeated: false,
            lost: false,
            ends_with_turn: !routes::is_resolved(method),
            experimental_only: mode.is_some_and(|mode| gates::elicitation_needs_experimental(&mode)),
            is_attestation: method == ATTESTATION,
        };
        self.server_requests.waiting.insert(number, request);
        self.send_to_recipients(number);
        if let Some(request) = self.server_requests.waiting.get(&number)
            && request.thread.is_none()
        {
            self.set_timer(SERVER_REQUEST_MAX_MS, Timer::ServerRequestTimeout(number));
        }
    }

    /// Sends the request to every recipient that has not received it. Without recipients, one about a thread waits
    /// and one about no thread is refused.
    pub(in crate::hub) fn send_to_recipients(&mut self, number: u64) {
        let Some(request) = self.server_requests.waiting.get(&number) else { return };
        let recipients = self.recipients(request);
        let Some(request) =
            self.server_requests.waiting.get_mut(&number).filter(|request| request.answer.is_none())
        else {
            return;
        };
        let text = request.text.clone();
        let new: Vec<ClientId> = recipients
            .into_iter()
            .filter(|client| !request.recipients.contains(client) && !request.declined.contains(client))
            .collect();
        request.recipients.extend(&new);
        if request.recipients.is_empty() && request.thread.is_none() {
            return self.refuse_server_request(number);
        }
        for client in new {
            self.send_to_client(client, text.clone());
        }
    }

    /// Refuses a server request about no thread that no client answers.
    pub(in crate::hub) fn refuse_server_request(&mut self, number: u64) {
        let Some(request) = self.server_requests.waiting.remove(&number) else { return };
        if !request.lost {
            self.send_upstream(request.connection, unanswered(&request.upstream));
        }
    }

    /// A client disconnected: requests that only it received go to the next client.
    pub(in crate::hub) fn on_recipient_left(&mut self, client: ClientId) {
        for number in self.server_requests.on_client_disconnected(client) {
            self.send_to_recipients(number);
        }
    }

    /// Upstream repeats a request after a resume. If the connection had broken, the answer may not have arrived.
    fn on_repeated_request(&mut self, connection: Connection, number: u64) {
        let Some(request) = self.server_requests.waiting.get_mut(&number) else { return };
        if std::mem::take(&mut request.lost)
            && let Some(answer) = request.answer.clone()
        {
            self.send_upstream(connection, answer);
        }
    }

    /// A client answered. Answers of clients that did not receive the request are dropped. A second answer is used
    /// only if the app-server does not accept the first ([`Self::on_resolution_timeout`]).
    pub(in crate::hub) fn on_client_response(
        &mut self,
        client: ClientId,
        id: &str,
        is_result: bool,
        text: &Text,
    ) {
        let Ok(number) = id.parse::<u64>() else { return };
        let Some(request) = self.server_requests.waiting.get_mut(&number) else { return };
        if !request.recipients.contains(&client) {
            return;
        }
        if request.answer.is_some() {
            request.next_answer.get_or_insert_with(|| text::splice(text, id, &request.upstream));
            return;
        }
        if request.thread.is_none() && !is_result && request.recipients.len() > 1 {
            // An error of one client does not decide for the others.
            request.declined.push(client);
            return request.recipients.retain(|recipient| *recipient != client);
        }
        let (connection, lost, answer) =
            (request.connection, request.lost, text::splice(text, id, &request.upstream));
        request.answer = Some(answer.clone());
        let ends_with_turn = request.ends_with_turn;
        // Upstream does not report the resolution of requests about no thread.
        if request.thread.is_none() {
            self.server_requests.waiting.remove(&number);
        } else if !ends_with_turn {
            self.set_timer(ANSWER_CONFIRM_TIMEOUT_MS, Timer::ResolutionTimeout(number));
        }
        // Sent when upstream repeats the request.
        if !lost {
            self.send_upstream(connection, answer);
        }
    }

    /// The app-server did not resolve an answered request: it could not read the answer or lost it. The next answer
    /// is sent; if there is none, the recipients receive the request again.
    pub(in crate::hub) fn on_resolution_timeout(&mut self, number: u64) {
        let Some(request) = self.server_requests.waiting.get_mut(&number) else { return };
        let is_reported = request.answer.is_some() && !request.lost;
        let Some(thread) = request.thread.clone().filter(|_| is_reported) else { return };
        if request.next_answer.is_none() && std::mem::replace(&mut request.is_repeated, true) {
            return;
        }
        request.answer = request.next_answer.take();
        let report = Report::AnswerNotTaken { thread: thread.to_string(), request: number.to_string() };
        self.out.push(Action::Report(report));
        match request.answer.clone() {
            Some(answer) => {
                let connection = request.connection;
                self.set_timer(ANSWER_CONFIRM_TIMEOUT_MS, Timer::ResolutionTimeout(number));
                self.send_upstream(connection, answer);
            }
            None => {
                let repeated = request
                    .recipients
                    .iter()
                    .map(|client| Action::SendToClient(*client, request.text.clone()));
                self.out.extend(repeated);
            }
        }
    }

    /// Upstream resolved a request.
    pub(in crate::hub) fn on_resolved(
        &mut self,
        server: ServerId,
        thread: &ThreadId,
        id: Option<&RawValue>,
        method: &str,
        text: &Text,
    ) {
        let Some(id) = id else { return self.send_to_viewers(thread, method, text) };
        // Requests from before this gateway started are unknown.
        if let Some(number) = self.server_requests.find(Connection::Shared(server), id.get())
            && let Some(request) = self.server_requests.waiting.remove(&number)
        {
            let text = text::splice(text, id.get(), &number.to_string());
            self.send_resolved(thread, &request, method, &text);
        }
    }

    /// The app-server is gone: its requests cannot be answered any more.
    pub(in crate::hub) fn withdraw_server_requests(&mut self, thread: &ThreadId, only_lost: bool) {
        let mut numbers: Vec<u64> = (self.server_requests.waiting.values())
            .filter(|request| request.thread.as_ref() == Some(thread) && (request.lost || !only_lost))
            .map(|request| request.number)
            .collect();
        numbers.sort_unstable();
        for number in numbers {
            let Some(request) = self.server_requests.waiting.remove(&number) else { continue };
            let params = serde_json::json!({"threadId": &**thread, "requestId": number});
            let method = "serverRequest/resolved";
            self.send_resolved(thread, &request, method, &text::notification(method, &params));
        }
    }

    pub(in crate::hub) fn orphan_server_requests(&mut self, connection: Connection) {
        self.server_requests
            .waiting
            .retain(|_, request| request.connection != connection || request.thread.is_some());
        self.server_requests
            .waiting
            .values_mut()
            .filter(|request| request.connection == connection)
            .for_each(|request| request.lost = true);
    }
}
