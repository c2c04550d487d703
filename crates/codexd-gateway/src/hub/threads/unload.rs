//! Letting go of threads that nobody watches, as upstream does it by itself: the app-server runs without a delay of its
//! own, so that a thread can be moved at once.

use serde_json::json;
use serde_json::value::RawValue;

use crate::hub::event::{BlockedOn, ClientId, Connection, ServerId, Text};
use crate::hub::requests::dispatch::Dispatched;
use crate::hub::requests::pending::Errand;
use crate::hub::requests::refusal::Refusal;
use crate::hub::text::{self, Names};
use crate::hub::threads::thread::{Audience, Motion, ThreadId};
use crate::hub::{Hub, Timer};
use crate::limits::{AGAIN_AFTER_MS, MOVE_STUCK_MS, UNLOAD_DELAY_MAX_MS, UNWATCHED_MAX_MS};

impl Hub {
    /// `thread/unsubscribe`: only the last one to leave concerns upstream, and only later.
    pub(in crate::hub) fn unsubscribe(
        &mut self,
        id: ClientId,
        names: &Names<'_>,
        raw: &str,
        text: &Text,
    ) -> Dispatched {
        let Some(thread) = names.thread() else {
            // Named in a way that is not read here: on the shared link it would unsubscribe everybody.
            return self.send_own(id, "thread/unsubscribe", raw, text, None);
        };
        let Some(known) = self.threads.get(thread) else {
            if self.is_listing() {
                return Dispatched::WaitsInLane;
            }
            // Nobody watches it from here, or is about to: on the shared link this would unsubscribe whoever just joins.
            return self.send_own(id, "thread/unsubscribe", raw, text, None);
        };
        // One that is not loaded any more need not be loaded to be left.
        if !matches!(known.motion, Motion::Still | Motion::Lost) {
            return Dispatched::WaitsInLane;
        }
        let was_watching = known.is_watched_by(id);
        let status = if was_watching { "unsubscribed" } else { "notSubscribed" };
        let thread = known.id.clone();
        self.tell(id, text::result(raw, &json!({"status": status}).to_string()));
        if was_watching {
            self.unwatch(&thread, id);
        }
        Dispatched::Done
    }

    /// Looks after a while whether a thread is to be unloaded, unless it is looked at before that anyway.
    pub(in crate::hub) fn look_whether_watched(&mut self, id: &ThreadId, wait_ms: u64) {
        let at = self.now + wait_ms;
        let Some(thread) = self.threads.get_mut(id) else { return };
        if thread.unwatched_look_at <= self.now || at < thread.unwatched_look_at {
            thread.unwatched_look_at = at;
            self.timer(wait_ms, Timer::Unwatched(id.clone()));
        }
    }

    /// How long a thread that nobody watches stays loaded.
    pub(in crate::hub) fn unwatched_max_ms(&self) -> u64 {
        self.unload_delay_ms.unwrap_or(UNWATCHED_MAX_MS)
    }

    /// Asks what the user has set.
    pub(in crate::hub) fn ask_for_unload_delay(&mut self, server: ServerId) {
        if self.is_up(server) {
            let params = json!({"includeLayers": true});
            self.errand(Connection::Shared(server), Errand::UnloadDelay, "config/read", &params);
        }
    }

