//! What comes back over a link: answers to what was asked.

use codexd_protocol::envelope::{self, Message};
use serde_json::value::RawValue;

use crate::hub::clients::client::Waiting;
use crate::hub::event::{ClientId, Connection, ServerId, Text};
use crate::hub::goals::Fate;
use crate::hub::requests::dispatch::asks_for_turns;
use crate::hub::requests::pending::{Asker, Call, Kind};
use crate::hub::text::{self, Names};
use crate::hub::threads::thread::{Audience, Motion, Thread, ThreadId, Viewer};
use crate::hub::upstream::connection_bound;
use crate::hub::{Hub, Timer};
use crate::limits::{OVERLOADED_PAUSE_MS, QUIET_MS};

/// The reason with which a draining app-server (0.169.0) refuses what would begin something.
const DRAINING: &str = "serverShuttingDown";

impl Hub {
    pub(in crate::hub) fn link_said(&mut self, link: Connection, text: &Text) {
        match envelope::parse(text) {
            Ok(Message::Response { id, outcome }) => self.answered(link, id, outcome, text),
            Ok(Message::Notification { method, params }) => match link {
                Connection::Shared(server) => self.noted(server, method, params, text),
                Connection::Dedicated(client, server) => {
                    self.noted_by_own(client, server, method, params, text);
                }
            },
            Ok(Message::Request { id, method, params }) => self.asked(link, id, method, params, text),
            // The app-server said something that is none of the protocol: nobody could do anything with it.
            Err(_) => {}
        }
    }

    fn answered(
        &mut self,
        link: Connection,
        id: &RawValue,
        outcome: Result<&RawValue, &RawValue>,
        text: &Text,
    ) {
        let Some(number) = id.get().parse().ok() else { return };
        let Some(call) = self.calls.remove(&number) else { return };
        if call.link != link {
            self.calls.insert(number, call);
            return;
        }
        let Call { asker, holds_slot, is_shortened, .. } = call;
        match asker {
            Asker::Gateway(errand) => self.errand_answered(link, errand, outcome),
            Asker::Client { client, id: raw, kind, thread, text: request } => {
                if holds_slot {
                    self.give_back_slot(client);
                }
                self.no_notice_follows(client, &request);
                let mut fate = if outcome.is_ok() { Fate::Taken } else { Fate::Refused };
                let is_unseen = self.was_refused_unseen(link.server(), outcome) && !is_shortened;
                if is_unseen && self.clients.contains_key(&client) {
                    fate = Fate::Again;
                    self.hold_first(client, request, link.server(), number);
                } else {
                    let told = match kind {
                        Kind::Goal => self.goal_as_it_will_be(thread.as_ref(), text),
                        Kind::LoadedList | Kind::ThreadList => {
                            self.completed_list(link.server(), kind, text, &request)
                        }
                        _ => text.clone(),
                    };
                    let told = match text::member(&told, "id") {
                        Some(id) => text::splice(&told, id.get(), &raw),
                        None => told,
                    };
                    self.keep(link, client, kind, &request, outcome);
                    self.settle(link, client, kind, thread.as_ref(), outcome, told);
                    if let Ok(result) = outcome {
                        self.settings_given(link.server(), client, kind, &request, result.get());
                    }
                }
                if let Some(thread) = thread {
                    if self.goal_answered(&thread, number, fate) {
                        self.let_goal_go_on_unless_it_moves(&thread);
                    }
                    self.request_ended(&thread);
                }
            }
        }
        if !self.ring.is_empty() {
            self.pump();
        }
        if self.servers.get(&link.server()).is_some_and(|server| server.outgoing) {
            if let Connection::Dedicated(client, _) = link {
                self.close_drained(client);
            }
            self.see_whether_all_have_left();
        }
    }

    /// What upstream says about a request for all turns, it has said before it answers.
    pub(in crate::hub) fn no_notice_follows(&mut self, client: ClientId, request: &str) {
        if self.resumers.is_empty() {
            return;
        }
        let asked = match envelope::parse(request) {
            Ok(Message::Request { method, .. }) => asks_for_turns(method, request),
            _ => false,
        };
        if asked && let Some(at) = self.resumers.iter().position(|waiting| *waiting == client) {
            self.resumers.remove(at);
        }
    }

