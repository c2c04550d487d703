//! What a client says: which way it goes.

use codexd_protocol::envelope::{self, EnvelopeError, INVALID_REQUEST, Message};

use super::Hub;
use super::call::{Asker, Call, Kind};
use super::client::{Stage, Waiting};
use super::event::{ClientId, Link, ServerId, Text};
use super::goals::word_of_goal;
use super::text::{self, Names};
use super::thread::{Motion, ThreadId};
use crate::limits::{QUIET_MS, RESUMERS_MAX};
use crate::routes::{self, Route, Special, gates};

/// JSON-RPC's code for what is no JSON.
const PARSE_ERROR: i64 = -32700;

/// What became of a request whose turn it was.
pub(super) enum Dispatched {
    /// It was sent on, or answered.
    Done,
    /// Not now, nor anything else of this client.
    Waits,
    /// Not now, nor what must not overtake it ([`Lane`](super::lanes::Lane)).
    WaitsInLane,
}

impl Hub {
    pub(super) fn client_said(&mut self, id: ClientId, text: &Text) {
        let Some(client) = self.clients.get(&id) else { return };
        match envelope::parse(text) {
            Ok(Message::Response { id: ask, outcome }) => {
                self.client_answered(id, ask.get(), outcome.is_ok(), text);
            }
            Ok(Message::Notification { method: "initialized", .. }) => {}
            Ok(Message::Notification { .. }) => {
                if let Some(server) = client.dedicated.open() {
                    self.say(Link::Own(id, server), text.clone());
                }
            }
            Ok(message @ Message::Request { id: raw, method, params }) => {
                if message.request_id().is_none() {
                    let message = "Invalid request: the id must be a string or a 64-bit integer";
                    self.tell(id, text::error(raw.get(), INVALID_REQUEST, message, None));
                } else if method == "initialize" {
                    self.introduced(id, raw.get(), params.map(serde_json::value::RawValue::get));
                } else if matches!(client.stage, Stage::New) {
                    self.tell(id, text::error(raw.get(), INVALID_REQUEST, "Not initialized", None));
                } else {
                    self.take_persona_of(id);
                    self.hold(id, text.clone());
                    self.pump();
                }
            }
            Err(EnvelopeError::Json(error)) if error.is_syntax() || error.is_eof() => {
                self.tell(id, text::error("null", PARSE_ERROR, &format!("Parse error: {error}"), None));
            }
            Err(_) => {
                let message = "Invalid request: a message is an object with a method, a result or an error";
                self.tell(id, text::error("null", INVALID_REQUEST, message, None));
            }
        }
    }

