//! Threads that an app-server has loaded and that this gateway does not know: loaded before it started, or by a sub-agent.
//! The gateway asks for the list and subscribes the shared connection to them, a few at a time.

use serde_json::value::RawValue;

use crate::hub::event::{BlockedOn, Connection, ServerId, ThreadId};
use crate::hub::refusal::{Refusal, is_transient};
use crate::hub::requests::pending::{InternalRequest, Origin, PendingRequest};
use crate::hub::threads::state::{Residency, ThreadState};
use crate::hub::threads::thread::{Audience, Thread};
use crate::hub::{Hub, Timer, text};
use crate::limits::{
    ATTACHING_MAX, BUSY_AFTER_EVENT_MS, RETRY_AFTER_MS, SUPPRESS_ECHO_MS, UNLOAD_TIMEOUT_MS,
};

impl Hub {
    pub(in crate::hub) fn request_loaded_list(&mut self, server: ServerId) {
        if let Some(server) = self.servers.get_mut(&server) {
            server.is_listed = false;
        }
        self.send_loaded_list_request(server);
    }

    fn send_loaded_list_request(&mut self, server: ServerId) {
        let request = InternalRequest::LoadedList(server);
        self.send_internal(Connection::Shared(server), request, "thread/loaded/list", &serde_json::json!({}));
    }

    /// The loaded threads of an app-server. Unknown ones were loaded before this gateway started, or belong to
    /// sub-agents.
    pub(in crate::hub) fn on_loaded_list(&mut self, server: ServerId, outcome: Result<&str, &str>) {
        if let Err(error) = outcome
            && is_transient(error)
        {
            // It is overloaded. Without its list it must not be retired.
            return self.set_timer(RETRY_AFTER_MS, Timer::ListLoaded(server));
        }
        let data = outcome.ok().and_then(|result| text::member(result, "data"));
        let listed: Option<Vec<String>> = data.and_then(|data| serde_json::from_str(data.get()).ok());
        self.close_ended_unresumable(server, listed.as_deref());
        let mut ids = listed.unwrap_or_default();
        // The response to a pending request about the thread says as much.
        let is_asked_about = |id: &str| {
            self.pending.concern(id)
                && self.pending.values().any(|pending| match &pending.origin {
                    Origin::Client { thread: Some(thread), .. } => {
                        **thread == *id && pending.connection.server() == server
                    }
                    _ => false,
                })
        };
        ids.retain(|id| !self.threads.contains_key(id) && !is_asked_about(id));
        ids.retain(|id| !self.is_trial_thread(server, id, "thread/loaded/list"));
        for id in ids {
            let id: ThreadId = id.as_str().into();
            let mut thread = Thread::new(id.clone(), server, Audience::Viewers(Vec::new()));
            thread.unwatched_since = Some(self.now);
            thread.state = ThreadState::Attaching;
            self.threads.insert(thread);
            self.threads.queue_attach(id);
        }
        if let Some(server) = self.servers.get_mut(&server) {
            server.is_listed = true;
        }
        self.changes.attach_changed();
        self.changes.goal_unloaded();
        self.changes.thread_state_changed();
    }

    /// Unresumable threads end by themselves. Upstream reports the end, but may have done so before it was observed:
    /// the list is requested again while there are such threads.
    fn close_ended_unresumable(&mut self, server: ServerId, loaded: Option<&[String]>) {
        let is_unresumable = |thread: &&Thread| {
            thread.is_unresumable() && thread.server == server && thread.state == ThreadState::Attached
        };
        let is_loaded = |id: &ThreadId| loaded.is_none_or(|all| all.iter().any(|loaded| **loaded == **id));
        let (still, mut gone): (Vec<ThreadId>, Vec<ThreadId>) =
            self.threads.values().filter(is_unresumable).map(|thread| thread.id.clone()).partition(is_loaded);
        gone.sort_unstable();
        gone.iter().for_each(|id| self.send_thread_closed(id));
        if !still.is_empty() {
            self.schedule_list(server);
        }
    }

    fn schedule_list(&mut self, server: ServerId) {
        let again = Timer::ListUnresumable(server);
        if !self.timers.is_set(&again) {
            self.set_timer(UNLOAD_TIMEOUT_MS, again);
        }
    }

    /// Lists loaded threads to see which unresumable ones remain. No client waits for it.
    pub(in crate::hub) fn list_unresumable(&mut self, server: ServerId) {
        let some = self.threads.values().any(|thread| thread.is_unresumable() && thread.server == server);
        if some && self.is_up(server) {
            self.send_loaded_list_request(server);
        }
    }

