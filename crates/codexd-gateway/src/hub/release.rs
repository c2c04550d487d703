//! Letting go of threads that nobody watches, as upstream does it by itself: the app-server runs without a delay of its
//! own, so that a thread can be moved at once.

use serde_json::json;

use super::call::Errand;
use super::event::{ClientId, Text, WaitsFor};
use super::requests::Dispatched;
use super::text::{self, Names};
use super::thread::{Audience, Motion, ThreadId};
use super::{Hub, Timer};
use crate::limits::{MOVE_STUCK_MS, UNWATCHED_MAX_MS};

impl Hub {
    /// `thread/unsubscribe`: only the last one to leave concerns upstream, and only later.
    pub(super) fn unsubscribe(
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
        if known.motion != Motion::Still {
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

    /// Unloads a thread if nobody has watched it for long enough and nothing could be cut by it.
    pub(super) fn release_if_unwatched(&mut self, id: &ThreadId) {
        let Some(thread) = self.threads.get(id) else { return };
        let Some(since) = thread.unwatched_since.filter(|_| !thread.is_watched()) else { return };
        let leaves = self.servers.get(&thread.server).is_some_and(|server| server.outgoing);
        let due = if thread.ephemeral || leaves { since } else { since + UNWATCHED_MAX_MS };
        if due > self.now {
            let wait = due.since_ms(self.now);
            return self.timer(wait, Timer::Unwatched(id.clone()));
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
        if let Some(waits_for) =
            self.obviously_waits_for(id).filter(|waits_for| *waits_for != WaitsFor::Ephemeral)
        {
            return self.waits(id, waits_for);
        }
        match is_ephemeral {
            // Nothing of it is meant to last.
            true => self.release(id),
            false => self.look_at(id, true),
        }
    }

    /// Lets the app-server unload a thread. Until it says that it has, nothing reaches the thread: a resume in between
    /// would be lost with it.
    pub(super) fn release(&mut self, id: &ThreadId) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        thread.motion = Motion::Releasing;
        let link = thread.link();
        self.unsubscribe_own_links(id);
        self.errand(link, Errand::Release(id.clone()), "thread/unsubscribe", &json!({"threadId": &**id}));
        self.timer(MOVE_STUCK_MS, Timer::Stuck(id.clone()));
    }

    /// Nobody is connected any more: the threads of sub-agents, which everybody watches, are watched by nobody.
    pub(super) fn leave_children_alone(&mut self) {
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
    pub(super) fn released(&mut self, id: &ThreadId, result: Option<&str>) {
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
