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
pub struct Ask {
    /// The gateway's number.
    number: u64,
    link: Connection,
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
    /// The link that asked broke; if the process lives, it will ask again.
    lost: bool,
    /// Only clients with `experimentalApi` know it.
    experimental_only: bool,
    /// Nobody tells that it is answered, or that it does not matter any more: it is over with its turn.
    is_over_untold: bool,
}

impl Ask {
    fn may_see(&self, experimental: bool, human_approval: bool) -> bool {
        (human_approval || !self.human_only) && (experimental || !self.experimental_only)
    }
}

/// All questions.
#[derive(Debug, Default)]
pub struct Asks {
    waiting: HashMap<u64, Ask>,
    next: u64,
}

impl Asks {
    /// Gives the numbers of those about no thread that no client is left to answer.
    fn client_left(&mut self, client: ClientId) -> Vec<u64> {
        self.waiting.retain(|_, ask| !matches!(ask.link, Connection::Dedicated(owner, _) if owner == client));
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
        self.waiting.retain(|_, ask| !ask.is_over_untold || ask.thread.as_ref() != Some(thread));
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

    fn find(&self, link: Connection, upstream: &str) -> Option<u64> {
        self.waiting.values().find(|ask| ask.link == link && *ask.upstream == *upstream).map(|ask| ask.number)
    }
}

impl Hub {
    /// An app-server asks something.
    pub(in crate::hub) fn asked(
        &mut self,
        link: Connection,
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
        if matches!(link, Connection::Dedicated(..)) && asks_all {
            return;
        }
        if let Some(number) = self.asks.find(link, id.get()) {
            return self.asked_again(link, number);
        }
        if let Some(thread) = thread.as_ref().filter(|thread| !self.threads.contains_key(*thread)) {
            let is_known = self.under_way.contains_key(thread);
            self.found_child(link.server(), thread, is_known);
        }
        let number = self.asks.next;
        self.asks.next += 1;
        let kind = params.and_then(|params| text::string(params.get(), "kind"));
        let mode = params.and_then(|params| text::string(params.get(), "mode"));
        let ask = Ask {
            number,
            link,
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
            is_over_untold: !routes::is_resolved(method),
            experimental_only: mode.is_some_and(|mode| gates::elicitation_needs_experimental(&mode)),
            is_attestation: method == ATTESTATION,
        };
        self.asks.waiting.insert(number, ask);
        self.ask_recipients(number);
        if let Some(ask) = self.asks.waiting.get(&number)
            && ask.thread.is_none()
        {
            self.timer(SERVER_REQUEST_MAX_MS, Timer::ServerRequest(number));
        }
    }

    /// Asks every client that is to decide and was not asked yet. What is about a thread waits if there is none; what is not
    /// is refused.
    pub(in crate::hub) fn ask_recipients(&mut self, number: u64) {
        let Some(ask) = self.asks.waiting.get(&number) else { return };
        let recipients = self.recipients(ask);
        let Some(ask) = self.asks.waiting.get_mut(&number).filter(|ask| ask.answer.is_none()) else { return };
        let text = ask.text.clone();
        let new: Vec<ClientId> = recipients
            .into_iter()
            .filter(|client| !ask.asked.contains(client) && !ask.declined.contains(client))
            .collect();
        ask.asked.extend(&new);
        if ask.asked.is_empty() && ask.thread.is_none() {
            return self.refuse_ask(number);
        }
        for client in new {
            self.tell(client, text.clone());
        }
    }

    /// No client answers a server request about no thread: upstream is told, and waits no longer.
    pub(in crate::hub) fn refuse_ask(&mut self, number: u64) {
        let Some(ask) = self.asks.waiting.remove(&number) else { return };
        if !ask.lost {
            self.say(ask.link, unanswered(&ask.upstream));
        }
    }