    /// Attaches to found threads, a few at a time.
    pub(in crate::hub) fn attach_next(&mut self) {
        let is_attach = |pending: &PendingRequest| {
            matches!(&pending.origin, Origin::Internal(InternalRequest::Attach(_)))
        };
        if !self.threads.has_queued_attaches() {
            return;
        }
        let in_flight = self.pending.values().filter(|pending| is_attach(pending)).count();
        let mut free = ATTACHING_MAX.saturating_sub(in_flight);
        while free > 0
            && let Some(id) = self.threads.next_to_attach()
        {
            let found = self.threads.get(&id).filter(|thread| thread.state == ThreadState::Attaching);
            let Some(connection) = found.map(Thread::connection) else { continue };
            free -= 1;
            self.attach(connection, id);
        }
    }

    /// Attaches to the threads that clients wait for, without a limit.
    pub(in crate::hub) fn attach_demanded(&mut self) {
        for id in self.threads.take_demanded_attaches() {
            let Some(connection) = self.threads.get(&id).map(Thread::connection) else { continue };
            self.attach(connection, id);
        }
    }

    fn attach(&mut self, connection: Connection, id: ThreadId) {
        let params = self.resume_params(&id);
        self.send_internal(connection, InternalRequest::Attach(id), "thread/resume", &params);
    }

    pub(in crate::hub) fn on_attached(
        &mut self,
        server: ServerId,
        id: &ThreadId,
        outcome: Result<&str, &str>,
    ) {
        let Some(thread) = self.threads.get_mut(id).filter(|thread| thread.state == ThreadState::Attaching)
        else {
            return self.changes.attach_changed();
        };
        match outcome.map(|result| text::member(result, "thread")) {
            // It was closed before the request arrived.
            Err(_) if thread.is_unloaded() => {
                self.forget_thread(id);
                self.changes.goal_unloaded();
            }
            Err(error) if matches!(Refusal::of(error), Refusal::RetrySoon | Refusal::Recoverable) => {
                // While it is unknown what runs there, the thread must not be dropped.
                let wait = thread.try_again_after(Refusal::of(error)).unwrap_or(UNLOAD_TIMEOUT_MS);
                self.threads.queue_attach(id.clone());
                return self.set_timer(wait, Timer::AttachMore);
            }
            Err(error) if Refusal::of(error) == Refusal::Draining => {
                // It is draining and ends by itself.
                thread.state = ThreadState::Orphaned;
                self.on_draining(server);
            }
            Ok(Some(reported)) => {
                thread.state = ThreadState::Attached;
                thread.demand = None;
                thread.busy_until = thread.busy_until.max(self.now + BUSY_AFTER_EVENT_MS);
                // Upstream sends its goal to every subscriber, unasked.
                thread.suppress_echo_until = self.now + SUPPRESS_ECHO_MS;
                thread.load_attempts = 0;
                thread.describe(reported.get());
                // Clients that connect later are not subscribed to sub-agent threads (same as upstream).
                if thread.is_child && !self.clients.is_empty() {
                    thread.audience = Audience::everyone();
                    thread.unwatched_since = None;
                }
                let (connection, runs) = (thread.connection(), thread.is_active());
                if runs {
                    let params = serde_json::json!({"threadId": &**id, "limit": 1, "sortDirection": "desc"});
                    self.send_internal(
                        connection,
                        InternalRequest::RunningTurn(id.clone()),
                        "thread/turns/list",
                        &params,
                    );
                }
                self.learn_lineage(id);
                self.adopt_suspended_goal(id);
                if !self.threads.get(id).is_some_and(Thread::is_watched) {
                    self.on_no_subscribers(id);
                }
                self.changes.thread_changed(id);
            }
            // Not on disk, or ephemeral. Its turn continues.
            Err(_) => {
                thread.state = ThreadState::Attached;
                thread.demand = None;
                thread.residency = Residency::Unresumable;
                thread.blocked_on = BlockedOn::Ephemeral;
                thread.unwatched_since = None;
                self.learn_lineage(id);
                self.schedule_list(server);
            }
            Ok(None) => self.forget_thread(id),
        }
        self.changes.attach_changed();
        self.changes.thread_state_changed();
    }

    /// The running turn of an attached thread: its end is reported even if the app-server is lost.
    pub(in crate::hub) fn on_running_turn(&mut self, id: &ThreadId, result: Option<&str>) {
        let data = result.and_then(|result| text::member(result, "data"));
        let turns: Vec<Box<RawValue>> =
            data.and_then(|data| serde_json::from_str(data.get()).ok()).unwrap_or_default();
        let Some(thread) = self.threads.get_mut(id).filter(|thread| thread.is_active()) else { return };
        for turn in turns {
            let runs = text::string(turn.get(), "status").is_some_and(|status| status == "inProgress");
            if let Some(turn_id) = text::string(turn.get(), "id").filter(|_| runs) {
                thread.turn_began(&turn_id, turn.get());
            }
        }
    }
}
