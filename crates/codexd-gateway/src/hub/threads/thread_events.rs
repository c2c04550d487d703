//! What app-servers tell of a thread: what of it is kept, and who hears it.

use serde_json::value::RawValue;

use crate::hub::event::{ServerId, Text};
use crate::hub::text::{self, Names};
use crate::hub::threads::thread::{Audience, Motion, Thread, ThreadId};
use crate::hub::{Hub, Timer};
use crate::limits::{QUEUE_STARTS_MS, QUIET_MS};
use crate::routes;

const DELTA: &str = "item/agentMessage/delta";
const GOAL: &str = "thread/goal/";

/// A notification that names a thread.
#[derive(Clone, Copy, Debug)]
pub struct Note<'a> {
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
enum Kept {
    /// Yes.
    Tell,
    /// No: that was done.
    Told,
}

impl Hub {
    pub(in crate::hub) fn noted_of_thread(&mut self, note: &Note<'_>) {
        let &Note { server, thread, method, params, names, everyone, text } = note;
        if self.is_rehearsal(server, thread, method) {
            return;
        }
        if !self.threads.contains_key(thread) && !everyone {
            // Whose turn begins is known from here on; of any other somebody has to ask what it is doing.
            let is_known = method == "turn/started" || self.under_way.contains_key(thread);
            self.found_child(server, thread, is_known);
        }
        let Some(known) = self.threads.get_mut(thread) else {
            // Somebody else's thread, which only its status concerns.
            let is_gone = matches!(method, "thread/archived" | "thread/deleted");
            if is_gone || (method.starts_with(GOAL) && !self.is_listing()) {
                self.goals.is_seen(thread);
                self.keep_goals();
            }
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
            return known.defer(text.clone());
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
        if let Kept::Told = self.keep_note(note, &id, is_echo) {
            return;
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

    /// Keeps what a notification means for its thread.
    fn keep_note(&mut self, note: &Note<'_>, id: &ThreadId, is_echo: bool) -> Kept {
        let &Note { server, thread, method, params, names, text, .. } = note;
        let Some(known) = self.threads.get_mut(id) else { return Kept::Tell };
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
                if let Some(known) = self.threads.get_mut(id) {
                    known.item_completed(params);
                }
            }
            "turn/started" | "turn/completed" => self.turn_told(note, id),
            "thread/status/changed" => {
                if let Some(status) = text::member(params.get(), "status") {
                    let is_news = *known.status != *status.get();
                    known.status = status.get().into();
                    // What follows may begin a turn; if nothing does, nobody else tells that it has come to rest. An echo of a
                    // resume tells nothing: there may be one all the time.
                    if is_news
                        && !known.is_active()
                        && (known.unwatched_since.is_some() || self.handover.is_some())
                    {
                        known.quiet_at = known.quiet_at.max(self.now + QUIET_MS);
                        self.timer(QUIET_MS, Timer::Quiet(id.clone()));
                    }
                }
            }
            "thread/settings/updated" => self.settings_told(id, params.get()),
            "thread/queue/changed" if known.turns.is_empty() => {
                // A message that left the queue is in no list until its turn begins.
                known.quiet_at = known.quiet_at.max(self.now + QUEUE_STARTS_MS);
                self.timer(QUEUE_STARTS_MS, Timer::Quiet(id.clone()));
            }
            "thread/realtime/started" => known.realtime = true,
            "thread/realtime/closed" => known.realtime = false,
            "thread/tokenUsage/updated" => {
                known.token_usage = Some(params.get().into());
                if let Some(server) = self.servers.get_mut(&server) {
                    server.counted = Some(id.clone());
                }
            }
            "thread/goal/updated" if is_echo && known.goal_held => {
                // That it is paused is the gateway's doing. Whoever joins makes upstream repeat the goal to everybody.
                let goal = known.goal.clone().filter(|_| known.joiner.is_some());
                if let Some(goal) = goal {
                    let text = text::notification(method, &goal);
                    self.tell_everyone(method, &text);
                }
                return Kept::Told;
            }
            "thread/goal/updated" | "thread/goal/cleared" => {
                if !is_echo {
                    known.learn_goal(params.get());
                }
                known.goal_rests &= known.goal_is_active;
                // It has ended while it was held.
                known.goal_held &= known.goal_is_active;
                // One that is being found may be unloaded before it is.
                if known.motion != Motion::Finding {
                    self.goals.is_seen(id);
                }
                self.keep_goals();
            }
            "serverRequest/resolved" => {
                self.resolved(server, id, names.request_id, method, text);
                return Kept::Told;
            }
            "thread/closed" | "thread/deleted" | "thread/archived" => {
                // One that is being subscribed may be loaded again by that: the answer tells.
                let is_asked_for = known.motion == Motion::Finding && !self.finds.contains(id);
                self.tell_everyone(method, text);
                if !is_asked_for {
                    self.forget_thread(id);
                    self.load_goals();
                }
                self.moved_on();
                return Kept::Told;
            }
            _ => {}
        }
        Kept::Tell
    }

    /// A turn begins or ends.
    fn turn_told(&mut self, note: &Note<'_>, id: &ThreadId) {
        let Some(turn) = text::member(note.params.get(), "turn") else { return };
        let (Some(turn_id), Some(known)) = (text::string(turn.get(), "id"), self.threads.get_mut(id)) else {
            return;
        };
        if note.method == "turn/started" {
            known.joiner = None;
            known.quiet_at = known.quiet_at.min(self.now + QUIET_MS);
            known.turn_began(&turn_id, turn.get());
            // Also a turn that fails before any token is counted tells of limits.
            if let Some(server) = self.servers.get_mut(&note.server) {
                server.counted = Some(id.clone());
            }
        } else {
            known.turn_ended(&turn_id);
            self.asks.turn_ended(id);
            known.quiet_at = known.quiet_at.max(self.now + QUIET_MS);
            self.timer(QUIET_MS, Timer::Quiet(id.clone()));
        }
    }

    /// A thread that nobody has started here: a sub-agent's, which upstream tells everybody about.
    pub(in crate::hub) fn found_child(&mut self, server: ServerId, thread: &str, is_known: bool) {
        let id: ThreadId = thread.into();
        let mut child = Thread::new(id.clone(), server, Audience::everyone());
        if !is_known {
            child.motion = Motion::Finding;
            self.finds.push_back(id.clone());
        }
        self.threads.insert(id.clone(), child);
        self.find_more();
        if is_known {
            // Of one that is being subscribed the answer to that tells it.
            self.learn_lineage(&id);
        }
        if self.clients.is_empty() {
            self.leave_children_alone();
        }
    }
}

impl Thread {
    /// Whether a notification only repeats what is known, as those do that follow a resume.
    fn is_echo(&self, method: &str, params: &RawValue, now: crate::hub::event::Now) -> bool {
        let params = params.get();
        match method {
            "thread/tokenUsage/updated" => self.token_usage.as_deref() == Some(params),
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
}
