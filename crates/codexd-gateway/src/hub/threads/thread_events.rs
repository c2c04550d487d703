//! What app-servers tell of a thread: what of it is kept, and who hears it.

use serde_json::value::RawValue;

use crate::hub::event::{ServerId, Text};
use crate::hub::text::{self, Names};
use crate::hub::threads::thread::{Audience, Thread, ThreadId, ThreadState};
use crate::hub::{Hub, Timer};
use crate::limits::{QUEUE_STARTS_MS, QUIET_MS};
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
    /// It goes to every client, not only to those who watch the thread.
    pub everyone: bool,
    pub text: &'a Text,
}

/// Whether a notification is still to be told after it was kept.
enum Delivery {
    /// Yes.
    Deliver,
    /// No: that was done.
    Handled,
}

impl Hub {
    pub(in crate::hub) fn on_thread_notification(&mut self, note: &ThreadNotification<'_>) {
        let &ThreadNotification { server, thread, method, params, names, everyone, text } = note;
        if self.is_trial_thread(server, thread, method) {
            return;
        }
        if !self.threads.contains_key(thread) && !everyone {
            // Whose turn begins is known from here on; of any other somebody has to ask what it is doing.
            let is_known = method == "turn/started" || self.pending_per_thread.contains_key(thread);
            self.add_subagent_thread(server, thread, is_known);
        }
        let Some(known) = self.threads.get_mut(thread) else {
            // Somebody else's thread, which only its status concerns.
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
        if known.state == ThreadState::Orphaned {
            // Of what it was before: what it is now is told when it is found.
            return;
        }
        if known.state == ThreadState::Recovering {
            // Handled behind the truth about what ran before.
            return known.defer(text.clone());
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
            // The echo of a resume of our own: nobody needs to hear it.
            (true, None) => {}
            (true, Some(last_subscriber)) if !everyone => {
                if self.wants(last_subscriber, method) {
                    self.send_to_client(last_subscriber, text.clone());
                }
            }
            _ if everyone => self.send_to_all(method, text),
            _ => self.send_to_viewers(thread, method, text),
        }
        if self.handover.is_some() && method != "thread/status/changed" {
            self.changes.thread_changed(&id);
        }
    }

    /// Keeps what a notification means for its thread.
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
                // A message that left the queue is in no list until its turn begins.
                known.busy_until = known.busy_until.max(self.now + QUEUE_STARTS_MS);
                self.set_timer(QUEUE_STARTS_MS, Timer::ReEvaluate(id.clone()));
            }
            "thread/realtime/started" => known.has_realtime_session = true,
            "thread/realtime/closed" => known.has_realtime_session = false,
            "thread/tokenUsage/updated" => {
                known.token_usage = Some(params.get().into());
                if let Some(server) = self.servers.get_mut(&server) {
                    server.last_usage_thread = Some(id.clone());
                }
            }
            "thread/goal/updated" if is_echo && known.goal_is_suspended => {
                // That it is paused is the gateway's doing. Whoever joins makes upstream repeat the goal to everybody.
                let goal = known.goal.clone().filter(|_| known.last_subscriber.is_some());
                if let Some(goal) = goal {
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
                // One that is being subscribed may be loaded again by that: the answer tells.
                let is_asked_for = known.state == ThreadState::Attaching && !self.attach_queue.contains(id);
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
        // A turn may begin next; if none does, no other notification says that the thread is idle. An echo of a resume is no news:
        // resumes may come all the time.
        if is_news && !known.is_active() && (known.unwatched_since.is_some() || self.handover.is_some()) {
            known.busy_until = known.busy_until.max(self.now + QUIET_MS);
            self.set_timer(QUIET_MS, Timer::ReEvaluate(id.clone()));
        }
    }

    fn on_goal_changed(&mut self, id: &ThreadId, params: &str, is_echo: bool) {
        let Some(known) = self.threads.get_mut(id) else { return };
        if !is_echo {
            known.apply_goal(params);
        }
        known.goal_is_pausing &= known.goal_is_active;
        // The goal ended while it was suspended.
        known.goal_is_suspended &= known.goal_is_active;
        // A thread that is being attached may be unloaded before it is.
        if known.state != ThreadState::Attaching {
            self.goals.confirm(id);
        }
        self.changes.goals_changed();
    }

    /// A turn begins or ends.
    fn on_turn_event(&mut self, note: &ThreadNotification<'_>, id: &ThreadId) {
        let Some(turn) = text::member(note.params.get(), "turn") else { return };
        let (Some(turn_id), Some(known)) = (text::string(turn.get(), "id"), self.threads.get_mut(id)) else {
            return;
        };
        if note.method == "turn/started" {
            known.last_subscriber = None;
            known.busy_until = known.busy_until.min(self.now + QUIET_MS);
            known.turn_began(&turn_id, turn.get());
            // Also a turn that fails before any token is counted tells of limits.
            if let Some(server) = self.servers.get_mut(&note.server) {
                server.last_usage_thread = Some(id.clone());
            }
        } else {
            known.turn_ended(&turn_id);
            self.server_requests.turn_ended(id);
            known.busy_until = known.busy_until.max(self.now + QUIET_MS);
            self.set_timer(QUIET_MS, Timer::ReEvaluate(id.clone()));
        }
    }

    /// A thread that nobody has started here: a sub-agent's, which upstream tells everybody about.
    pub(in crate::hub) fn add_subagent_thread(&mut self, server: ServerId, thread: &str, is_known: bool) {
        let id: ThreadId = thread.into();
        let mut child = Thread::new(id.clone(), server, Audience::everyone());
        if !is_known {
            child.state = ThreadState::Attaching;
            self.attach_queue.push_back(id.clone());
        }
        self.threads.insert(id.clone(), child);
        self.attach_more();
        if is_known {
            // Of one that is being subscribed the answer to that tells it.
            self.learn_lineage(&id);
        }
        if self.clients.is_empty() {
            self.drop_subagent_viewers();
        }
    }
}

impl Thread {
    /// Whether a notification only repeats what is known, as those do that follow a resume.
    fn is_echo(&self, method: &str, params: &RawValue, now: crate::hub::event::Now) -> bool {
        let params = params.get();
        match method {
            "thread/tokenUsage/updated" => self.token_usage.as_deref() == Some(params),
            "thread/goal/updated" if self.goal_is_suspended => {
                let goal = text::member(params, "goal");
                goal.is_some_and(|goal| text::string(goal.get(), "status").as_deref() == Some("paused"))
            }
            "thread/goal/cleared" if now < self.suppress_echo_until => {
                self.goal.as_deref().is_none_or(|goal| text::member(goal, "goal").is_none())
            }
            "thread/goal/updated" if now < self.suppress_echo_until => {
                let known = self.goal.as_deref().and_then(|goal| text::member(goal, "goal"));
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
