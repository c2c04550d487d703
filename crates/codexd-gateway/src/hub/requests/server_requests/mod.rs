//! What app-servers ask clients: approvals above all.
//!
//! Upstream counts its questions from 0 in every process, so two of them use the same numbers; the gateway gives each
//! question a number of its own for all clients. Whom it asks: `recipients.rs`.

mod recipients;
mod snapshot;

use std::collections::HashMap;

use serde_json::value::RawValue;

use crate::hub::event::{Action, ClientId, Connection, Report, ServerId, Text};
use crate::hub::requests::responses::thread_of;
use crate::hub::threads::thread::ThreadId;
use crate::hub::{Hub, Timer, text};
use crate::limits::{ANSWER_TAKEN_WITHIN_MS, SERVER_REQUEST_MAX_MS};
use crate::routes::{self, ServerRequestScope, gates};

/// A kind of approval that only clients may see that promise a person's answer.
const HUMAN: &str = "humanCommand";

/// Asked of one client that has said at `initialize` that it can.
const ATTESTATION: &str = "attestation/generate";

/// The answer to a server request about no thread that no client answers.
fn unanswered(id: &str) -> Text {
    text::error(
        id,
        crate::hub::requests::fair_queue::SERVER_ERROR,
        "no client that could answer is connected, or none did",
        None,
    )
}

/// A question that waits for an answer.
#[derive(Clone, Debug)]
pub struct PendingServerRequest {
    /// The gateway's number.
    number: u64,
    connection: Connection,
    /// Upstream's id, raw.
    upstream: Box<str>,
    thread: Option<ThreadId>,
    /// The question under the gateway's number.
    text: Text,
    human_only: bool,
    /// One client that attests requests is asked.
    is_attestation: bool,
    /// Who may answer.
    asked: Vec<ClientId>,
    /// Clients that cannot answer.
    declined: Vec<ClientId>,
    /// The answer of the first who gave one, as it went on.
    answer: Option<Text>,
    /// The answer of the next who gave one: it goes on if the app-server does not take the first.
    next_answer: Option<Text>,
    /// Its clients were asked once more, since no answer was taken.
    is_repeated: bool,
    /// The connection that asked broke; if the process lives, it will ask again.
    lost: bool,
    /// Only clients with `experimentalApi` know it.
    experimental_only: bool,
    /// Nobody tells that it is answered, or that it does not matter any more: it is over with its turn.
    ends_with_turn: bool,
}

impl PendingServerRequest {
    fn may_see(&self, experimental: bool, human_approval: bool) -> bool {
        (human_approval || !self.human_only) && (experimental || !self.experimental_only)
    }
}

/// All questions.
#[derive(Debug, Default)]
pub struct PendingServerRequests {
    waiting: HashMap<u64, PendingServerRequest>,
    next: u64,
}

impl PendingServerRequests {
    /// Gives the numbers of those about no thread that no client is left to answer.
    fn on_client_disconnected(&mut self, client: ClientId) -> Vec<u64> {
        self.waiting
            .retain(|_, ask| !matches!(ask.connection, Connection::Dedicated(owner, _) if owner == client));
        let mut abandoned = Vec::new();
        for ask in self.waiting.values_mut() {
            ask.asked.retain(|asked| *asked != client);
            if ask.thread.is_none() && ask.asked.is_empty() {
                abandoned.push(ask.number);
            }
        }
        abandoned.sort_unstable();
        abandoned
    }

    pub fn thread_gone(&mut self, thread: &ThreadId) {
        self.waiting.retain(|_, ask| ask.thread.as_ref() != Some(thread));
    }

    /// Of some questions nobody tells that they are over.
    pub fn turn_ended(&mut self, thread: &ThreadId) {
        self.waiting.retain(|_, ask| !ask.ends_with_turn || ask.thread.as_ref() != Some(thread));
    }

    /// Whether a thread waits for an answer.
    pub fn is_pending(&self, thread: &ThreadId) -> bool {
        self.waiting.values().any(|ask| ask.thread.as_ref() == Some(thread) && ask.answer.is_none())
    }

