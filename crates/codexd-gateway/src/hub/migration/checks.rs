//! What speaks against unloading a thread: what is known of it, and what has to be asked.

use serde_json::json;

use crate::hub::event::{Action, BlockedOn};
use crate::hub::goals::told_of_goal;
use crate::hub::requests::pending::Errand;
use crate::hub::threads::thread::{Check, Motion, ThreadId};
use crate::hub::{Hub, Timer, text};
use crate::limits::{MOVE_STUCK_MS, UNWATCHED_MAX_MS};

impl Hub {
    /// What keeps a thread where it is, as far as that is known without asking: whatever runs in it, and whatever was
    /// asked about it and not answered, which may begin something or fail by the unloading.
    pub(in crate::hub) fn obviously_waits_for(&self, id: &ThreadId) -> Option<BlockedOn> {
        let thread = self.threads.get(id)?;
        if thread.is_busy(self.now) {
            Some(if self.asks.is_pending(id) { BlockedOn::Approval } else { BlockedOn::Turn })
        } else if self.under_way.contains_key(id) {
            Some(BlockedOn::Request)
        } else if thread.realtime {
            Some(BlockedOn::Realtime)
        } else if thread.ephemeral {
            Some(BlockedOn::Ephemeral)
        } else {
            None
        }
    }

