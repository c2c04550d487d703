//! Notifications about a thread: what they change in its state, and who receives them.

use serde_json::value::RawValue;

use crate::hub::event::{ServerId, Text, ThreadId};
use crate::hub::text::{self, Names};
use crate::hub::threads::state::ThreadState;
use crate::hub::threads::thread::{Audience, Thread};
use crate::hub::{Hub, Timer};
use crate::limits::{BUSY_AFTER_EVENT_MS, BUSY_AFTER_QUEUE_CHANGE_MS};
use crate::routes;

const DELTA: &str = "item/agentMessage/delta";
const GOAL: &str = "thread/goal/";

/// A notification that names a thread.
#[derive(Clone, Copy, Debug)]
pub struct ThreadNotification<'a> {
    pub server: ServerId,
    pub thread: &'a str,
    pub method: &'a str,
    pub params: &'a RawValue,
    pub names: &'a Names<'a>,
    /// Sent to every client, not only to viewers.
    pub everyone: bool,
    pub text: &'a Text,
}

/// Whether a notification is still to be sent after it was applied.
enum Delivery {
    /// It is sent to its audience.
    Deliver,
    /// It was sent, or goes to no client.
    Handled,
}

impl Hub {
    pub(in crate::hub) fn on_thread_notification(&mut self, note: &ThreadNotification<'_>) {
        let &ThreadNotification { server, thread, method, params, names, everyone, text } = note;
        if self.is_trial_thread(server, thread, method) {
            return;
        }
        if !self.threads.contains_key(thread) && !everyone {
            // From `turn/started` on the gateway knows the turn; for any other notification it asks what the thread
            // is doing.
            let is_known = method == "turn/started" || self.pending.concern(thread);
            self.add_subagent_thread(server, thread, is_known);
        }
        let Some(known) = self.threads.get_mut(thread) else {
            // A thread that is not loaded: only its end and its goal matter.
            let is_gone = matches!(method, "thread/archived" | "thread/deleted");
            if is_gone || (method.starts_with(GOAL) && !self.is_listing()) {
                self.goals.confirm(thread);
                self.changes.goals_changed();
            }
            return self.send_to_all(method, text);
        };
        if known.server != server || matches!(known.state, ThreadState::Unloading | ThreadState::RollingBack)
        {
            return self.on_event_from_previous_server(thread, server, method);
        }
        if method == "thread/queue/changed" && known.turns.is_empty() {
            // A message that left the queue is in no list until its turn begins. A load takes it from the queue, too.
            known.busy_until = known.busy_until.max(self.now + BUSY_AFTER_QUEUE_CHANGE_MS);
        }
        if known.state == ThreadState::Orphaned {
            // It belongs to the lost app-server: the thread's state is read when the thread is loaded again.
            return;
        }
        if let ThreadState::Recovering { deferred, .. } = &mut known.state {
            // Handled after the end of the turns that ran before.
            return deferred.push(text.clone());
        }
        // The hot path first.
        if let (Some(shape), Some(item)) = (routes::delta_of(method), &names.item_id) {
            if known.streamed(method, shape, params, &item.0, text) {
                self.send_to_viewers(thread, method, text);
            }
            return;
        }
        let is_echo = known.is_echo(method, params, self.now);
        let last_subscriber = known.last_subscriber;
        let id = known.id.clone();
        if let Delivery::Handled = self.apply_notification(note, &id, is_echo) {
            return;
        }
        match (is_echo, last_subscriber) {
            // The echo of the gateway's own resume: it goes to no client.
            (true, None) => {}
            (true, Some(last_subscriber)) if !everyone => {
                if self.wants(last_subscriber, method) {
                    self.send_to_client(last_subscriber, text.clone());
                }
            }
            _ if everyone => self.send_to_all(method, text),
            _ => self.send_to_viewers(thread, method, text),
        }
        if self.migration.is_under_way() && method != "thread/status/changed" {
            self.changes.thread_changed(&id);
        }
    }

    /// Applies a notification to its thread.
    fn apply_notification(
        &mut self,
        note: &ThreadNotification<'_>,
        id: &ThreadId,
        is_echo: bool,
    ) -> Delivery {
        let &ThreadNotification { server, thread, method, params, names, text, .. } = note;
        let Some(known) = self.threads.get_mut(id) else { return Delivery::Deliver };
        match method {
            "item/started" => {
                known.on_turn_activity(names);
                known.item_started(params, text);
            }
            "item/completed" => {
                known.on_turn_activity(names);
                if let Some(rest) = known.missing_text(params) {
                    self.send_to_viewers(thread, DELTA, &rest);
                }
                if let Some(known) = self.threads.get_mut(id) {
                    known.item_completed(params);
                }
            }
            "turn/started" | "turn/completed" => self.on_turn_event(note, id),
            "thread/status/changed" => self.on_status_changed(id, params.get()),
            "thread/settings/updated" => self.on_settings_updated(id, params.get()),
            "thread/queue/changed" if known.turns.is_empty() => {
                self.set_timer(BUSY_AFTER_QUEUE_CHANGE_MS, Timer::ReEvaluate(id.clone()));
            }
            "thread/realtime/started" => known.has_realtime_session = true,
            "thread/realtime/closed" => known.has_realtime_session = false,
            "thread/tokenUsage/updated" => {
                known.token_usage = Some(params.get().into());
                if let Some(server) = self.servers.get_mut(&server) {
                    server.last_usage_thread = Some(id.clone());
                }
            }
            "thread/goal/updated" if is_echo && known.goal.is_suspended() => {
                // The gateway paused it. After a client's resume, upstream repeats the goal to every client.
                let goal = known.goal.reported().filter(|_| known.last_subscriber.is_some());
                if let Some(goal) = goal.map(str::to_owned) {
                    let text = text::notification(method, &goal);
                    self.send_to_all(method, &text);
                }
                return Delivery::Handled;
            }
            "thread/goal/updated" | "thread/goal/cleared" => self.on_goal_changed(id, params.get(), is_echo),
            "serverRequest/resolved" => {
                self.on_resolved(server, id, names.request_id, method, text);
                return Delivery::Handled;
            }
            "thread/closed" | "thread/deleted" | "thread/archived" => {
                // The resume of an attaching thread may load it again: its response decides.
                let is_asked_for =
                    known.state == ThreadState::Attaching && !self.threads.is_queued_to_attach(id);
                self.send_to_all(method, text);
                if !is_asked_for {
                    self.forget_thread(id);
                    self.changes.goal_unloaded();
                }
                self.changes.thread_state_changed();
                return Delivery::Handled;
            }
            _ => {}
        }
        Delivery::Deliver
    }

