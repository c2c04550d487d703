//! What comes back over a link: answers to what was asked.

use codexd_protocol::envelope::{self, Message};
use serde_json::value::RawValue;

use super::call::{Asker, Call, Kind};
use super::event::{ClientId, Link, ServerId, Text};
use super::text::{self, Names};
use super::thread::{Audience, Thread, ThreadId, Viewer};
use super::{Hub, Timer};
use crate::limits::QUIET_MS;

/// The reason with which a draining app-server (0.169.0) refuses what would begin something.
const DRAINING: &str = "serverShuttingDown";

impl Hub {
    pub(super) fn link_said(&mut self, link: Link, text: &Text) {
        match envelope::parse(text) {
            Ok(Message::Response { id, outcome }) => self.answered(link, id, outcome, text),
            Ok(Message::Notification { method, params }) => match link {
                Link::Shared(server) => self.noted(server, method, params, text),
                Link::Own(client, _) => self.noted_by_own(client, method, params, text),
            },
            Ok(Message::Request { id, method, params }) => self.asked(link, id, method, params, text),
            // The app-server said something that is none of the protocol: nobody could do anything with it.
            Err(_) => {}
        }
    }

    fn answered(&mut self, link: Link, id: &RawValue, outcome: Result<&RawValue, &RawValue>, text: &Text) {
        let Some(number) = id.get().parse().ok() else { return };
        let Some(call) = self.calls.remove(&number) else { return };
        if call.link != link {
            self.calls.insert(number, call);
            return;
        }
        let Call { asker, holds_slot, .. } = call;
        match asker {
            Asker::Gateway(errand) => self.errand_answered(errand, outcome),
            Asker::Client { client, id: raw, kind, thread, text: request } => {
                if holds_slot {
                    self.give_back_slot(client);
                }
                if self.was_refused_unseen(link.server(), outcome) && self.clients.contains_key(&client) {
                    self.unstart(kind, thread.as_ref());
                    self.hold_first(client, request, link.server());
                } else {
                    let told = match kind {
                        Kind::LoadedList | Kind::ThreadList => self.completed_list(link.server(), kind, text),
                        _ => text.clone(),
                    };
                    let told = match text::member(&told, "id") {
                        Some(id) => text::splice(&told, id.get(), &raw),
                        None => told,
                    };
                    if kind == Kind::Exec {
                        self.exec_ended(client, &request);
                    }
                    self.settle(link, client, kind, thread, outcome, told);
                }
            }
        }
        if !self.ring.is_empty() {
            self.pump();
        }
        if self.servers.get(&link.server()).is_some_and(|server| server.outgoing) {
            if let Link::Own(client, _) = link {
                self.let_go_of_old_owns(client);
            }
            self.see_whether_all_have_left();
        }
    }

    /// A draining app-server refuses before it does anything: the request can be sent to its successor.
    fn was_refused_unseen(&mut self, server: ServerId, outcome: Result<&RawValue, &RawValue>) -> bool {
        let Err(error) = outcome else { return false };
        let reason = text::member(error.get(), "data").and_then(|data| text::string(data.get(), "reason"));
        let draining = reason.is_some_and(|reason| reason == DRAINING);
        if draining && let Some(server) = self.servers.get_mut(&server) {
            server.draining = true;
        }
        draining
    }

    fn unstart(&mut self, kind: Kind, thread: Option<&ThreadId>) {
        if matches!(kind, Kind::Turn | Kind::Starter)
            && let Some(thread) = thread.and_then(|thread| self.threads.get_mut(thread))
        {
            thread.starters = thread.starters.saturating_sub(1);
        }
    }

    /// Tells a client its answer, and keeps what it means.
    fn settle(
        &mut self,
        link: Link,
        client: ClientId,
        kind: Kind,
        thread: Option<ThreadId>,
        outcome: Result<&RawValue, &RawValue>,
        told: Text,
    ) {
        let result = outcome.ok().map(RawValue::get);
        match (kind, result) {
            (Kind::NewThread | Kind::Resume, Some(result)) => {
                let joined = self.loaded(link.server(), client, result);
                self.tell(client, told);
                if let Some((thread, true)) = joined.filter(|_| kind == Kind::Resume) {
                    self.catch_up(client, &thread);
                }
                if let Some(thread) = thread.filter(|_| self.handover.is_some()) {
                    self.thread_stirred(&thread);
                }
            }
            (Kind::Turn, Some(result)) => {
                if let (Some(turn), Some(thread)) = (text::member(result, "turn"), &thread)
                    && let Some(turn_id) = text::string(turn.get(), "id")
                    && let Some(thread) = self.threads.get_mut(thread)
                {
                    thread.turn_began(&turn_id, turn.get());
                }
                self.tell(client, told);
                self.started(thread.as_ref());
            }
            (Kind::Turn | Kind::Starter, _) => {
                self.tell(client, told);
                self.started(thread.as_ref());
            }
            (Kind::Unsubscribe, Some(_)) => {
                if let Some(thread) = &thread {
                    self.unwatch(thread, client);
                }
                self.tell(client, told);
            }
            _ => self.tell(client, told),
        }
    }

