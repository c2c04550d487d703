//! Unloading of threads without viewers, which upstream would do by itself: the app-server runs without an unload
//! delay, so that a thread can be moved at once.

use serde_json::json;
use serde_json::value::RawValue;

use crate::hub::event::{BlockedOn, ClientId, Connection, ServerId, Text, ThreadId};
use crate::hub::refusal::Refusal;
use crate::hub::requests::dispatch::DispatchOutcome;
use crate::hub::requests::pending::InternalRequest;
use crate::hub::text::{self, Names};
use crate::hub::threads::state::ThreadState;
use crate::hub::threads::thread::Audience;
use crate::hub::{Hub, Timer};
use crate::limits::{RETRY_AFTER_MS, UNLOAD_DELAY_MAX_MS, UNLOAD_DELAY_MS, UNLOAD_TIMEOUT_MS};

impl Hub {
    /// `thread/unsubscribe`: the gateway answers it. Upstream is unsubscribed later, after the last viewer has left.
    pub(in crate::hub) fn unsubscribe(
        &mut self,
        id: ClientId,
        names: &Names<'_>,
        raw: &str,
        text: &Text,
    ) -> DispatchOutcome {
        let Some(thread) = names.thread() else {
            // The thread's name could not be read: on the shared connection, the request might unsubscribe all
            // viewers.
            return self.send_dedicated(id, "thread/unsubscribe", raw, text, None);
        };
        let Some(known) = self.threads.get(thread) else {
            // A pending request may make this client a viewer.
            if self.is_listing() || self.pending.concern(thread) {
                return DispatchOutcome::BlockedByKey;
            }
            // It has no viewers here: on the shared connection, the request would unsubscribe a client that is just
            // resuming it.
            return self.send_dedicated(id, "thread/unsubscribe", raw, text, None);
        };
        // An orphaned thread need not be loaded to be unsubscribed.
        if !matches!(known.state, ThreadState::Attached | ThreadState::Orphaned) {
            return DispatchOutcome::BlockedByKey;
        }
        let was_watching = known.is_watched_by(id);
        let status = if was_watching { "unsubscribed" } else { "notSubscribed" };
        let thread = known.id.clone();
        self.send_to_client(id, text::result(raw, &json!({"status": status}).to_string()));
        if was_watching {
            self.remove_viewer(&thread, id);
        }
        DispatchOutcome::Done
    }

    /// Checks later whether a thread is to be unloaded, unless an earlier check is due.
    pub(in crate::hub) fn schedule_unload_check(&mut self, id: &ThreadId, wait_ms: u64) {
        let at = self.now + wait_ms;
        let Some(thread) = self.threads.get_mut(id) else { return };
        if thread.unload_check_at <= self.now || at < thread.unload_check_at {
            thread.unload_check_at = at;
            self.set_timer(wait_ms, Timer::UnloadIdle(id.clone()));
        }
    }

    /// How long a thread without viewers stays loaded, in milliseconds.
    pub(in crate::hub) fn unwatched_max_ms(&self) -> u64 {
        self.threads.unload_delay_ms().unwrap_or(UNLOAD_DELAY_MS)
    }

    /// Requests the user's unload delay.
    pub(in crate::hub) fn request_unload_delay(&mut self, server: ServerId) {
        if self.is_up(server) {
            let params = json!({"includeLayers": true});
            self.send_internal(
                Connection::Shared(server),
                InternalRequest::UnloadDelay,
                "config/read",
                &params,
            );
        }
    }

