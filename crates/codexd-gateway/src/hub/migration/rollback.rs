//! A migration that fails: the thread is loaded again where it was. The app-server that it came from stays until the thread
//! is loaded somewhere.

use crate::hub::event::{Action, BlockedOn, Connection, Report, ServerId};
use crate::hub::requests::pending::Errand;
use crate::hub::requests::refusal::Refusal;
use crate::hub::threads::thread::{Motion, ThreadId};
use crate::hub::{Hub, Timer};
use crate::limits::{HUSH_MS, MOVE_STUCK_MS, QUIET_MS, REFUSED_AGAIN_MAX_MS};

impl Hub {
    /// The new app-server refuses a thread: the one that had it loads it again, and stays for it.
    pub(super) fn roll_back(&mut self, id: &ThreadId, refusal: Refusal, message: Box<str>) {
        self.refused(id, message);
        let before = self.threads.get(id).and_then(|thread| thread.came_from);
        let Some(before) = before.filter(|before| self.is_well(*before)) else {
            return self.not_loaded_anywhere(id, refusal);
        };
        let Some(thread) = self.threads.get_mut(id) else { return };
        (thread.server, thread.motion) = (before, Motion::Returning);
        thread.hush_until = self.now + HUSH_MS;
        let params = self.resume_params(id);
        self.errand(Connection::Shared(before), Errand::Return(id.clone()), "thread/resume", &params);
    }

    /// Keeps why a thread is refused, and has it written down if that is news.
    pub(super) fn refused(&mut self, id: &ThreadId, message: Box<str>) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        if thread.refused.as_ref() != Some(&message) {
            thread.refused = Some(message.clone());
            let reason = message.into();
            self.out.push(Action::Report(Report::MigrationRefused { thread: id.to_string(), reason }));
        }
    }

    /// Neither app-server loads a thread that was to move. It stays known, and is tried again with backoff until one does,
    /// unless it has ended.
    fn not_loaded_anywhere(&mut self, id: &ThreadId, refusal: Refusal) {
        let to = self.serving;
        let Some(thread) = self.threads.get_mut(id) else { return };
        if refusal == Refusal::Gone {
            thread.came_from = None;
            self.end_as_lost(id);
            return self.moved_on();
        }
        thread.loads_unasked = false;
        let wait = thread.try_again_after(Refusal::MayHeal).unwrap_or(REFUSED_AGAIN_MAX_MS);
        thread.motion = Motion::Lost;
        thread.server = to.unwrap_or(thread.server);
        thread.again_at = self.now + wait;
        self.timer(wait, Timer::Again(id.clone()));
        self.refusals_changed();
        self.moved_on();
    }

    /// The app-server that had a thread has loaded it again, or says why not.
    pub(in crate::hub) fn returned(&mut self, id: &ThreadId, outcome: Result<&str, &str>) {
        let Some(thread) = self.threads.get_mut(id).filter(|thread| thread.motion == Motion::Returning)
        else {
            return;
        };
        let is_rolled_back = thread.came_from == Some(thread.server);
        match outcome {
            Ok(_) => {
                thread.motion = Motion::Still;
                thread.quiet_at = thread.quiet_at.max(self.now + QUIET_MS);
                thread.hush_until = self.now + HUSH_MS;
                thread.came_from = None;
                if is_rolled_back {
                    self.rolled_back(id);
                } else {
                    self.look_again(id, MOVE_STUCK_MS);
                }
                self.moved_on();
            }
            Err(error) if is_rolled_back => {
                let refusal = Refusal::of(error);
                if refusal == Refusal::Draining {
                    let server = thread.server;
                    self.drains(server);
                }
                self.not_loaded_anywhere(id, refusal);
            }
            Err(_) => {
                // Then it is not there any more.
                thread.motion = Motion::Leaving;
                self.arrive(id);
            }
        }
    }

    /// A thread that the new app-server refuses is loaded again where it was, and is tried again later.
    fn rolled_back(&mut self, id: &ThreadId) {
        let now = self.now;
        let Some(thread) = self.threads.get_mut(id) else { return };
        let wait = thread.try_again_after(Refusal::MayHeal).unwrap_or(REFUSED_AGAIN_MAX_MS);
        thread.again_at = now + wait;
        thread.blocked_on = BlockedOn::Refused;
        self.timer(wait, Timer::Refused);
        self.begin_streams_again(id);
        self.let_goal_go_on(id);
    }

    /// An app-server cannot take back any more what was unloaded from it.
    pub(in crate::hub) fn forget_origin(&mut self, server: ServerId) {
        let between = self.threads.values_mut().filter(|thread| thread.came_from == Some(server));
        between.for_each(|thread| thread.came_from = None);
    }
}

impl crate::hub::threads::thread::Thread {
    /// Of the two app-servers that may load it, the other one is asked next time.
    pub(in crate::hub) fn ask_other_next(&mut self) {
        if let Some(other) = self.came_from {
            self.came_from = Some(std::mem::replace(&mut self.server, other));
        }
    }
}
