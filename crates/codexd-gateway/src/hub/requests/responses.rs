//! Messages from app-servers, and what a response to a client's request means.

use codexd_protocol::envelope::{self, Message};
use serde_json::value::RawValue;

use crate::hub::clients::client::QueuedRequest;
use crate::hub::event::{ClientId, Connection, ServerId, Text, ThreadId};
use crate::hub::goals::RequestFate;
use crate::hub::refusal::is_draining;
use crate::hub::requests::pending::{Origin, PendingRequest, RequestKind};
use crate::hub::text;
use crate::hub::threads::state::ThreadState;
use crate::hub::threads::thread::{Audience, Thread, Viewer};
use crate::hub::{Hub, Timer};
use crate::limits::{BUSY_AFTER_EVENT_MS, OVERLOADED_PAUSE_MS};
use codexd_protocol::methods::ResourceKind;

impl Hub {
    pub(in crate::hub) fn on_connection_message(&mut self, connection: Connection, text: &Text) {
        match envelope::parse(text) {
            Ok(Message::Response { id, outcome }) => self.on_response(connection, id, outcome, text),
            Ok(Message::Notification { method, params }) => match connection {
                Connection::Shared(server) => self.on_notification(server, method, params, text),
                Connection::Dedicated(client, server) => {
                    self.on_dedicated_notification(client, server, method, params, text);
                }
            },
            Ok(Message::Request { id, method, params }) => {
                self.on_server_request(connection, id, method, params, text);
            }
            // Not a protocol message: dropped.
            Err(_) => {}
        }
    }

    fn on_response(
        &mut self,
        connection: Connection,
        id: &RawValue,
        outcome: Result<&RawValue, &RawValue>,
        text: &Text,
    ) {
        let Some(number) = id.get().parse().ok() else { return };
        let Some(pending) = self.pending.remove(number) else { return };
        if pending.connection != connection {
            self.pending.insert(number, pending);
            return;
        }
        let PendingRequest { origin, has_permit, is_truncated, .. } = pending;
        match origin {
            Origin::Internal(request) => self.on_internal_response(connection, request, outcome),
            Origin::Client { client, id: raw, kind, thread, text: request } => {
                if has_permit {
                    self.release_permit(client);
                }
                self.deprecation_notices.request_done(client, &request);
                let mut fate = if outcome.is_ok() { RequestFate::Accepted } else { RequestFate::Refused };
                let is_unseen = self.was_refused_unseen(connection.server(), outcome) && !is_truncated;
                if is_unseen && self.clients.contains_key(&client) {
                    fate = RequestFate::Requeued;
                    self.requeue_first(client, request, connection.server(), number);
                } else {
                    let response = match kind {
                        RequestKind::Goal => self.hide_suspension(thread.as_ref(), text),
                        RequestKind::LoadedList | RequestKind::ThreadList => {
                            self.completed_list(connection.server(), kind, text, &request)
                        }
                        _ => text.clone(),
                    };
                    let response = match text::member(&response, "id") {
                        Some(id) => text::splice(&response, id.get(), &raw),
                        None => response,
                    };
                    self.record_response(connection, client, kind, &request, outcome);
                    self.deliver_response(connection, client, kind, thread.as_ref(), outcome, response);
                    if let Ok(result) = outcome {
                        self.on_settings_response(connection.server(), client, kind, &request, result.get());
                    }
                }
                if let Some(thread) = thread {
                    if self.on_goal_request_done(&thread, number, fate) {
                        self.resume_goal_unless_migrating(&thread);
                    }
                    self.on_thread_request_done(&thread);
                }
            }
        }
        self.changes.requests_changed();
        if self.servers.get(&connection.server()).is_some_and(|server| server.is_outgoing) {
            if let Connection::Dedicated(client, _) = connection {
                self.changes.dedicated_released(client);
            }
            self.changes.holding_released();
        }
    }

    /// Whether a request was refused before it was processed, so that it can be sent again: the app-server drains or
    /// is overloaded.
    fn was_refused_unseen(&mut self, server: ServerId, outcome: Result<&RawValue, &RawValue>) -> bool {
        let draining = outcome.is_err_and(|error| is_draining(error.get()));
        if draining {
            self.on_draining(server);
        }
        let code = outcome.err().and_then(|error| text::member(error.get(), "code"));
        let overloaded = code.is_some_and(|code| code.get().parse() == Ok(envelope::OVERLOADED));
        if overloaded {
            // A busy machine empties upstream's queue more slowly than permits expire.
            self.queue.pause_until(self.now + OVERLOADED_PAUSE_MS);
            self.set_timer(OVERLOADED_PAUSE_MS, Timer::ReleasePermits);
        }
        draining || overloaded
    }