    /// Whether this client's answer to the question of this number, raw, is waited for.
    pub fn awaits(&self, client: ClientId, id: &str) -> bool {
        let ask = id.parse().ok().and_then(|number: u64| self.waiting.get(&number));
        ask.is_some_and(|ask| ask.answer.is_none() && ask.asked.contains(&client))
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    fn find(&self, connection: Connection, upstream: &str) -> Option<u64> {
        self.waiting
            .values()
            .find(|ask| ask.connection == connection && *ask.upstream == *upstream)
            .map(|ask| ask.number)
    }
}

impl Hub {
    /// An app-server asks something.
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
        // Every connection is asked about the threads of sub-agents: the shared one has asked already.
        let asks_all = thread.is_some() || scope == Some(ServerRequestScope::All);
        if matches!(connection, Connection::Dedicated(..)) && asks_all {
            return;
        }
        if let Some(number) = self.server_requests.find(connection, id.get()) {
            return self.on_repeated_request(connection, number);
        }
        if let Some(thread) = thread.as_ref().filter(|thread| !self.threads.contains_key(*thread)) {
            let is_known = self.pending_per_thread.contains_key(thread);
            self.add_subagent_thread(connection.server(), thread, is_known);
        }
        let number = self.server_requests.next;
        self.server_requests.next += 1;
        let kind = params.and_then(|params| text::string(params.get(), "kind"));
        let mode = params.and_then(|params| text::string(params.get(), "mode"));
        let ask = PendingServerRequest {
            number,
            connection,
            upstream: id.get().into(),
            thread,
            text: text::splice(text, id.get(), &number.to_string()),
            human_only: kind.is_some_and(|kind| kind == HUMAN),
            asked: Vec::new(),
            declined: Vec::new(),
            answer: None,
            next_answer: None,
            is_repeated: false,
            lost: false,
            ends_with_turn: !routes::is_resolved(method),
            experimental_only: mode.is_some_and(|mode| gates::elicitation_needs_experimental(&mode)),
            is_attestation: method == ATTESTATION,
        };
        self.server_requests.waiting.insert(number, ask);
        self.send_to_recipients(number);
        if let Some(ask) = self.server_requests.waiting.get(&number)
            && ask.thread.is_none()
        {
            self.set_timer(SERVER_REQUEST_MAX_MS, Timer::ServerRequestTimeout(number));
        }
    }

    /// Asks every client that is to decide and was not asked yet. What is about a thread waits if there is none; what is not
    /// is refused.
    pub(in crate::hub) fn send_to_recipients(&mut self, number: u64) {
        let Some(ask) = self.server_requests.waiting.get(&number) else { return };
        let recipients = self.recipients(ask);
        let Some(ask) = self.server_requests.waiting.get_mut(&number).filter(|ask| ask.answer.is_none())
        else {
            return;
        };
        let text = ask.text.clone();
        let new: Vec<ClientId> = recipients
            .into_iter()
            .filter(|client| !ask.asked.contains(client) && !ask.declined.contains(client))
            .collect();
        ask.asked.extend(&new);
        if ask.asked.is_empty() && ask.thread.is_none() {
            return self.refuse_server_request(number);
        }
        for client in new {
            self.send_to_client(client, text.clone());
        }
    }

    /// No client answers a server request about no thread: upstream is told, and waits no longer.
    pub(in crate::hub) fn refuse_server_request(&mut self, number: u64) {
        let Some(ask) = self.server_requests.waiting.remove(&number) else { return };
        if !ask.lost {
            self.send_upstream(ask.connection, unanswered(&ask.upstream));
        }
    }

    /// A client has left: what only that one was asked goes to the next client.
    pub(in crate::hub) fn on_recipient_left(&mut self, client: ClientId) {
        for number in self.server_requests.on_client_disconnected(client) {
            self.send_to_recipients(number);
        }
    }

    /// The same question once more, behind a resume. If its connection had broken, the answer may not have arrived.
    fn on_repeated_request(&mut self, connection: Connection, number: u64) {
        let Some(ask) = self.server_requests.waiting.get_mut(&number) else { return };
        if std::mem::take(&mut ask.lost)
            && let Some(answer) = ask.answer.clone()
        {
            self.send_upstream(connection, answer);
        }
    }