    /// A draining app-server refuses before it does anything: the request can be sent to its successor.
    fn was_refused_unseen(&mut self, server: ServerId, outcome: Result<&RawValue, &RawValue>) -> bool {
        let draining = outcome.is_err_and(|error| is_draining(error.get()));
        if draining {
            self.drains(server);
        }
        let code = outcome.err().and_then(|error| text::member(error.get(), "code"));
        let overloaded = code.is_some_and(|code| code.get().parse() == Ok(envelope::OVERLOADED));
        if overloaded {
            // A busy machine empties upstream's queue more slowly than slots are given back.
            self.overloaded_until = self.now + OVERLOADED_PAUSE_MS;
            self.timer(OVERLOADED_PAUSE_MS, Timer::Slots);
        }
        draining || overloaded
    }

    /// Keeps what an answer on a client's own connection, or of a stream, means for later.
    fn keep(
        &mut self,
        link: Connection,
        client: ClientId,
        kind: Kind,
        request: &str,
        outcome: Result<&RawValue, &RawValue>,
    ) {
        match (kind, outcome) {
            (Kind::Exec, _) => self.begun_in_vain(client, connection_bound::EXEC, "processId", request),
            (Kind::Spawn, Err(_)) => {
                self.begun_in_vain(client, connection_bound::PROCESS, "processHandle", request);
            }
            (Kind::Begins(background), Ok(result)) => {
                self.goes_on(client, link.server(), background, request, result.get());
            }
            (Kind::Replayed, Ok(_)) => self.replay_from_now_on(client, link, request),
            (Kind::Setting, Ok(_)) => self.setting_made(request),
            (Kind::EventStream, Err(_)) => {
                self.stream_ended(client, request);
            }
            _ => {}
        }
    }

    /// Tells a client its answer, and keeps what it means.
    fn settle(
        &mut self,
        link: Connection,
        client: ClientId,
        kind: Kind,
        thread: Option<&ThreadId>,
        outcome: Result<&RawValue, &RawValue>,
        told: Text,
    ) {
        let result = outcome.ok().map(RawValue::get);
        match (kind, result) {
            (Kind::NewThread | Kind::Resume, Some(result)) => {
                let joined = self.loaded(link.server(), client, result, kind);
                self.tell(client, told);
                let Some((loaded, is_new)) = joined else { return };
                if kind == Kind::Resume {
                    self.catch_up(client, &loaded, is_new);
                    self.ask_about(&loaded);
                    self.find_held_goal(&loaded);
                }
                if self.handover.is_some() {
                    self.thread_stirred(&loaded);
                }
            }
            (Kind::Turn | Kind::Starter, _) => {
                let turn = result.and_then(|result| text::member(result, "turn"));
                let quiet_at = self.now + QUIET_MS;
                if let Some(thread) = thread.and_then(|thread| self.threads.get_mut(thread)) {
                    thread.quiet_at = thread.quiet_at.max(quiet_at);
                    if let Some(turn) = turn.filter(|turn| turn.get().starts_with('{'))
                        && let Some(turn_id) = text::string(turn.get(), "id")
                        && text::string(turn.get(), "status").is_none_or(|status| status == "inProgress")
                    {
                        thread.turn_began(&turn_id, turn.get());
                    }
                }
                self.tell(client, told);
            }
            (Kind::Interrupt, Some(_)) => {
                if let Some(thread) = thread.and_then(|thread| self.threads.get_mut(thread)) {
                    thread.interrupted = true;
                }
                self.keep_goals();
                self.tell(client, told);
            }
            (Kind::Unsubscribe, Some(_)) => {
                if let Some(thread) = thread {
                    self.unwatch(thread, client);
                }
                self.tell(client, told);
            }
            _ => self.tell(client, told),
        }
    }