    /// The answer to `config/read`. The app-server itself was started with a delay of zero, since the gateway decides; what the
    /// user wants stands in the next layer below that says anything (0.169.0 lists them from the highest on).
    pub(in crate::hub) fn unload_delay_told(&mut self, server: ServerId, outcome: Result<&str, &str>) {
        let result = match outcome {
            Ok(result) => result,
            Err(error) if Refusal::of(error) == Refusal::NotYet => {
                return self.timer(AGAIN_AFTER_MS, Timer::UnloadDelay(server));
            }
            // Then what was known before holds.
            Err(_) => return,
        };
        let layers = text::member(result, "layers");
        let layers: Vec<Box<RawValue>> =
            layers.and_then(|layers| serde_json::from_str(layers.get()).ok()).unwrap_or_default();
        self.unload_delay_ms = layers.iter().find_map(|layer| {
            let name = text::member(layer.get(), "name")?;
            let is_ours = text::string(name.get(), "type").is_some_and(|kind| kind == "sessionFlags");
            let config = text::member(layer.get(), "config").filter(|_| !is_ours)?;
            let seconds: u64 = text::member(config.get(), "thread_unload_delay_secs")?.get().parse().ok()?;
            Some(seconds.saturating_mul(1_000).min(UNLOAD_DELAY_MAX_MS))
        });
        let unwatched = self.threads.values().filter(|thread| thread.unwatched_since.is_some());
        let mut unwatched: Vec<ThreadId> = unwatched.map(|thread| thread.id.clone()).collect();
        unwatched.sort_unstable();
        unwatched.iter().for_each(|id| self.release_if_unwatched(id));
    }

    /// Unloads a thread if nobody has watched it for long enough and nothing could be cut by it.
    pub(in crate::hub) fn release_if_unwatched(&mut self, id: &ThreadId) {
        let Some(thread) = self.threads.get(id) else { return };
        let Some(since) = thread.unwatched_since.filter(|_| !thread.is_watched()) else { return };
        let leaves = self.servers.get(&thread.server).is_some_and(|server| server.outgoing);
        let due = if thread.ephemeral || leaves { since } else { since + self.unwatched_max_ms() };
        if due > self.now {
            return self.look_whether_watched(id, due.since_ms(self.now));
        }
        let moves = self.handover.as_ref().is_some_and(|handover| handover.to != thread.server);
        if moves && !thread.ephemeral {
            // It leaves by the same door as those that move, with the same questions asked first.
            return self.thread_stirred(id);
        }
        if thread.motion != Motion::Still || thread.looked_at_again {
            return;
        }
        let is_ephemeral = thread.ephemeral;
        // A busy one is looked at again when it comes to rest.
        if let Some(blocked_on) =
            self.obviously_waits_for(id).filter(|blocked_on| *blocked_on != BlockedOn::Ephemeral)
        {
            return self.waits(id, blocked_on);
        }
        match is_ephemeral {
            // Nothing of it is meant to last.
            true => self.release(id),
            false => self.look_at(id, true),
        }
    }

    /// Lets the app-server unload a thread. Until it says that it has, nothing reaches the thread: a resume in between
    /// would be lost with it.
    pub(in crate::hub) fn release(&mut self, id: &ThreadId) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        thread.motion = Motion::Releasing;
        let link = thread.link();
        self.unsubscribe_own_links(id);
        self.errand(link, Errand::Release(id.clone()), "thread/unsubscribe", &json!({"threadId": &**id}));
        self.timer(MOVE_STUCK_MS, Timer::Stuck(id.clone()));
    }

    /// Nobody is connected any more: the threads of sub-agents, which everybody watches, are watched by nobody.
    pub(in crate::hub) fn leave_children_alone(&mut self) {
        let now = self.now;
        let mut children = Vec::new();
        for thread in self.threads.values_mut() {
            if matches!(thread.audience, Audience::Everyone { .. }) && !thread.deserted {
                thread.audience = Audience::Viewers(Vec::new());
                thread.unwatched_since = Some(now);
                children.push(thread.id.clone());
            }
        }
        for child in children {
            self.left_alone(&child);
        }
    }

    /// The app-server lets go of a thread, or had done so: if it is unloaded now, it tells so.
    pub(in crate::hub) fn released(&mut self, id: &ThreadId, result: Option<&str>) {
        let Some(thread) = self.threads.get_mut(id).filter(|thread| thread.motion == Motion::Releasing)
        else {
            return;
        };
        match result.and_then(|result| text::string(result, "status")).as_deref() {
            // `thread/closed` follows.
            Some("unsubscribed") => {}
            Some(_) => self.forget_thread(id),
            None => {
                thread.motion = Motion::Still;
                self.look_again(id, UNWATCHED_MAX_MS);
            }
        }
        self.moved_on();
    }
}