    fn on_status_changed(&mut self, id: &ThreadId, params: &str) {
        let Some(known) = self.threads.get_mut(id) else { return };
        let Some(status) = text::member(params, "status") else { return };
        let is_news = *known.status != *status.get();
        known.status = status.get().into();
        // A turn may start next; if none does, no other notification reports that the thread is idle. An echo of a
        // resume is ignored here, because resumes may arrive all the time.
        if is_news && !known.is_active() && (known.unwatched_since.is_some() || self.migration.is_under_way())
        {
            known.busy_until = known.busy_until.max(self.now + BUSY_AFTER_EVENT_MS);
            self.set_timer(BUSY_AFTER_EVENT_MS, Timer::ReEvaluate(id.clone()));
        }
    }

    fn on_goal_changed(&mut self, id: &ThreadId, params: &str, is_echo: bool) {
        let Some(known) = self.threads.get_mut(id) else { return };
        if !is_echo {
            known.goal.apply(params);
        }
        // The goal may have ended while it was suspended.
        known.goal.end_pause_unless_active();
        // A thread that is being attached may be unloaded before it is.
        if known.state != ThreadState::Attaching {
            self.goals.confirm(id);
        }
        self.changes.goals_changed();
    }

    /// A turn started or ended.
    fn on_turn_event(&mut self, note: &ThreadNotification<'_>, id: &ThreadId) {
        let Some(turn) = text::member(note.params.get(), "turn") else { return };
        let (Some(turn_id), Some(known)) = (text::string(turn.get(), "id"), self.threads.get_mut(id)) else {
            return;
        };
        if note.method == "turn/started" {
            known.last_subscriber = None;
            known.busy_until = known.busy_until.min(self.now + BUSY_AFTER_EVENT_MS);
            known.turn_began(&turn_id, turn.get());
            // A turn that fails before any token is counted reports rate limits as well.
            if let Some(server) = self.servers.get_mut(&note.server) {
                server.last_usage_thread = Some(id.clone());
            }
        } else {
            known.turn_ended(&turn_id);
            self.server_requests.turn_ended(id);
            known.busy_until = known.busy_until.max(self.now + BUSY_AFTER_EVENT_MS);
            self.set_timer(BUSY_AFTER_EVENT_MS, Timer::ReEvaluate(id.clone()));
        }
    }

    /// A thread that no client started: a sub-agent's, which upstream reports on every connection.
    pub(in crate::hub) fn add_subagent_thread(&mut self, server: ServerId, thread: &str, is_known: bool) {
        let id: ThreadId = thread.into();
        let mut child = Thread::new(id.clone(), server, Audience::everyone());
        if !is_known {
            child.state = ThreadState::Attaching;
            self.threads.queue_attach(id.clone());
        }
        self.threads.insert(child);
        self.changes.attach_changed();
        if is_known {
            // For an attaching thread, the response to the resume describes it.
            self.learn_lineage(&id);
        }
        if self.clients.is_empty() {
            self.drop_subagent_viewers();
        }
    }
}

impl Thread {
    /// Whether a notification only repeats known state, as after a resume.
    fn is_echo(&self, method: &str, params: &RawValue, now: crate::hub::event::Now) -> bool {
        let params = params.get();
        match method {
            "thread/tokenUsage/updated" => self.token_usage.as_deref() == Some(params),
            "thread/goal/updated" if self.goal.is_suspended() => {
                let goal = text::member(params, "goal");
                goal.is_some_and(|goal| text::string(goal.get(), "status").as_deref() == Some("paused"))
            }
            "thread/goal/cleared" if now < self.suppress_echo_until => {
                self.goal.reported().is_none_or(|goal| text::member(goal, "goal").is_none())
            }
            "thread/goal/updated" if now < self.suppress_echo_until => {
                let known = self.goal.reported().and_then(|goal| text::member(goal, "goal"));
                known.is_some_and(|known| {
                    text::member(params, "goal").is_some_and(|goal| goal.get() == known.get())
                })
            }
            "thread/status/changed" if now < self.suppress_echo_until => {
                text::member(params, "status").is_some_and(|status| *status.get() == *self.status)
            }
            _ => false,
        }
    }
}