    /// A request that may have begun a turn was answered.
    fn started(&mut self, thread: Option<&ThreadId>) {
        let quiet_at = self.now + QUIET_MS;
        if let Some(id) = thread
            && let Some(thread) = self.threads.get_mut(id)
        {
            thread.starters = thread.starters.saturating_sub(1);
            thread.quiet_at = quiet_at;
            if thread.starters == 0 && self.handover.is_some() {
                self.timer(QUIET_MS, Timer::Quiet(id.clone()));
            }
        }
    }

    /// A thread was started, forked or resumed over the shared link; answers it and whether the client is new to it.
    fn loaded(&mut self, server: ServerId, client: ClientId, result: &str) -> Option<(ThreadId, bool)> {
        let thread = text::member(result, "thread")?.get();
        let id: ThreadId = text::string(thread, "id")?.as_ref().into();
        let viewer = self.viewer(client);
        let now = self.now;
        // What was sent before the thread was known here may begin a turn as well.
        let starts = |call: &&Call| match &call.asker {
            Asker::Client { kind: Kind::Turn | Kind::Starter, thread, .. } => thread.as_ref() == Some(&id),
            _ => false,
        };
        let is_new = !self.threads.contains_key(&id);
        let starters = if is_new { self.calls.values().filter(starts).count() } else { 0 };
        let known = self.threads.entry(id.clone());
        let known = known.or_insert_with(|| Thread::new(id.clone(), server, Audience::Viewers(Vec::new())));
        known.describe(thread);
        if is_new {
            known.starters = u32::try_from(starters).unwrap_or(u32::MAX);
            known.quiet_at = now + QUIET_MS;
        }
        let joined = match viewer {
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
        Some((id, joined))
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

    /// What a client who joins has missed: what was streamed so far into what is not finished, and what waits for an answer.
    fn catch_up(&mut self, client: ClientId, id: &ThreadId) {
        let (Some(viewer), Some(thread)) = (self.viewer(client), self.threads.get(id)) else { return };
        let mut texts = Vec::new();
        for item in &thread.items {
            if viewer.wants("item/started") {
                texts.push(item.started.clone());
            }
            let streams = item.streams.iter().filter(|stream| viewer.wants(&stream.method));
            texts.extend(streams.filter_map(super::thread::Stream::whole));
        }
        for text in texts {
            self.tell(client, text);
        }
        self.ask_joiner(&viewer, id);
    }

    /// Puts a request back before all others of its client.
    fn hold_first(&mut self, id: ClientId, text: Text, server: ServerId) {
        let since = self.now;
        let Some(client) = self.clients.get_mut(&id) else { return };
        client.waiting_bytes += text.len();
        client.waiting.push_front(super::client::Waiting { text, since, refused_by: Some(server) });
        self.queue_up(id);
    }

    /// What was asked over a link that is gone, for a client that is gone, is not waited for.
    pub(super) fn forget_calls(&mut self, link: Link) {
        let gone: Vec<u64> =
            self.calls.iter().filter(|(_, call)| call.link == link).map(|(&id, _)| id).collect();
        for id in gone {
            if let Some(Call { asker: Asker::Client { client, .. }, holds_slot: true, .. }) =
                self.calls.remove(&id)
            {
                self.give_back_slot(client);
            }
        }
    }

    /// Lists as one app-server tells them, completed by what the others have.
    fn completed_list(&self, server: ServerId, kind: Kind, text: &Text) -> Text {
        let Some(result) = text::member(text, "result") else { return text.clone() };
        let Ok(mut value) = serde_json::from_str::<serde_json::Value>(result.get()) else {
            return text.clone();
        };
        let last_page = value.get("nextCursor").is_none_or(serde_json::Value::is_null);
        let Some(data) = value.get_mut("data").and_then(serde_json::Value::as_array_mut) else {
            return text.clone();
        };
        let elsewhere = |thread: &&Thread| thread.server != server;
        match kind {
            Kind::LoadedList if last_page => {
                for thread in self.threads.values().filter(elsewhere) {
                    if !data.iter().any(|known| *known == *thread.id) {
                        data.push(serde_json::Value::from(&*thread.id));
                    }
                }
            }
            Kind::ThreadList => {
                for listed in data {
                    // `thread/search` wraps what `thread/list` has bare.
                    let listed = match listed.get_mut("thread") {
                        Some(_) => &mut listed["thread"],
                        None => listed,
                    };
                    let id = listed.get("id").and_then(serde_json::Value::as_str);
                    let thread = id.and_then(|id| self.threads.get(id)).filter(elsewhere);
                    if let Some(status) = thread.and_then(|thread| serde_json::from_str(&thread.status).ok())
                    {
                        listed["status"] = status;
                    }
                }
            }
            _ => {}
        }
        text::splice(text, result.get(), &value.to_string())
    }
}

impl Thread {
    /// Takes over what upstream tells of a thread.
    pub fn describe(&mut self, raw: &str) {
        if let Some(path) = text::string(raw, "path") {
            self.path = Some(path.into_owned());
        }
        if let Some(ephemeral) = text::member(raw, "ephemeral") {
            self.ephemeral = ephemeral.get() == "true";
        }
        if let Some(status) = text::member(raw, "status") {
            self.status = status.get().into();
        }
    }
}

/// The thread that parameters name.
pub(super) fn thread_of(params: Option<&RawValue>) -> Option<ThreadId> {
    Names::of(params).thread().map(ThreadId::from)
}
