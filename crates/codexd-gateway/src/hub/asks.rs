//! What app-servers ask clients: approvals above all.
//!
//! Upstream counts its questions from 0 in every process, so two of them use the same numbers; the gateway gives each
//! question a number of its own for all clients.

use std::collections::HashMap;

use serde_json::value::RawValue;

use super::event::{ClientId, Link, ServerId, Text};
use super::replies::thread_of;
use super::thread::{Audience, ThreadId, Viewer};
use super::{Hub, text};
use crate::routes::{self, ServerRequestScope, gates};

/// A kind of approval that only clients may see that promise a person's answer.
const HUMAN: &str = "humanCommand";

/// Asked of one client that has said at `initialize` that it can.
const ATTESTATION: &str = "attestation/generate";

fn nobody_attests(id: &str) -> Text {
    text::error(id, super::pump::SERVER_ERROR, "no client that attests requests is connected", None)
}

/// A question that waits for an answer.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The gateway's number.
    number: u64,
    link: Link,
    /// Upstream's id, raw.
    upstream: Box<str>,
    thread: Option<ThreadId>,
    /// The question under the gateway's number.
    text: Text,
    human_only: bool,
    /// Who may answer.
    asked: Vec<ClientId>,
    /// The answer of the first who gave one, as it went on.
    answer: Option<Text>,
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
    pub fn client_left(&mut self, client: ClientId) {
        self.waiting.retain(|_, ask| !matches!(ask.link, Link::Own(owner, _) if owner == client));
        for ask in self.waiting.values_mut() {
            ask.asked.retain(|asked| *asked != client);
        }
        // Nobody who comes later is asked what is about no thread.
        self.waiting.retain(|_, ask| ask.thread.is_some() || !ask.asked.is_empty());
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

    /// How many wait for an answer.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    fn find(&self, link: Link, upstream: &str) -> Option<u64> {
        self.waiting.values().find(|ask| ask.link == link && *ask.upstream == *upstream).map(|ask| ask.number)
    }
}

impl Hub {
    /// An app-server asks something.
    pub(super) fn asked(
        &mut self,
        link: Link,
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
        if matches!(link, Link::Own(..)) && asks_all {
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
            answer: None,
            lost: false,
            is_over_untold: !routes::is_resolved(method),
            experimental_only: mode.is_some_and(|mode| gates::elicitation_needs_experimental(&mode)),
        };
        let text = ask.text.clone();
        let asked = match method {
            // Upstream asks one of those who can, and waits for the answer before it asks the model.
            ATTESTATION if matches!(link, Link::Shared(_)) => match self.who_attests() {
                Some(client) => vec![client],
                None => return self.say(link, nobody_attests(id.get())),
            },
            _ => self.who_is_asked(&ask),
        };
        for client in &asked {
            self.tell(*client, text.clone());
        }
        self.asks.waiting.insert(number, Ask { asked, ..ask });
    }

    fn who_attests(&self) -> Option<ClientId> {
        let attests = |client: &&super::Client| client.is_ready() && client.capabilities.attests;
        self.clients.values().filter(attests).map(|client| client.id).min()
    }

    /// The same question once more, behind a resume. If its link had broken, the answer may not have arrived.
    fn asked_again(&mut self, link: Link, number: u64) {
        let Some(ask) = self.asks.waiting.get_mut(&number) else { return };
        if std::mem::take(&mut ask.lost)
            && let Some(answer) = ask.answer.clone()
        {
            self.say(link, answer);
        }
    }