    /// The response to `config/read`. The app-server was started with a delay of zero, because the gateway decides;
    /// the user's value is in the next lower layer that has one (0.169.0 lists the highest layer first).
    pub(in crate::hub) fn on_unload_delay(&mut self, server: ServerId, outcome: Result<&str, &str>) {
        let result = match outcome {
            Ok(result) => result,
            Err(error) if Refusal::of(error) == Refusal::RetrySoon => {
                return self.set_timer(RETRY_AFTER_MS, Timer::UnloadDelay(server));
            }
            // The known value stays.
            Err(_) => return,
        };
        let layers = text::member(result, "layers");
        let layers: Vec<Box<RawValue>> =
            layers.and_then(|layers| serde_json::from_str(layers.get()).ok()).unwrap_or_default();
        let delay_ms = layers.iter().find_map(|layer| {
            let name = text::member(layer.get(), "name")?;
            let is_ours = text::string(name.get(), "type").is_some_and(|kind| kind == "sessionFlags");
            let config = text::member(layer.get(), "config").filter(|_| !is_ours)?;
            let seconds: u64 = text::member(config.get(), "thread_unload_delay_secs")?.get().parse().ok()?;
            Some(seconds.saturating_mul(1_000).min(UNLOAD_DELAY_MAX_MS))
        });
        self.threads.set_unload_delay_ms(delay_ms);
        let unwatched = self.threads.values().filter(|thread| thread.unwatched_since.is_some());
        let mut unwatched: Vec<ThreadId> = unwatched.map(|thread| thread.id.clone()).collect();
        unwatched.sort_unstable();
        unwatched.iter().for_each(|id| self.unload_if_unwatched(id));
    }

    /// Unloads a thread if it has had no viewers for long enough and that cuts nothing.
    pub(in crate::hub) fn unload_if_unwatched(&mut self, id: &ThreadId) {
        let Some(thread) = self.threads.get(id) else { return };
        let Some(since) = thread.unwatched_since.filter(|_| !thread.is_watched()) else { return };
        let leaves = self.servers.get(&thread.server).is_some_and(|server| server.is_outgoing);
        let due = if thread.is_ephemeral() || leaves { since } else { since + self.unwatched_max_ms() };
        if due > self.now {
            return self.schedule_unload_check(id, due.since_ms(self.now));
        }
        let moves = self.migration.moves_threads_of(thread.server);
        if moves && !thread.is_ephemeral() {
            // The migration unloads it, after the same checks.
            return self.changes.thread_changed(id);
        }
        if thread.state != ThreadState::Attached || thread.has_check_timer {
            return;
        }
        let is_ephemeral = thread.is_ephemeral();
        // A busy thread is checked again when it is idle.
        if let Some(blocked_on) =
            self.known_blocker(id).filter(|blocked_on| *blocked_on != BlockedOn::Ephemeral)
        {
            return self.set_blocked_on(id, blocked_on);
        }
        match is_ephemeral {
            // Nothing of it is on disk.
            true => self.evict(id),
            false => self.start_checks(id, true),
        }
    }

    /// Unloads a thread. Nothing reaches it until the app-server has confirmed that: a resume in between would be
    /// lost.
    pub(in crate::hub) fn evict(&mut self, id: &ThreadId) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        thread.state = ThreadState::Evicting;
        let connection = thread.connection();
        self.unsubscribe_dedicated(id);
        self.send_internal(
            connection,
            InternalRequest::Evict(id.clone()),
            "thread/unsubscribe",
            &json!({"threadId": &**id}),
        );
        self.set_timer(UNLOAD_TIMEOUT_MS, Timer::UnloadTimeout(id.clone()));
    }

    /// The last client disconnected: the threads of sub-agents, which all clients watch, have no viewers.
    pub(in crate::hub) fn drop_subagent_viewers(&mut self) {
        let now = self.now;
        let mut children = Vec::new();
        for thread in self.threads.values_mut() {
            if matches!(thread.audience, Audience::Everyone { .. }) && !thread.is_unresumable() {
                thread.audience = Audience::Viewers(Vec::new());
                thread.unwatched_since = Some(now);
                children.push(thread.id.clone());
            }
        }
        for child in children {
            self.on_no_subscribers(&child);
        }
    }

    /// The response to the unsubscribe of an unwatched thread.
    pub(in crate::hub) fn on_evicted(&mut self, id: &ThreadId, result: Option<&str>) {
        let Some(thread) = self.threads.get_mut(id).filter(|thread| thread.state == ThreadState::Evicting)
        else {
            return;
        };
        match result.and_then(|result| text::string(result, "status")).as_deref() {
            // `thread/closed` follows.
            Some("unsubscribed") => {}
            Some(_) => self.forget_thread(id),
            None => {
                thread.state = ThreadState::Attached;
                self.check_again_after(id, UNLOAD_DELAY_MS);
            }
        }
        self.changes.thread_state_changed();
    }
}