    /// A thread was started, forked or resumed over the shared link; answers it and whether the client is new to it.
    fn loaded(
        &mut self,
        server: ServerId,
        client: ClientId,
        result: &str,
        kind: Kind,
    ) -> Option<(ThreadId, bool)> {
        let thread = text::member(result, "thread")?.get();
        let id: ThreadId = text::string(thread, "id")?.as_ref().into();
        let viewer = self.viewer(client);
        let now = self.now;
        let rests = |known: &Thread| known.motion == Motion::Still && !known.goal_is_active;
        let is_joined = kind == Kind::Resume && self.threads.get(&id).is_some_and(rests);
        let known = self.threads.entry(id.clone());
        let known = known.or_insert_with(|| Thread::new(id.clone(), server, Audience::Viewers(Vec::new())));
        known.describe(thread);
        known.deserted = false;
        // An active goal goes on by itself. Where there is none, somebody may join again and again, which begins nothing.
        if !is_joined {
            known.quiet_at = known.quiet_at.max(now + QUIET_MS);
        }
        if known.motion == Motion::Finding {
            // The answer says that it is subscribed.
            known.motion = Motion::Still;
            known.demand = None;
        }
        if known.motion == Motion::Lost {
            // It was refused, and is loaded by this: the truth about it is read.
            known.again_at = now;
            self.has_new_demands = true;
        }
        if matches!(known.audience, Audience::Everyone { .. }) && (kind == Kind::NewThread || !known.is_child)
        {
            // It told something before the answer came and passed for a sub-agent's.
            known.audience = Audience::Viewers(known.viewers().to_vec());
        }
        let is_new = match viewer {
            Some(viewer) => known.watch(viewer),
            // It has left meanwhile.
            None => {
                if !known.is_watched() {
                    known.unwatched_since.get_or_insert(now);
                }
                false
            }
        };
        if !self.threads.get(&id).is_some_and(Thread::is_watched) {
            self.left_alone(&id);
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

    /// What a client who joins has missed: what was streamed so far into what is not finished. And what waits for an
    /// answer, also for one who had joined before, as upstream has it.
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
            self.tell(client, text);
        }
        self.ask_joiner(&viewer, id);
    }

    /// Puts a request back before all others of its client, but behind those that were sent before it.
    fn hold_first(&mut self, id: ClientId, text: Text, server: ServerId, number: u64) {
        let since = self.now;
        let Some(client) = self.clients.get_mut(&id) else { return };
        client.waiting_bytes += text.len();
        let before = client.waiting.iter().take_while(|other| other.number != 0 && other.number < number);
        let at = before.count();
        let waiting = Waiting { refused_by: Some(server), number, ..Waiting::new(text, since) };
        client.waiting.insert(at, waiting);
        self.queue_up(id);
    }

    /// What was asked over a link that is gone, for a client that is gone, is not waited for.
    pub(in crate::hub) fn forget_calls(&mut self, link: Connection) {
        let gone: Vec<u64> =
            self.calls.iter().filter(|(_, call)| call.link == link).map(|(&id, _)| id).collect();
        for id in gone {
            let Some(Call { asker: Asker::Client { client, thread, .. }, holds_slot, .. }) =
                self.calls.remove(&id)
            else {
                continue;
            };
            if holds_slot {
                self.give_back_slot(client);
            }
            if let Some(thread) = thread {
                self.request_ended(&thread);
            }
        }
    }
}

impl Thread {
    /// Takes over what upstream tells of a thread.
    pub fn describe(&mut self, raw: &str) {
        if let Some(path) = text::string(raw, "path") {
            self.path = Some(path.into_owned());
        }
        self.describe_profile(raw);
        if let Some(ephemeral) = text::member(raw, "ephemeral") {
            self.ephemeral = ephemeral.get() == "true";
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

/// Whether an error is that of an app-server that drains.
pub(in crate::hub) fn is_draining(error: &str) -> bool {
    let reason = text::member(error, "data").and_then(|data| text::string(data.get(), "reason"));
    reason.is_some_and(|reason| reason == DRAINING)
}

/// The thread that parameters name.
pub(in crate::hub) fn thread_of(params: Option<&RawValue>) -> Option<ThreadId> {
    Names::of(params).thread().map(ThreadId::from)
}
