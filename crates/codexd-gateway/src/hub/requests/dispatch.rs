//! A client's message: validation, and the connection that it is sent over.

use codexd_protocol::check::Refusal;
use codexd_protocol::envelope::{self, INVALID_REQUEST, Message};

use crate::hub::Hub;
use crate::hub::clients::client::{QueuedRequest, Stage};
use crate::hub::clients::unanswered::{TooMany, too_many};
use crate::hub::event::{Action, ClientId, Connection, Report, ServerId, Text, ThreadId};
use crate::hub::goals::goal_intent;
use crate::hub::requests::pending::{Origin, PendingRequest, RequestKind};
use crate::hub::snapshot;
use crate::hub::text::SERVER_ERROR;
use crate::hub::text::{self, Names};
use crate::hub::threads::state::ThreadState;
use crate::limits::{BUSY_AFTER_EVENT_MS, UNANSWERED_MAX};
use crate::routes::{self, Route, Special, gates};

/// Result of trying to dispatch a queued request.
pub(in crate::hub) enum DispatchOutcome {
    /// Sent, or answered by the gateway.
    Done,
    /// Blocked, and with it every request of this client.
    Blocked,
    /// Blocked, and with it every request that must not overtake it
    /// ([`OrderingKey`](crate::hub::requests::ordering::OrderingKey)).
    BlockedByKey,
}

impl Hub {
    pub(in crate::hub) fn on_client_message(&mut self, id: ClientId, text: &Text) {
        let checked = match codexd_protocol::check(text) {
            Ok(checked) => checked,
            Err(refusal) => return self.refuse_text(id, &refusal),
        };
        if let Some(escaped) = checked.escaped_method {
            return self.on_escaped_method(id, escaped, text);
        }
        let Some(client) = self.clients.get(&id) else { return };
        match checked.message {
            Message::Response { id: answered, outcome } => {
                self.on_client_response(id, answered.get(), outcome.is_ok(), text);
            }
            Message::Notification { method: "initialized", .. } => {}
            Message::Notification { .. } => {
                if let Some(server) = client.dedicated.open() {
                    self.send_upstream(Connection::Dedicated(id, server), text.clone());
                }
            }
            Message::Request { id: raw, method: "initialize", params } => {
                self.on_initialize(id, raw.get(), params.map(serde_json::value::RawValue::get));
            }
            Message::Request { id: raw, method: snapshot::METHOD, .. } => {
                self.send_to_client(id, text::result(raw.get(), &self.snapshot().to_string()));
            }
            Message::Request { id: raw, .. } if matches!(client.stage, Stage::New) => {
                self.send_to_client(id, text::error(raw.get(), INVALID_REQUEST, "Not initialized", None));
            }
            Message::Request { .. } => {
                self.adopt_identity_of(id);
                self.enqueue_request(id, text.clone());
            }
        }
    }

    /// Refuses a message that an app-server would drop without a reply, which would leave the client waiting.
    fn refuse_text(&mut self, id: ClientId, refusal: &Refusal<'_>) {
        // The id of a response is that of a server request; a request of the client may use the same.
        let raw = refusal.id.filter(|_| !refusal.is_answer).unwrap_or("null");
        self.send_to_client(id, text::error(raw, refusal.code, &refusal.reason, None));
        if refusal.is_answer
            && let Some(request) = refusal.id.filter(|raw| self.server_requests.awaits(id, raw))
        {
            let (request, reason) = (request.to_owned(), refusal.reason.clone());
            self.out.push(Action::Report(Report::AnswerRefused { client: id, request, reason }));
        }
    }

    /// Some JSON writers escape the slash in method names: the message is read again without escapes.
    fn on_escaped_method(&mut self, id: ClientId, escaped: &str, text: &Text) {
        let method = serde_json::from_str::<String>(escaped).unwrap_or_default();
        let plain = serde_json::Value::from(method).to_string();
        if !plain.contains('\\') {
            return self.on_client_message(id, &text::splice(text, escaped, &plain));
        }
        let raw = text::member(text, "id").map_or("null", serde_json::value::RawValue::get);
        let message = "Invalid request: no method has such a name";
        self.send_to_client(id, text::error(raw, INVALID_REQUEST, message, None));
    }