    /// Records resources, settings and event streams that a response created or ended.
    fn record_response(
        &mut self,
        connection: Connection,
        client: ClientId,
        kind: RequestKind,
        request: &str,
        outcome: Result<&RawValue, &RawValue>,
    ) {
        match (kind, outcome) {
            (RequestKind::Exec, _) => {
                self.end_resource_of_request(client, ResourceKind::Command, "processId", request);
            }
            (RequestKind::Spawn, Err(_)) => {
                self.end_resource_of_request(client, ResourceKind::Process, "processHandle", request);
            }
            (RequestKind::StartsBackground(background), Ok(result)) => {
                self.track_background(client, connection.server(), background, request, result.get());
            }
            (RequestKind::Replayed, Ok(_)) => self.add_replayable(client, connection, request),
            (RequestKind::Setting, Ok(_)) => self.record_setting(request),
            (RequestKind::EventStream, Err(_)) => {
                self.remove_event_stream(client, request);
            }
            _ => {}
        }
    }

    /// Sends a client its response and applies it to the thread.
    fn deliver_response(
        &mut self,
        connection: Connection,
        client: ClientId,
        kind: RequestKind,
        thread: Option<&ThreadId>,
        outcome: Result<&RawValue, &RawValue>,
        response: Text,
    ) {
        let result = outcome.ok().map(RawValue::get);
        match (kind, result) {
            (RequestKind::NewThread | RequestKind::Resume, Some(result)) => {
                let joined = self.on_loaded_by_client(connection.server(), client, result, kind);
                self.send_to_client(client, response);
                let Some((loaded, is_new)) = joined else { return };
                if kind == RequestKind::Resume {
                    self.catch_up(client, &loaded, is_new);
                    self.update_recipients(&loaded);
                    self.adopt_suspended_goal(&loaded);
                }
                if self.migration.is_under_way() {
                    self.changes.thread_changed(&loaded);
                }
            }
            (RequestKind::Turn | RequestKind::MayStartTurn, _) => {
                let turn = result.and_then(|result| text::member(result, "turn"));
                let busy_until = self.now + BUSY_AFTER_EVENT_MS;
                if let Some(thread) = thread.and_then(|thread| self.threads.get_mut(thread)) {
                    thread.busy_until = thread.busy_until.max(busy_until);
                    if let Some(turn) = turn.filter(|turn| turn.get().starts_with('{'))
                        && let Some(turn_id) = text::string(turn.get(), "id")
                        && text::string(turn.get(), "status").is_none_or(|status| status == "inProgress")
                    {
                        thread.turn_began(&turn_id, turn.get());
                    }
                }
                self.send_to_client(client, response);
            }
            (RequestKind::Interrupt, Some(_)) => {
                if let Some(thread) = thread.and_then(|thread| self.threads.get_mut(thread)) {
                    thread.goal.interrupt();
                }
                self.changes.goals_changed();
                self.send_to_client(client, response);
            }
            (RequestKind::Unsubscribe, Some(_)) => {
                if let Some(thread) = thread {
                    self.remove_viewer(thread, client);
                }
                self.send_to_client(client, response);
            }
            _ => self.send_to_client(client, response),
        }
    }