    /// A client answers. An answer by a client that was not asked is dropped. A second one goes on only if the app-server does
    /// not take the first ([`Self::on_resolution_timeout`]).
    pub(in crate::hub) fn on_client_response(
        &mut self,
        client: ClientId,
        id: &str,
        is_result: bool,
        text: &Text,
    ) {
        let Ok(number) = id.parse::<u64>() else { return };
        let Some(ask) = self.server_requests.waiting.get_mut(&number) else { return };
        if !ask.asked.contains(&client) {
            return;
        }
        if ask.answer.is_some() {
            ask.next_answer.get_or_insert_with(|| text::splice(text, id, &ask.upstream));
            return;
        }
        if ask.thread.is_none() && !is_result && ask.asked.len() > 1 {
            // One that cannot tell does not speak for those that may.
            ask.declined.push(client);
            return ask.asked.retain(|asked| *asked != client);
        }
        let (connection, lost, answer) = (ask.connection, ask.lost, text::splice(text, id, &ask.upstream));
        ask.answer = Some(answer.clone());
        let ends_with_turn = ask.ends_with_turn;
        // Of those about no thread nobody tells that they are resolved.
        if ask.thread.is_none() {
            self.server_requests.waiting.remove(&number);
        } else if !ends_with_turn {
            self.set_timer(ANSWER_TAKEN_WITHIN_MS, Timer::ResolutionTimeout(number));
        }
        // It is said when the question comes again.
        if !lost {
            self.send_upstream(connection, answer);
        }
    }

    /// The app-server has not told that a question is resolved, though it had the answer: it could not read it, or has lost it.
    /// The next answer goes on; if there is none yet, the clients are asked once more.
    pub(in crate::hub) fn on_resolution_timeout(&mut self, number: u64) {
        let Some(ask) = self.server_requests.waiting.get_mut(&number) else { return };
        let is_told = ask.answer.is_some() && !ask.lost;
        let Some(thread) = ask.thread.clone().filter(|_| is_told) else { return };
        if ask.next_answer.is_none() && std::mem::replace(&mut ask.is_repeated, true) {
            return;
        }
        ask.answer = ask.next_answer.take();
        let report = Report::AnswerNotTaken { thread: thread.to_string(), request: number.to_string() };
        self.out.push(Action::Report(report));
        match ask.answer.clone() {
            Some(answer) => {
                let connection = ask.connection;
                self.set_timer(ANSWER_TAKEN_WITHIN_MS, Timer::ResolutionTimeout(number));
                self.send_upstream(connection, answer);
            }
            None => {
                let repeated = ask.asked.iter().map(|client| Action::SendToClient(*client, ask.text.clone()));
                self.out.extend(repeated);
            }
        }
    }

    /// Upstream says that a question is answered, or does not matter any more.
    pub(in crate::hub) fn on_resolved(
        &mut self,
        server: ServerId,
        thread: &ThreadId,
        id: Option<&RawValue>,
        method: &str,
        text: &Text,
    ) {
        let Some(id) = id else { return self.send_to_viewers(thread, method, text) };
        // Of one that was asked before this gateway was there nobody knows.
        if let Some(number) = self.server_requests.find(Connection::Shared(server), id.get())
            && let Some(ask) = self.server_requests.waiting.remove(&number)
        {
            let text = text::splice(text, id.get(), &number.to_string());
            self.send_resolved(thread, &ask, method, &text);
        }
    }

    /// The app-server that asked is gone: nobody can answer any more.
    pub(in crate::hub) fn withdraw_server_requests(&mut self, thread: &ThreadId, only_lost: bool) {
        let mut numbers: Vec<u64> = (self.server_requests.waiting.values())
            .filter(|ask| ask.thread.as_ref() == Some(thread) && (ask.lost || !only_lost))
            .map(|ask| ask.number)
            .collect();
        numbers.sort_unstable();
        for number in numbers {
            let Some(ask) = self.server_requests.waiting.remove(&number) else { continue };
            let params = serde_json::json!({"threadId": &**thread, "requestId": number});
            let method = "serverRequest/resolved";
            self.send_resolved(thread, &ask, method, &text::notification(method, &params));
        }
    }

    pub(in crate::hub) fn orphan_server_requests(&mut self, connection: Connection) {
        self.server_requests.waiting.retain(|_, ask| ask.connection != connection || ask.thread.is_some());
        self.server_requests
            .waiting
            .values_mut()
            .filter(|ask| ask.connection == connection)
            .for_each(|ask| ask.lost = true);
    }
}
