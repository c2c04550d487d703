//! What app-servers tell without being asked, and who hears it.

use serde_json::value::RawValue;

use super::event::{Action, ClientId, Link, ServerId, Text};
use super::text::{self, Names};
use super::thread::{Audience, Motion, Thread, ThreadId};
use super::{Hub, Timer, places};
use crate::limits::{GREETINGS_MAX, QUIET_MS, UNWATCHED_MAX_MS};
use crate::routes::{self, Audience as Hears, gates};

const DELTA: &str = "item/agentMessage/delta";
const REMOTE_CONTROL: &str = "remoteControl/status/changed";

impl Hub {
    /// A notification on a shared link.
    pub(super) fn noted(&mut self, server: ServerId, method: &str, params: Option<&RawValue>, text: &Text) {
        match routes::audience(method) {
            Some(Hears::RateLimits) => {
                let counted = self.servers.get(&server).and_then(|server| server.counted.clone());
                if let Some(thread) = counted {
                    self.tell_viewers(&thread, method, text);
                }
            }
            Some(Hears::Greeting) => self.greeting_told(method, params, text),
            Some(Hears::EventStream) => {
                let names = Names::of(params);
                let stream = self.streams.iter().find(|stream| names.is_stream(&stream.name));
                let owner = stream.map(|stream| stream.owner);
                if let Some(client) = owner.filter(|client| self.wants(*client, method)) {
                    self.tell(client, text.clone());
                }
            }
            Some(Hears::EveryoneWithoutThread) => self.tell_those_without_own(method, text),
            // What one connection asked for and others do not hear: here, whoever asked for a thread with all its turns.
            Some(Hears::Asker) => {
                let joiner = self.resumers.pop_front();
                if let Some(client) = joiner.filter(|client| self.wants(*client, method)) {
                    self.tell(client, text.clone());
                }
            }
            hears => {
                let names = Names::of(params);
                match (names.thread(), params) {
                    (Some(thread), Some(params)) => {
                        let everyone = hears == Some(Hears::Everyone);
                        self.noted_of_thread(server, thread, method, params, &names, everyone, text);
                    }
                    _ => self.tell_those_without_own(method, text),
                }
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one message, read once")]
    fn noted_of_thread(
        &mut self,
        server: ServerId,
        thread: &str,
        method: &str,
        params: &RawValue,
        names: &Names<'_>,
        everyone: bool,
        text: &Text,
    ) {
        if !self.threads.contains_key(thread) && !everyone {
            // Whose turn begins is known from here on; of any other somebody has to ask what it is doing.
            let is_known = method == "turn/started" || self.under_way.contains_key(thread);
            self.found_child(server, thread, is_known);
        }
        let Some(known) = self.threads.get_mut(thread) else {
            // Somebody else's thread, which only its status concerns.
            return self.tell_everyone(method, text);
        };
        if known.server != server || matches!(known.motion, Motion::Leaving | Motion::Returning) {
            return self.told_by_the_one_it_leaves(thread, server, method);
        }
        if known.motion == Motion::Lost {
            // Of what it was before: what it is now is told when it is found.
            return;
        }
        if known.motion == Motion::Recovering {
            // Told behind the truth about what ran before.
            return known.deferred.push(text.clone());
        }
        // The hot path first.
        if let (Some(shape), Some(item)) = (routes::delta_of(method), &names.item_id) {
            if known.streamed(method, shape, params, &item.0, text) {
                self.tell_viewers(thread, method, text);
            }
            return;
        }
        let is_echo = known.is_echo(method, params, self.now);
        let joiner = known.joiner;
        let id = known.id.clone();
        match method {
            "item/started" => {
                known.turn_seen(names);
                known.item_started(params, text);
            }
            "item/completed" => {
                known.turn_seen(names);
                if let Some(rest) = known.rest_of_gapped(params) {
                    self.tell_viewers(thread, DELTA, &rest);
                }
                if let Some(known) = self.threads.get_mut(thread) {
                    known.item_completed(params);
                }
            }
            "turn/started" | "turn/completed" => {
                if let Some(turn) = text::member(params.get(), "turn")
                    && let Some(turn_id) = text::string(turn.get(), "id")
                {
                    if method == "turn/started" {
                        known.joiner = None;
                        known.turn_began(&turn_id, turn.get());
                        // Also a turn that fails before any token is counted tells of limits.
                        if let Some(server) = self.servers.get_mut(&server) {
                            server.counted = Some(id.clone());
                        }
                    } else {
                        known.turn_ended(&turn_id);
                        known.quiet_at = self.now + QUIET_MS;
                        self.timer(QUIET_MS, Timer::Quiet(id.clone()));
                    }
                }
            }
            "thread/status/changed" => {
                if let Some(status) = text::member(params.get(), "status") {
                    known.status = status.get().into();
                    // What follows may begin a turn; if nothing does, nobody else tells that it has come to rest.
                    if !known.is_active() && (known.unwatched_since.is_some() || self.handover.is_some()) {
                        known.quiet_at = known.quiet_at.max(self.now + QUIET_MS);
                        self.timer(QUIET_MS, Timer::Quiet(id.clone()));
                    }
                }
            }
            "thread/realtime/started" => known.realtime = true,
            "thread/realtime/closed" => known.realtime = false,
            "thread/tokenUsage/updated" => {
                known.token_usage = Some(params.get().into());
                if let Some(server) = self.servers.get_mut(&server) {
                    server.counted = Some(id.clone());
                }
            }
            "thread/goal/updated" | "thread/goal/cleared" if !is_echo => {
                known.goal = Some(params.get().into());
            }
            "serverRequest/resolved" => return self.resolved(server, &id, names.request_id, method, text),
            "thread/closed" | "thread/deleted" | "thread/archived" => {
                // One that is being subscribed may be loaded again by that: the answer tells.
                let is_asked_for = known.motion == Motion::Finding && !self.finds.contains(&id);
                self.tell_everyone(method, text);
                if !is_asked_for {
                    self.forget_thread(&id);
                }
                return self.moved_on();
            }
            _ => {}
        }
        match (is_echo, joiner) {
            // The echo of a resume of our own: nobody needs to hear it.
            (true, None) => {}
            (true, Some(joiner)) if !everyone => {
                if self.wants(joiner, method) {
                    self.tell(joiner, text.clone());
                }
            }
            _ if everyone => self.tell_everyone(method, text),
            _ => self.tell_viewers(thread, method, text),
        }
        if self.handover.is_some() && method != "thread/status/changed" {
            self.thread_stirred(&id);
        }
    }

    /// What every connection is told when it opens, and when it changes.
    fn greeting_told(&mut self, method: &str, params: Option<&RawValue>, text: &Text) {
        let params = params.map(RawValue::get);
        let same = |known: &Text| text::member(known, "params").map(RawValue::get) == params;
        if self.greetings.iter().any(|(name, known)| **name == *method && same(known)) {
            return;
        }
        // There is one state of remote control, and any number of warnings.
        self.greetings.retain(|(name, _)| method != REMOTE_CONTROL || **name != *method);
        if self.greetings.len() >= GREETINGS_MAX {
            self.greetings.remove(0);
        }
        self.greetings.push((method.into(), text.clone()));
        self.tell_everyone(method, text);
    }

    /// A thread that nobody has started here: a sub-agent's, which upstream tells everybody about.
    pub(super) fn found_child(&mut self, server: ServerId, thread: &str, is_known: bool) {
        let id: ThreadId = thread.into();
        let mut child = Thread::new(id.clone(), server, Audience::Everyone { but: Vec::new() });
        if !is_known {
            child.motion = Motion::Finding;
            self.finds.push_back(id.clone());
        }
        self.threads.insert(id, child);
        self.find_more();
        if self.clients.is_empty() {
            self.leave_children_alone();
        }
    }

    /// A thread is not loaded any more.
    pub(super) fn forget_thread(&mut self, id: &ThreadId) {
        self.threads.remove(id);
        self.asks.thread_gone(id);
        self.streams.retain(|stream| stream.thread() != id);
    }

    pub(super) fn wants(&self, client: ClientId, method: &str) -> bool {
        self.clients.get(&client).is_some_and(|client| client.is_ready() && client.capabilities.wants(method))
    }

    pub(super) fn tell_everyone(&mut self, method: &str, text: &Text) {
        for client in
            self.clients.values().filter(|client| client.is_ready() && client.capabilities.wants(method))
        {
            self.out.push(Action::Tell(client.id, text.clone()));
        }
    }

    /// What goes to every connection: those who have one of their own hear it there.
    fn tell_those_without_own(&mut self, method: &str, text: &Text) {
        for client in self.clients.values() {
            if client.is_ready() && !client.has_own() && client.capabilities.wants(method) {
                self.out.push(Action::Tell(client.id, text.clone()));
            }
        }
    }

    /// Tells all who watch a thread.
    pub(super) fn tell_viewers(&mut self, thread: &str, method: &str, text: &Text) {
        let Some(thread) = self.threads.get(thread) else { return };
        let experimental = gates::notification_needs_experimental(method);
        match &thread.audience {
            Audience::Viewers(viewers) => {
                let hear = viewers.iter().filter(|viewer| viewer.wants(method));
                let hear = hear.filter(|viewer| !experimental || viewer.experimental);
                self.out.extend(hear.map(|viewer| Action::Tell(viewer.client, text.clone())));
            }
            Audience::Everyone { but } => {
                for client in self.clients.values() {
                    let may = !experimental || client.capabilities.experimental;
                    if may
                        && client.is_ready()
                        && client.capabilities.wants(method)
                        && !but.contains(&client.id)
                    {
                        self.out.push(Action::Tell(client.id, text.clone()));
                    }
                }
            }
        }
    }

    /// A notification on a client's own link.
    pub(super) fn noted_by_own(
        &mut self,
        id: ClientId,
        method: &str,
        params: Option<&RawValue>,
        text: &Text,
    ) {
        // The shared link tells it.
        match routes::audience(method) {
            Some(Hears::Everyone | Hears::Subscribers | Hears::RateLimits | Hears::Greeting) => return,
            Some(Hears::SubscribersOrEveryone) | None if Names::of(params).thread().is_some() => return,
            _ => {}
        }
        let ended = match method {
            "process/exited" => Some((places::PROCESS, "processHandle")),
            "account/login/completed" => Some((places::LOGIN, "loginId")),
            _ => None,
        };
        if let (Some(params), Some((kind, member))) = (params, ended) {
            let name = text::member(params.get(), member).map(RawValue::get);
            self.place_ended(id, kind, name);
        }
        if self.clients.get(&id).is_some_and(super::Client::is_ready) {
            self.tell(id, text.clone());
        }
        self.let_go_of_old_owns(id);
    }

    pub(super) fn unwatch(&mut self, id: &ThreadId, client: ClientId) {
        let now = self.now;
        let Some(thread) = self.threads.get_mut(id) else { return };
        if thread.joiner == Some(client) {
            thread.joiner = None;
        }
        if thread.unwatch(client, now) && !thread.is_watched() {
            self.left_alone(id);
        }
    }

    /// Nobody watches a thread any more.
    pub(super) fn left_alone(&mut self, id: &ThreadId) {
        let Some(thread) = self.threads.get(id) else { return };
        let leaves = self.servers.get(&thread.server).is_some_and(|server| server.outgoing);
        if thread.ephemeral || leaves {
            self.release_if_unwatched(&id.clone());
        } else {
            self.timer(UNWATCHED_MAX_MS, Timer::Unwatched(id.clone()));
        }
    }
}

impl Thread {
    /// Whether a notification only repeats what is known, as those do that follow a resume.
    fn is_echo(&self, method: &str, params: &RawValue, now: super::Now) -> bool {
        let params = params.get();
        match method {
            "thread/tokenUsage/updated" => self.token_usage.as_deref() == Some(params),
            // That it is paused is the gateway's doing.
            "thread/goal/updated" if self.goal_held => {
                let goal = text::member(params, "goal");
                goal.is_some_and(|goal| text::string(goal.get(), "status").as_deref() == Some("paused"))
            }
            "thread/goal/cleared" if now < self.hush_until => {
                self.goal.as_deref().is_none_or(|goal| text::member(goal, "goal").is_none())
            }
            "thread/goal/updated" if now < self.hush_until => {
                let known = self.goal.as_deref().and_then(|goal| text::member(goal, "goal"));
                known.is_some_and(|known| {
                    text::member(params, "goal").is_some_and(|goal| goal.get() == known.get())
                })
            }
            "thread/status/changed" if now < self.hush_until => {
                text::member(params, "status").is_some_and(|status| *status.get() == *self.status)
            }
            _ => false,
        }
    }

    /// The link that the thread is told over.
    pub(super) fn link(&self) -> Link {
        Link::Shared(self.server)
    }
}