    /// A thread was started, forked or resumed by a client. Returns it and whether the client is a new viewer.
    fn on_loaded_by_client(
        &mut self,
        server: ServerId,
        client: ClientId,
        result: &str,
        kind: RequestKind,
    ) -> Option<(ThreadId, bool)> {
        let thread = text::member(result, "thread")?.get();
        let id: ThreadId = text::string(thread, "id")?.as_ref().into();
        let viewer = self.viewer(client);
        let now = self.now;
        let is_idle = |known: &Thread| known.state == ThreadState::Attached && !known.goal.is_active();
        let is_joined = kind == RequestKind::Resume && self.threads.get(&id).is_some_and(is_idle);
        let new = || Thread::new(id.clone(), server, Audience::Viewers(Vec::new()));
        let known = self.threads.get_or_insert_with(&id, new);
        known.residency.resumed();
        known.describe(thread);
        // An active goal starts turns. Without one, a resume starts nothing, however often it is repeated.
        if !is_joined {
            known.busy_until = known.busy_until.max(now + BUSY_AFTER_EVENT_MS);
        }
        if known.state == ThreadState::Attaching {
            // The response proves the subscription.
            known.state = ThreadState::Attached;
            known.demand = None;
        }
        let mut was_refused = false;
        if known.state == ThreadState::Orphaned {
            // It was refused and is now loaded: recover it where it is.
            was_refused = known.server == server && known.load_refusal.take().is_some();
            known.retry_at = now;
            self.changes.demand_added();
        }
        if matches!(known.audience, Audience::Everyone { .. })
            && (kind == RequestKind::NewThread || !known.is_child)
        {
            // A notification before the response made it look like a sub-agent's thread.
            known.audience = Audience::Viewers(known.viewers().to_vec());
        }
        let is_new = match viewer {
            Some(viewer) => known.watch(viewer),
            // The client has disconnected.
            None => {
                if !known.is_watched() {
                    known.unwatched_since.get_or_insert(now);
                }
                false
            }
        };
        if !self.threads.get(&id).is_some_and(Thread::is_watched) {
            self.on_no_subscribers(&id);
        }
        if was_refused {
            self.on_refusal_resolved();
        }
        self.trace_lineage(&id);
        Some((id, is_new))
    }

    fn viewer(&self, client: ClientId) -> Option<Viewer> {
        let client = self.clients.get(&client)?;
        Some(Viewer {
            client: client.id,
            experimental: client.capabilities.experimental,
            human_approval: client.capabilities.human_approval,
            opted_out: client.capabilities.opted_out.clone(),
        })
    }

    /// Sends a new viewer the partial text of open items, and any viewer the pending server requests, as upstream
    /// does.
    fn catch_up(&mut self, client: ClientId, id: &ThreadId, is_new: bool) {
        let (Some(viewer), Some(thread)) = (self.viewer(client), self.threads.get(id)) else { return };
        let mut texts = Vec::new();
        for item in thread.items.iter().filter(|item| is_new && !item.background) {
            if viewer.wants("item/started") {
                texts.push(item.started.clone());
            }
            let streams = item.streams.iter().filter(|stream| viewer.wants(&stream.method));
            texts.extend(streams.filter_map(crate::hub::threads::thread::Stream::whole));
        }
        for text in texts {
            self.send_to_client(client, text);
        }
        self.send_pending_to_subscriber(&viewer, id);
    }

    /// Requeues a request at the front, behind earlier requeued ones.
    fn requeue_first(&mut self, id: ClientId, text: Text, server: ServerId, number: u64) {
        let since = self.now;
        let Some(client) = self.clients.get_mut(&id) else { return };
        client.queued_bytes += text.len();
        let before = client.queued.iter().take_while(|other| other.number != 0 && other.number < number);
        let at = before.count();
        let waiting = QueuedRequest { refused_by: Some(server), number, ..QueuedRequest::new(text, since) };
        client.queued.insert(at, waiting);
        self.join_run_queue(id);
    }

    /// Drops the pending requests of a connection whose client has disconnected.
    pub(in crate::hub) fn forget_pending_requests(&mut self, connection: Connection) {
        for id in self.pending.over(connection) {
            let Some(PendingRequest { origin: Origin::Client { client, thread, .. }, has_permit, .. }) =
                self.pending.remove(id)
            else {
                continue;
            };
            if has_permit {
                self.release_permit(client);
            }
            if let Some(thread) = thread {
                self.on_thread_request_done(&thread);
            }
        }
    }
}

impl Thread {
    /// Applies upstream's description of the thread.
    pub fn describe(&mut self, raw: &str) {
        if let Some(path) = text::string(raw, "path") {
            self.path = Some(path.into_owned());
        }
        self.apply_profile(raw);
        if let Some(ephemeral) = text::member(raw, "ephemeral") {
            self.residency.describe(ephemeral.get() == "true");
        }
        if let Some(status) = text::member(raw, "status") {
            self.status = status.get().into();
        }
        self.lineage.describe(raw);
        // `source: {"subAgent": …}`.
        self.is_child |= text::member(raw, "source")
            .is_some_and(|source| text::member(source.get(), "subAgent").is_some());
    }
}