    /// Asks everything that could speak against it. Until the answers are there, nothing new reaches the thread.
    pub(in crate::hub) fn look_at(&mut self, id: &ThreadId, to_release: bool) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        let outstanding = if to_release { 3 } else { 4 };
        thread.motion = Motion::Checking(Check { outstanding, to_release, ..Check::default() });
        let (link, path, materialised) = (thread.link(), thread.path.clone(), thread.materialised);
        let params = json!({"threadId": &**id});
        self.errand(link, Errand::CheckGoal(id.clone()), "thread/goal/get", &params);
        self.errand(link, Errand::CheckQueue(id.clone()), "thread/queue/list", &params);
        self.errand(link, Errand::CheckTerminals(id.clone()), "thread/backgroundTerminals/list", &params);
        match path {
            _ if to_release => {}
            _ if materialised => self.checked(id, |_| {}),
            Some(path) => self.out.push(Action::CheckRollout { thread: id.to_string(), path }),
            None => self.errand(link, Errand::Read(id.clone()), "thread/read", &params),
        }
    }

    /// `thread/read` told where the file of a thread is.
    pub(in crate::hub) fn path_told(&mut self, id: &ThreadId, result: Option<&str>) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        if let Some(told) = result.and_then(|result| text::member(result, "thread")) {
            thread.describe(told.get());
        }
        if !matches!(thread.motion, Motion::Checking(_)) {
            return;
        }
        match (&thread.path, thread.ephemeral) {
            (Some(path), false) => {
                let path = path.clone();
                self.out.push(Action::CheckRollout { thread: id.to_string(), path });
            }
            (None, false) if result.is_some() => {
                self.checked(id, |check| check.blocked_on = Some(BlockedOn::FirstTurn));
            }
            (_, true) => self.checked(id, |check| check.blocked_on = Some(BlockedOn::Ephemeral)),
            _ => self.checked(id, |check| check.blocked_on = Some(BlockedOn::RetryLater)),
        }
    }

    pub(in crate::hub) fn looked(&mut self, thread: &str, exists: bool) {
        let Some(known) = self.threads.get_mut(thread) else { return };
        known.materialised |= exists;
        let id = known.id.clone();
        self.checked(&id, |check| {
            if !exists {
                check.blocked_on = Some(BlockedOn::FirstTurn);
            }
        });
    }

    /// What is said of the goal of a thread.
    pub(in crate::hub) fn check_goal(&mut self, id: &ThreadId, outcome: Result<&str, &str>) {
        let goal = outcome.ok().and_then(|result| text::member(result, "goal"));
        let status = goal.and_then(|goal| text::string(goal.get(), "status"));
        let active = status.is_some_and(|status| status == "active");
        if let Some(goal) = goal.filter(|goal| goal.get() != "null")
            && let Some(thread) = self.threads.get_mut(id).filter(|thread| thread.goal.is_none())
        {
            // So that its clearing is news, also when nobody was told of it since this gateway is there.
            thread.learn_goal(&told_of_goal(id, goal));
        }
        self.checked(id, |check| {
            check.goal_is_active |= active;
            check.trouble(outcome);
        });
    }

    /// Whether a list is empty: of queued messages, or of background terminals.
    pub(in crate::hub) fn check_list(
        &mut self,
        id: &ThreadId,
        outcome: Result<&str, &str>,
        blocked_on: BlockedOn,
    ) {
        let data = outcome.ok().and_then(|result| text::member(result, "data"));
        let any = data.is_some_and(|data| {
            serde_json::from_str::<Vec<serde::de::IgnoredAny>>(data.get()).is_ok_and(|list| !list.is_empty())
        });
        let rests = self.threads.get(id).is_some_and(|thread| thread.queue_rests);
        let any = any && !(rests && blocked_on == BlockedOn::Queue);
        self.checked(id, |check| {
            if any {
                check.blocked_on = Some(blocked_on);
            }
            check.trouble(outcome);
        });
    }

    /// One of the questions about a thread is answered.
    fn checked(&mut self, id: &ThreadId, note: impl FnOnce(&mut Check)) {
        let Some(thread) = self.threads.get_mut(id) else { return self.moved_on() };
        let Motion::Checking(check) = &mut thread.motion else { return };
        note(check);
        check.outstanding = check.outstanding.saturating_sub(1);
        if check.outstanding > 0 {
            return;
        }
        let check = check.clone();
        thread.motion = Motion::Still;
        if check.to_release {
            return self.checked_to_release(id, &check);
        }
        let is_alone = !thread.is_watched();
        let late = self.obviously_waits_for(id);
        if is_alone && late.is_none() && check.blocked_on == Some(BlockedOn::FirstTurn) {
            // Nothing was said in it, and nobody can find it again.
            self.release(id);
            return self.moved_on();
        }
        if let Some(blocked_on) = check.blocked_on.or(late) {
            self.waits(id, blocked_on);
            if late.is_none() {
                // How long that takes is not known.
                self.let_goal_go_on(id);
            }
            // Of some nobody tells when they are over.
            if late.is_none() && blocked_on != BlockedOn::FirstTurn {
                self.look_again(id, MOVE_STUCK_MS);
            }
            return self.moved_on();
        }
        if check.goal_is_active {
            self.hold_goal(id);
            return self.moved_on();
        }
        self.leave(id);
    }

    fn checked_to_release(&mut self, id: &ThreadId, check: &Check) {
        let late = self.obviously_waits_for(id).filter(|blocked_on| *blocked_on != BlockedOn::Ephemeral);
        let goal_is_held = self.threads.get(id).is_some_and(|thread| thread.goal_held);
        if check.blocked_on.or(late).is_some() || check.goal_is_active || goal_is_held {
            // What goes on in it goes on, watched or not.
            if let Some(thread) = self.threads.get_mut(id) {
                thread.blocked_on = check.blocked_on.unwrap_or(BlockedOn::Turn);
            }
            self.look_again(id, UNWATCHED_MAX_MS);
        } else {
            self.release(id);
        }
        self.moved_on();
    }

    /// Looks at a thread again later; once, however often this is asked for.
    pub(in crate::hub) fn look_again(&mut self, id: &ThreadId, after_ms: u64) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        if !std::mem::replace(&mut thread.looked_at_again, true) {
            self.timer(after_ms, Timer::Look(id.clone()));
        }
    }

    pub(in crate::hub) fn time_to_look(&mut self, id: &ThreadId) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        thread.looked_at_again = false;
        thread.queue_rests |= thread.blocked_on == BlockedOn::Queue && !thread.is_busy(self.now);
        self.thread_stirred(id);
    }
}

impl Check {
    /// An error that says nothing about the thread, but that too much is asked at once, or that something broke, must not
    /// pass for "nothing is there". Any other may: the app-server does not know the method, or the thread has no such thing.
    fn trouble(&mut self, outcome: Result<&str, &str>) {
        let code = outcome.err().and_then(|error| text::member(error, "code")).map(|code| code.get());
        if matches!(code, Some("-32001" | "-32603")) {
            self.blocked_on.get_or_insert(BlockedOn::RetryLater);
        }
    }
}