    /// Appends a request to its client's queue.
    fn enqueue_request(&mut self, id: ClientId, text: Text) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        client.queued_bytes += text.len();
        client.queued.push_back(QueuedRequest::new(text, self.now));
        self.join_run_queue(id);
        self.changes.requests_changed();
    }

    /// Dispatches a client's queued request, or returns why not.
    pub(in crate::hub) fn dispatch(&mut self, id: ClientId, waiting: &QueuedRequest) -> DispatchOutcome {
        let Some(client) = self.clients.get(&id) else { return DispatchOutcome::Done };
        let drains = |server: &ServerId| self.servers.get(server).is_some_and(|server| server.is_draining);
        // Before parsing: the text may be large and may be tried often.
        if !client.is_ready() || !self.has_permit_for(id) {
            return DispatchOutcome::Blocked;
        }
        if waiting.refused_by.as_ref().is_some_and(drains) {
            return DispatchOutcome::BlockedByKey;
        }
        let Ok(Message::Request { id: raw, method, params }) = envelope::parse(&waiting.text) else {
            return DispatchOutcome::Done;
        };
        if params.is_some_and(|params| params.get().starts_with('[')) && !routes::may_be_positional(method) {
            self.send_to_client(id, text::error(raw.get(), INVALID_REQUEST, &positional(method), None));
            return DispatchOutcome::Done;
        }
        if let Err(message) = gates::check(method, params, client.capabilities.experimental) {
            self.send_to_client(id, text::error(raw.get(), INVALID_REQUEST, &message, None));
            return DispatchOutcome::Done;
        }
        match self.has_too_many_unanswered(id) {
            None => {}
            Some(TooMany::Bytes) => return DispatchOutcome::Blocked,
            Some(TooMany::Requests) => {
                let message = format!("{UNANSWERED_MAX} requests of this client have no answer yet");
                self.send_to_client(id, text::error(raw.get(), SERVER_ERROR, &message, Some(&too_many())));
                return DispatchOutcome::Done;
            }
        }
        let route = routes::route(method);
        let names = Names::of(params);
        match route {
            Route::Hub => self.send_shared(id, method, names.thread(), raw.get(), &waiting.text),
            Route::HubOrDedicated if names.thread().is_some() => {
                self.send_shared(id, method, names.thread(), raw.get(), &waiting.text)
            }
            Route::Gateway(Special::RequestId) => {
                self.send_with_request_id(id, method, raw.get(), &waiting.text, params)
            }
            Route::Gateway(_) => self.dispatch_special(id, method, &names, raw.get(), &waiting.text),
            Route::HubOrDedicated | Route::Dedicated => {
                self.send_dedicated(id, method, raw.get(), &waiting.text, params)
            }
        }
    }

    /// Whether [`Hub::dispatch`] sends a request over the client's dedicated connection.
    pub(in crate::hub) fn uses_dedicated(&self, request: &str) -> bool {
        let Ok(Message::Request { method, params, .. }) = envelope::parse(request) else { return false };
        match routes::route(method) {
            Route::Dedicated => true,
            Route::HubOrDedicated => Names::of(params).thread().is_none(),
            Route::Gateway(Special::ThreadList | Special::ThreadSearch | Special::LoadedList) => {
                !self.completes_lists()
            }
            Route::Gateway(Special::Unsubscribe) => {
                let names = Names::of(params);
                let is_unknown = |thread| !self.threads.contains_key(thread) && !self.pending.concern(thread);
                names.thread().is_none_or(|thread| !self.is_listing() && is_unknown(thread))
            }
            // One whose request is pending is not queued.
            Route::Gateway(Special::RequestId) => true,
            Route::Hub | Route::Gateway(_) => false,
        }
    }

    /// Requests that the gateway answers or inspects.
    fn dispatch_special(
        &mut self,
        id: ClientId,
        method: &str,
        names: &Names<'_>,
        raw: &str,
        text: &Text,
    ) -> DispatchOutcome {
        match method {
            "thread/unsubscribe" => self.unsubscribe(id, names, raw, text),
            "mcpServer/event/stream/stop" => {
                // It goes to the app-server that has the stream's thread.
                let of = |stream: &&crate::hub::clients::replayed_settings::EventStream| {
                    stream.owner == id && names.is_stream(&stream.name)
                };
                let thread =
                    self.replayed.event_streams().iter().find(of).map(|stream| stream.thread().clone());
                let sent = self.send_shared(id, method, thread.as_deref(), raw, text);
                if matches!(sent, DispatchOutcome::Done) {
                    self.remove_event_stream(id, text);
                }
                sent
            }
            // Over the shared connection, so that the answer can be completed from what the hub knows.
            _ if (method == "thread/loaded/list" || lists_threads(method)) && self.completes_lists() => {
                self.send_shared(id, method, None, raw, text)
            }
            _ => {
                let params = text::member(text, "params");
                self.send_dedicated(id, method, raw, text, params)
            }
        }
    }

    /// Sends a request over the shared connection of the app-server that has its thread.
    pub(in crate::hub) fn send_shared(
        &mut self,
        id: ClientId,
        method: &str,
        thread: Option<&str>,
        raw: &str,
        text: &Text,
    ) -> DispatchOutcome {
        let known = thread.and_then(|thread| self.threads.get(thread));
        // Resuming a refused thread requests a new attempt, possibly with the parameters that were missing.
        let resumes = |thread: &crate::hub::threads::thread::Thread| {
            method == "thread/resume" && thread.state == ThreadState::Orphaned && thread.is_refused()
        };
        if let Some(known) = known.filter(|thread| thread.state != ThreadState::Attached && !resumes(thread))
        {
            let thread = known.id.clone();
            self.demand(id, &thread);
            return DispatchOutcome::BlockedByKey;
        }
        // Another app-server may have it and is about to report it.
        if known.is_none() && thread.is_some() && self.is_listing() {
            return DispatchOutcome::BlockedByKey;
        }
        let Some(server) = known.map(|thread| thread.server).or(self.servers.serving()) else {
            return DispatchOutcome::Blocked;
        };
        let starts = routes::starts_turn(method);
        let draining = self.servers.get(&server).is_some_and(|server| server.is_draining);
        let is_full = self.back_pressure.is_full(Connection::Shared(server));
        if is_full || !self.is_up(server) || (draining && (starts || method == "thread/start")) {
            return DispatchOutcome::BlockedByKey;
        }
        let kind = routes::methods::kind(method).over_shared();
        let as_it_was = match (kind, thread) {
            (RequestKind::Resume, Some(thread)) if known.is_none() => self.with_parked_settings(thread, text),
            _ => None,
        };
        let (text, raw) = match &as_it_was {
            Some(text) => (text, text::member(text, "id").map_or(raw, serde_json::value::RawValue::get)),
            None => (text, raw),
        };
        let thread: Option<ThreadId> = thread.map(ThreadId::from);
        if kind == RequestKind::EventStream
            && let Some(thread) = &thread
        {
            if let Some(refusal) = self.too_many_streams(id, text) {
                self.send_to_client(id, text::error(raw, SERVER_ERROR, &refusal, Some(&too_many())));
                return DispatchOutcome::Done;
            }
            self.add_event_stream(id, thread, text);
        }
        if let Some(thread) = thread.as_ref().and_then(|thread| self.threads.get_mut(thread)) {
            match kind {
                RequestKind::Turn | RequestKind::MayStartTurn => {
                    thread.busy_until = thread.busy_until.max(self.now + BUSY_AFTER_EVENT_MS);
                }
                RequestKind::Resume => thread.last_subscriber = Some(id),
                _ => {}
            }
        }
        self.deprecation_notices.request_sent(id, method, text);
        if let Some(intent) = goal_intent(method, text)
            && let Some(thread) = &thread
        {
            self.on_goal_request(thread, self.pending.next_id(), intent);
        }
        let number = self.send(Connection::Shared(server), id, kind, thread, raw, text);
        self.answer_is_due(number, method);
        DispatchOutcome::Done
    }

    /// Sends a client's request over a connection, under an id of the gateway's own, which it returns. `raw` is the id as it stands
    /// in `text`.
    pub(in crate::hub) fn send(
        &mut self,
        connection: Connection,
        client: ClientId,
        kind: RequestKind,
        thread: Option<ThreadId>,
        raw: &str,
        text: &Text,
    ) -> u64 {
        let upstream = self.pending.take_id();
        let spliced = text::splice(text, raw, &upstream.to_string());
        self.send_spliced(upstream, connection, client, kind, thread, raw, text, spliced);
        upstream
    }

    /// Sends a client's request over a connection as `spliced`, under the gateway's id `upstream`.
    #[expect(clippy::too_many_arguments, reason = "what is known of a request, once more")]
    pub(in crate::hub) fn send_spliced(
        &mut self,
        upstream: u64,
        connection: Connection,
        client: ClientId,
        kind: RequestKind,
        thread: Option<ThreadId>,
        raw: &str,
        text: &Text,
        spliced: Text,
    ) {
        if let Some(thread) = &thread {
            self.pending.add_of_thread(thread);
        }
        let origin =
            Origin::Client { client, id: raw.into(), kind, thread: thread.clone(), text: text.clone() };
        self.pending.insert(
            upstream,
            PendingRequest { connection, origin, has_permit: true, is_truncated: false, overdue_at: None },
        );
        self.acquire_permit(client, upstream);
        self.back_pressure.sent(spliced.len());
        self.count_unanswered(client, text.len());
        let changes_goal = self.goals.changes_goal(upstream);
        self.send_about_thread(connection, thread.as_ref(), changes_goal, spliced);
    }
}

/// Error for positional parameters: the schema does not give their order, so the gateway cannot read them.
fn positional(method: &str) -> String {
    format!("Invalid request: the params of {method} must be an object, not an array")
}

/// Whether a request lists threads with status, which an app-server knows of its own threads only.
pub(in crate::hub) fn lists_threads(method: &str) -> bool {
    routes::methods::kind(method) == RequestKind::ThreadList
}