    /// Puts a request behind those of its client.
    fn hold(&mut self, id: ClientId, text: Text) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        client.waiting_bytes += text.len();
        client.waiting.push_back(Waiting::new(text, self.now));
        self.queue_up(id);
    }

    /// Sends on the request of a client whose turn it is.
    pub(super) fn dispatch(&mut self, id: ClientId, waiting: &Waiting) -> Dispatched {
        let Some(client) = self.clients.get(&id) else { return Dispatched::Done };
        let drains = |server: &ServerId| self.servers.get(server).is_some_and(|server| server.draining);
        // Before it is read: it may be large, and be looked at often.
        if !client.is_ready() || !self.has_slot(id) {
            return Dispatched::Waits;
        }
        if waiting.refused_by.as_ref().is_some_and(drains) {
            return Dispatched::WaitsInLane;
        }
        let Ok(Message::Request { id: raw, method, params }) = envelope::parse(&waiting.text) else {
            return Dispatched::Done;
        };
        if let Err(message) = gates::check(method, params, client.capabilities.experimental) {
            self.tell(id, text::error(raw.get(), INVALID_REQUEST, &message, None));
            return Dispatched::Done;
        }
        let route = routes::route(method);
        let names = match route {
            Route::Hub | Route::Gateway(_) => Names::of_request(params),
            _ => Names::of(params),
        };
        match route {
            Route::Hub => self.send_shared(id, method, names.thread(), raw.get(), &waiting.text),
            Route::HubOrOwn if names.thread().is_some() => {
                self.send_shared(id, method, names.thread(), raw.get(), &waiting.text)
            }
            Route::Gateway(Special::RequestId) => {
                self.send_with_request_id(id, method, raw.get(), &waiting.text, params)
            }
            Route::Gateway(_) => self.special(id, method, &names, raw.get(), &waiting.text),
            Route::HubOrOwn | Route::Own(_) => self.send_own(id, method, raw.get(), &waiting.text, params),
        }
    }

    /// Whether [`Hub::dispatch`] sends a request over the client's dedicated connection.
    pub(super) fn is_dedicated(&self, request: &str) -> bool {
        let Ok(Message::Request { method, params, .. }) = envelope::parse(request) else { return false };
        match routes::route(method) {
            Route::Own(_) => true,
            Route::HubOrOwn => Names::of(params).thread().is_none(),
            Route::Gateway(Special::ThreadList | Special::ThreadSearch | Special::LoadedList) => {
                !self.completes_lists()
            }
            Route::Gateway(Special::Unsubscribe) => {
                let names = Names::of_request(params);
                names.thread().is_none_or(|thread| !self.is_listing() && !self.threads.contains_key(thread))
            }
            // One whose request is under way does not wait.
            Route::Gateway(Special::RequestId) => true,
            Route::Hub | Route::Gateway(_) => false,
        }
    }

    /// What the gateway answers itself, or has to look at.
    fn special(
        &mut self,
        id: ClientId,
        method: &str,
        names: &Names<'_>,
        raw: &str,
        text: &Text,
    ) -> Dispatched {
        match method {
            "thread/unsubscribe" => self.unsubscribe(id, names, raw, text),
            "mcpServer/event/stream/stop" => {
                // It goes where the thread is that the stream belongs to.
                let of = |stream: &&super::EventStream| stream.owner == id && names.is_stream(&stream.name);
                let thread = self.streams.iter().find(of).map(|stream| stream.thread().clone());
                let sent = self.send_shared(id, method, thread.as_deref(), raw, text);
                if matches!(sent, Dispatched::Done) {
                    self.stream_ended(id, text);
                }
                sent
            }
            // The shared link asks for all of them, so that one answer can be completed from what the hub knows.
            _ if (method == "thread/loaded/list" || lists_threads(method)) && self.completes_lists() => {
                self.send_shared(id, method, None, raw, text)
            }
            _ => {
                let params = text::member(text, "params");
                self.send_own(id, method, raw, text, params)
            }
        }
    }

    /// Sends a request over the shared link of the app-server that has its thread.
    pub(super) fn send_shared(
        &mut self,
        id: ClientId,
        method: &str,
        thread: Option<&str>,
        raw: &str,
        text: &Text,
    ) -> Dispatched {
        let known = thread.and_then(|thread| self.threads.get(thread));
        // A client that resumes a refused thread asks for a new attempt, perhaps with the parameters that were missing.
        let resumes = |thread: &super::Thread| {
            method == "thread/resume" && thread.motion == Motion::Lost && thread.is_refused()
        };
        if let Some(known) = known.filter(|thread| thread.motion != Motion::Still && !resumes(thread)) {
            let thread = known.id.clone();
            self.demand(id, &thread);
            return Dispatched::WaitsInLane;
        }
        // Another app-server may have it, which is about to say so.
        if known.is_none() && thread.is_some() && self.is_listing() {
            return Dispatched::WaitsInLane;
        }
        let Some(server) = known.map(|thread| thread.server).or(self.serving) else {
            return Dispatched::Waits;
        };
        let starts = routes::starts_turn(method);
        let draining = self.servers.get(&server).is_some_and(|server| server.draining);
        if !self.is_up(server) || (draining && (starts || method == "thread/start")) {
            return Dispatched::WaitsInLane;
        }
        let kind = match method {
            "thread/start" | "thread/fork" => Kind::NewThread,
            "thread/resume" => Kind::Resume,
            "turn/start" => Kind::Turn,
            "turn/interrupt" => Kind::Interrupt,
            "thread/unsubscribe" => Kind::Unsubscribe,
            "thread/loaded/list" => Kind::LoadedList,
            _ if lists_threads(method) => Kind::ThreadList,
            "mcpServer/event/stream/start" => Kind::EventStream,
            "thread/goal/get" => Kind::Goal,
            _ if starts => Kind::Starter,
            _ => Kind::Plain,
        };
        let as_it_was = match (kind, thread) {
            (Kind::Resume, Some(thread)) if known.is_none() => self.with_parked_settings(thread, text),
            _ => None,
        };
        let (text, raw) = match &as_it_was {
            Some(text) => (text, text::member(text, "id").map_or(raw, serde_json::value::RawValue::get)),
            None => (text, raw),
        };
        let thread: Option<ThreadId> = thread.map(ThreadId::from);
        if kind == Kind::EventStream
            && let Some(thread) = &thread
        {
            self.stream_begins(id, thread, text);
        }
        if let Some(thread) = thread.as_ref().and_then(|thread| self.threads.get_mut(thread)) {
            match kind {
                Kind::Turn | Kind::Starter => thread.quiet_at = self.now + QUIET_MS,
                Kind::Resume => thread.joiner = Some(id),
                _ => {}
            }
        }
        if asks_for_turns(method, text) {
            self.resumers.push_back(id);
            // Older app-servers do not mind.
            if self.resumers.len() > RESUMERS_MAX {
                self.resumers.pop_front();
            }
        }
        if let Some(word) = word_of_goal(method, text)
            && let Some(thread) = &thread
        {
            self.goal_said(thread, self.next_call, word);
        }
        self.send(Link::Shared(server), id, kind, thread, raw, text);
        Dispatched::Done
    }

    /// Sends a client's request over a link, under an id of the gateway's own. `raw` is the id as it stands in `text`.
    pub(super) fn send(
        &mut self,
        link: Link,
        client: ClientId,
        kind: Kind,
        thread: Option<ThreadId>,
        raw: &str,
        text: &Text,
    ) {
        let upstream = self.call_id();
        let spliced = text::splice(text, raw, &upstream.to_string());
        self.send_spliced(upstream, link, client, kind, thread, raw, text, spliced);
    }

    /// Sends a client's request over a link as `spliced`, under the gateway's id `upstream`.
    #[expect(clippy::too_many_arguments, reason = "what is known of a request, once more")]
    pub(super) fn send_spliced(
        &mut self,
        upstream: u64,
        link: Link,
        client: ClientId,
        kind: Kind,
        thread: Option<ThreadId>,
        raw: &str,
        text: &Text,
        spliced: Text,
    ) {
        if let Some(thread) = &thread {
            self.requests_of(thread, 1);
        }
        let asker = Asker::Client { client, id: raw.into(), kind, thread, text: text.clone() };
        self.calls.insert(upstream, Call { link, asker, holds_slot: true });
        self.take_slot(client, upstream);
        self.say(link, spliced);
    }
}

/// Whether a request lists threads with their status, which an app-server knows of its own threads only.
pub(super) fn lists_threads(method: &str) -> bool {
    matches!(routes::route(method), Route::Gateway(Special::ThreadList | Special::ThreadSearch))
}

/// Whether a thread is asked for with all its turns, which is of old: upstream says so before it answers (0.169.0).
pub(super) fn asks_for_turns(method: &str, request: &str) -> bool {
    let says = |name: &str| {
        text::member(request, "params")
            .and_then(|params| text::member(params.get(), name))
            .is_some_and(|flag| flag.get() == "true")
    };
    match method {
        "thread/resume" | "thread/fork" => !says("excludeTurns"),
        "thread/read" => says("includeTurns"),
        _ => false,
    }
}
