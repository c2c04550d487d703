//! Rollback of a failed migration: the thread is loaded again on the old app-server, which stays until the thread is
//! loaded somewhere.

use crate::hub::event::{Action, BlockedOn, Connection, Report, ServerId, ThreadId};
use crate::hub::refusal::Refusal;
use crate::hub::requests::pending::InternalRequest;
use crate::hub::threads::state::ThreadState;
use crate::hub::{Hub, Timer};
use crate::limits::{BUSY_AFTER_EVENT_MS, REFUSED_RETRY_MAX_MS, SUPPRESS_ECHO_MS, UNLOAD_TIMEOUT_MS};

impl Hub {
    /// A thread was not unloaded in time: it is subscribed again where it is, and retried later.
    pub(in crate::hub) fn on_unload_timeout(&mut self, id: &ThreadId) {
        match self.threads.get(id).map(|thread| &thread.state) {
            Some(ThreadState::Unloading) => self.reattach_after_failed_unload(id),
            // The next client that resumes it subscribes the shared connection again.
            Some(ThreadState::Evicting) => self.forget_thread(id),
            _ => {}
        }
    }

    pub(super) fn reattach_after_failed_unload(&mut self, id: &ThreadId) {
        let Some(thread) = self.threads.get_mut(id).filter(|thread| thread.state == ThreadState::Unloading)
        else {
            return;
        };
        let connection = thread.connection();
        thread.blocked_on = BlockedOn::RetryLater;
        // Nothing reaches it until it is known to be subscribed: the unloading may only be late.
        thread.state = ThreadState::RollingBack;
        let params = self.resume_params(id);
        self.send_internal(connection, InternalRequest::RollBack(id.clone()), "thread/resume", &params);
    }

    /// The successor refuses a thread: the old app-server loads it again, and stays for it.
    pub(super) fn roll_back(&mut self, id: &ThreadId, refusal: Refusal, message: Box<str>) {
        self.record_refusal(id, message);
        let before = self.threads.get(id).and_then(|thread| thread.unloaded_from);
        let Some(before) = before.filter(|before| self.accepts_work(*before)) else {
            return self.on_no_server_loads(id, refusal);
        };
        let Some(thread) = self.threads.get_mut(id) else { return };
        (thread.server, thread.state) = (before, ThreadState::RollingBack);
        thread.suppress_echo_until = self.now + SUPPRESS_ECHO_MS;
        let params = self.resume_params(id);
        self.send_internal(
            Connection::Shared(before),
            InternalRequest::RollBack(id.clone()),
            "thread/resume",
            &params,
        );
    }

    /// Records why a thread is refused, and reports it if it is new.
    pub(super) fn record_refusal(&mut self, id: &ThreadId, message: Box<str>) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        if thread.load_refusal.as_ref() != Some(&message) {
            thread.load_refusal = Some(message.clone());
            let reason = message.into();
            self.out.push(Action::Report(Report::MigrationRefused { thread: id.to_string(), reason }));
        }
    }

    /// Neither app-server loads a migrating thread. It is retried with backoff, unless it has ended.
    fn on_no_server_loads(&mut self, id: &ThreadId, refusal: Refusal) {
        let to = self.servers.serving();
        let Some(thread) = self.threads.get_mut(id) else { return };
        if refusal == Refusal::Gone {
            thread.unloaded_from = None;
            self.end_unrecoverable(id);
            return self.changes.thread_state_changed();
        }
        thread.is_background_load = false;
        let wait = thread.try_again_after(Refusal::Recoverable).unwrap_or(REFUSED_RETRY_MAX_MS);
        thread.state = ThreadState::Orphaned;
        thread.server = to.unwrap_or(thread.server);
        thread.retry_at = self.now + wait;
        self.set_timer(wait, Timer::RetryLoad(id.clone()));
        self.schedule_refusal_report();
        self.changes.thread_state_changed();
    }

    /// The response to the resume on the old app-server.
    pub(in crate::hub) fn on_rollback_response(&mut self, id: &ThreadId, outcome: Result<&str, &str>) {
        let Some(thread) = self.threads.get_mut(id).filter(|thread| thread.state == ThreadState::RollingBack)
        else {
            return;
        };
        let is_rolled_back = thread.unloaded_from == Some(thread.server);
        match outcome {
            Ok(_) => {
                thread.state = ThreadState::Attached;
                thread.busy_until = thread.busy_until.max(self.now + BUSY_AFTER_EVENT_MS);
                thread.suppress_echo_until = self.now + SUPPRESS_ECHO_MS;
                thread.unloaded_from = None;
                if is_rolled_back {
                    self.on_rolled_back(id);
                } else {
                    self.check_again_after(id, UNLOAD_TIMEOUT_MS);
                }
                self.changes.thread_state_changed();
            }
            Err(error) if is_rolled_back => {
                let refusal = Refusal::of(error);
                if refusal == Refusal::Draining {
                    let server = thread.server;
                    self.on_draining(server);
                }
                self.on_no_server_loads(id, refusal);
            }
            Err(_) => {
                // Then it is not loaded there any more.
                thread.state = ThreadState::Unloading;
                self.load_in_successor(id);
            }
        }
    }

    /// A thread that the successor refuses is loaded on the old app-server again; the migration is retried later.
    fn on_rolled_back(&mut self, id: &ThreadId) {
        let now = self.now;
        let Some(thread) = self.threads.get_mut(id) else { return };
        let wait = thread.try_again_after(Refusal::Recoverable).unwrap_or(REFUSED_RETRY_MAX_MS);
        thread.retry_at = now + wait;
        thread.blocked_on = BlockedOn::Refused;
        self.set_timer(wait, Timer::RetryRefused);
        self.replay_event_streams(id);
        self.resume_goal(id);
    }

    /// An app-server cannot load again what was unloaded from it.
    pub(in crate::hub) fn drop_rollback_origin(&mut self, server: ServerId) {
        let between = self.threads.values_mut().filter(|thread| thread.unloaded_from == Some(server));
        between.for_each(|thread| thread.unloaded_from = None);
    }
}

impl crate::hub::threads::thread::Thread {
    /// Of the two app-servers that may load it, the next attempt uses the other one.
    pub(in crate::hub) fn try_other_server_next(&mut self) {
        if let Some(other) = self.unloaded_from {
            self.unloaded_from = Some(std::mem::replace(&mut self.server, other));
        }
    }
}