    fn who_is_asked(&mut self, ask: &Ask) -> Vec<ClientId> {
        let everyone = |hub: &Hub| {
            let ready = hub.clients.values().filter(|client| client.is_ready());
            let may = ready.filter(|client| {
                ask.may_see(client.capabilities.experimental, client.capabilities.human_approval)
            });
            may.map(|client| client.id).collect::<Vec<_>>()
        };
        match (ask.link, &ask.thread) {
            (Link::Own(client, _), _) => vec![client],
            (_, None) => everyone(self),
            (Link::Shared(_), Some(thread)) => {
                match self.threads.get(thread).map(|thread| &thread.audience) {
                    Some(Audience::Viewers(viewers)) => {
                        let may = viewers
                            .iter()
                            .filter(|viewer| ask.may_see(viewer.experimental, viewer.human_approval));
                        may.map(|viewer| viewer.client).collect()
                    }
                    Some(Audience::Everyone { but }) => {
                        let but = but.clone();
                        everyone(self).into_iter().filter(|client| !but.contains(client)).collect()
                    }
                    None => everyone(self),
                }
            }
        }
    }

    /// Asks one who has just joined what waits for an answer in the thread.
    pub(super) fn ask_joiner(&mut self, viewer: &Viewer, thread: &ThreadId) {
        let mut pending: Vec<&mut Ask> = self
            .asks
            .waiting
            .values_mut()
            .filter(|ask| ask.thread.as_ref() == Some(thread) && ask.answer.is_none())
            .filter(|ask| ask.may_see(viewer.experimental, viewer.human_approval))
            .collect();
        pending.sort_by_key(|ask| ask.number);
        for ask in pending {
            if !ask.asked.contains(&viewer.client) {
                ask.asked.push(viewer.client);
            }
            self.out.push(super::Action::Tell(viewer.client, ask.text.clone()));
        }
    }

    /// A client answers. Nobody hears of an answer by one who was not asked, or of a second one, as upstream has it.
    pub(super) fn client_answered(&mut self, client: ClientId, id: &str, _is_result: bool, text: &Text) {
        let Ok(number) = id.parse::<u64>() else { return };
        let Some(ask) = self.asks.waiting.get_mut(&number) else { return };
        if ask.answer.is_some() || !ask.asked.contains(&client) {
            return;
        }
        let (link, lost, answer) = (ask.link, ask.lost, text::splice(text, id, &ask.upstream));
        ask.answer = Some(answer.clone());
        // Of those about no thread nobody tells that they are resolved.
        if ask.thread.is_none() {
            self.asks.waiting.remove(&number);
        }
        // It is said when the question comes again.
        if !lost {
            self.say(link, answer);
        }
    }

    /// Upstream says that a question is answered, or does not matter any more.
    pub(super) fn resolved(
        &mut self,
        server: ServerId,
        thread: &ThreadId,
        id: Option<&RawValue>,
        method: &str,
        text: &Text,
    ) {
        let Some(id) = id else { return self.tell_viewers(thread, method, text) };
        // Of one that was asked before this gateway was there nobody knows.
        if let Some(number) = self.asks.find(Link::Shared(server), id.get()) {
            self.asks.waiting.remove(&number);
            let text = text::splice(text, id.get(), &number.to_string());
            self.tell_viewers(thread, method, &text);
        }
    }

    /// The app-server that asked is gone: nobody can answer any more.
    pub(super) fn withdraw_asks(&mut self, thread: &ThreadId, only_lost: bool) {
        let mut numbers: Vec<u64> = (self.asks.waiting.values())
            .filter(|ask| ask.thread.as_ref() == Some(thread) && (ask.lost || !only_lost))
            .map(|ask| ask.number)
            .collect();
        numbers.sort_unstable();
        for number in numbers {
            self.asks.waiting.remove(&number);
            let params = serde_json::json!({"threadId": &**thread, "requestId": number});
            let method = "serverRequest/resolved";
            self.tell_viewers(thread, method, &text::notification(method, &params));
        }
    }

    pub(super) fn forget_asks(&mut self, link: Link) {
        self.asks.waiting.retain(|_, ask| ask.link != link || ask.thread.is_some());
        self.asks.waiting.values_mut().filter(|ask| ask.link == link).for_each(|ask| ask.lost = true);
    }
}