    /// A client has left: what only that one was asked goes to the next client.
    pub(in crate::hub) fn asked_client_left(&mut self, client: ClientId) {
        for number in self.asks.client_left(client) {
            self.ask_recipients(number);
        }
    }

    /// The same question once more, behind a resume. If its link had broken, the answer may not have arrived.
    fn asked_again(&mut self, link: Connection, number: u64) {
        let Some(ask) = self.asks.waiting.get_mut(&number) else { return };
        if std::mem::take(&mut ask.lost)
            && let Some(answer) = ask.answer.clone()
        {
            self.say(link, answer);
        }
    }

    /// A client answers. An answer by a client that was not asked is dropped. A second one goes on only if the app-server does
    /// not take the first ([`Self::answer_was_not_taken`]).
    pub(in crate::hub) fn client_answered(
        &mut self,
        client: ClientId,
        id: &str,
        is_result: bool,
        text: &Text,
    ) {
        let Ok(number) = id.parse::<u64>() else { return };
        let Some(ask) = self.asks.waiting.get_mut(&number) else { return };
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
        let (link, lost, answer) = (ask.link, ask.lost, text::splice(text, id, &ask.upstream));
        ask.answer = Some(answer.clone());
        let is_over_untold = ask.is_over_untold;
        // Of those about no thread nobody tells that they are resolved.
        if ask.thread.is_none() {
            self.asks.waiting.remove(&number);
        } else if !is_over_untold {
            self.timer(ANSWER_TAKEN_WITHIN_MS, Timer::Answer(number));
        }
        // It is said when the question comes again.
        if !lost {
            self.say(link, answer);
        }
    }

    /// The app-server has not told that a question is resolved, though it had the answer: it could not read it, or has lost it.
    /// The next answer goes on; if there is none yet, the clients are asked once more.
    pub(in crate::hub) fn answer_was_not_taken(&mut self, number: u64) {
        let Some(ask) = self.asks.waiting.get_mut(&number) else { return };
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
                let link = ask.link;
                self.timer(ANSWER_TAKEN_WITHIN_MS, Timer::Answer(number));
                self.say(link, answer);
            }
            None => {
                let repeated = ask.asked.iter().map(|client| Action::SendToClient(*client, ask.text.clone()));
                self.out.extend(repeated);
            }
        }
    }

    /// Upstream says that a question is answered, or does not matter any more.
    pub(in crate::hub) fn resolved(
        &mut self,
        server: ServerId,
        thread: &ThreadId,
        id: Option<&RawValue>,
        method: &str,
        text: &Text,
    ) {
        let Some(id) = id else { return self.tell_viewers(thread, method, text) };
        // Of one that was asked before this gateway was there nobody knows.
        if let Some(number) = self.asks.find(Connection::Shared(server), id.get())
            && let Some(ask) = self.asks.waiting.remove(&number)
        {
            let text = text::splice(text, id.get(), &number.to_string());
            self.tell_resolved(thread, &ask, method, &text);
        }
    }

    /// The app-server that asked is gone: nobody can answer any more.
    pub(in crate::hub) fn withdraw_asks(&mut self, thread: &ThreadId, only_lost: bool) {
        let mut numbers: Vec<u64> = (self.asks.waiting.values())
            .filter(|ask| ask.thread.as_ref() == Some(thread) && (ask.lost || !only_lost))
            .map(|ask| ask.number)
            .collect();
        numbers.sort_unstable();
        for number in numbers {
            let Some(ask) = self.asks.waiting.remove(&number) else { continue };
            let params = serde_json::json!({"threadId": &**thread, "requestId": number});
            let method = "serverRequest/resolved";
            self.tell_resolved(thread, &ask, method, &text::notification(method, &params));
        }
    }

    pub(in crate::hub) fn forget_asks(&mut self, link: Connection) {
        self.asks.waiting.retain(|_, ask| ask.link != link || ask.thread.is_some());
        self.asks.waiting.values_mut().filter(|ask| ask.link == link).for_each(|ask| ask.lost = true);
    }
}
