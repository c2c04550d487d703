//! Deadlines of the hub, and what each of them is for.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::hub::Hub;
use crate::hub::event::{ClientId, Now, ServerId, ThreadId};

/// What a deadline is for. A handler ignores a deadline that no longer applies.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Timer {
    /// Queued requests of a client time out.
    QueueTimeout(ClientId),
    /// A client's `initialize` times out.
    InitializeTimeout(ClientId),
    /// In-flight permits expire although their requests are unanswered; also resumes scheduling after a pause.
    ReleasePermits,
    /// Check whether an unwatched thread is due for unloading.
    UnloadIdle(ThreadId),
    /// A thread may have become idle.
    ReEvaluate(ThreadId),
    /// Unloading a thread takes too long.
    UnloadTimeout(ThreadId),
    /// Reconnect lost connections.
    Reconnect,
    /// Retry loading a thread.
    RetryLoad(ThreadId),
    /// Repeat a failed `thread/loaded/list`.
    ListLoaded(ServerId),
    /// Check whether unresumable threads are still loaded.
    ListUnresumable(ServerId),
    /// Attach more of the threads that were found loaded.
    AttachMore,
    /// Repeat the request for the user's unload delay.
    UnloadDelay(ServerId),
    /// Retry resuming a suspended goal.
    ResumeGoal(ThreadId),
    /// Persisting goals takes too long.
    PersistGoalsTimeout(u64),
    /// Drop expired settings of unloaded threads.
    ParkedSettings,
    /// Load the threads of postponed goals.
    LoadPostponedGoals,
    /// Report the refused threads to the host.
    ReportRefusedThreads,
    /// Retry migrations that the successor refused.
    RetryRefused,
    /// Return to the full number of background loads.
    BackgroundLoads,
    /// Report a changed handover.
    HandoverReport,
    /// Check again whether a thread can be unloaded; nothing reports that its blocker is gone.
    CheckAgain(ThreadId),
    /// A server request about no thread times out.
    ServerRequestTimeout(u64),
    /// Repeat the request for a thread's parent.
    Lineage(ThreadId),
    /// Choose another client identity after a refusal.
    RetryIdentity,
    /// The supervisor has had time to report that the end of an app-server was requested.
    EndedServer(ServerId),
    /// Check for overdue requests.
    Overdue,
    /// The app-server has had time to resolve an answered server request.
    ResolutionTimeout(u64),
}

/// The timers that are set, the next one first.
#[derive(Debug, Default)]
pub struct Timers {
    heap: BinaryHeap<Reverse<(Now, Timer)>>,
}

impl Timers {
    pub fn set(&mut self, at: Now, timer: Timer) {
        self.heap.push(Reverse((at, timer)));
    }

    pub fn is_set(&self, timer: &Timer) -> bool {
        self.heap.iter().any(|Reverse((_, known))| known == timer)
    }

    pub fn next_due(&self) -> Option<Now> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes the next timer that is due.
    fn take_due(&mut self, now: Now) -> Option<Timer> {
        self.next_due().filter(|at| *at <= now)?;
        self.heap.pop().map(|Reverse((_, timer))| timer)
    }

    pub fn len(&self) -> usize {
        self.heap.len()
    }
}

impl Hub {
    /// Handles the timers that are due.
    pub(super) fn on_deadline(&mut self) {
        while let Some(timer) = self.timers.take_due(self.now) {
            match timer {
                Timer::QueueTimeout(client) => self.on_queue_timeout(client),
                Timer::InitializeTimeout(client) => self.on_client_initialize_timeout(client),
                Timer::ReleasePermits => self.release_expired_permits(),
                Timer::UnloadIdle(thread) => self.unload_if_unwatched(&thread),
                Timer::ReEvaluate(thread) => self.changes.thread_changed(&thread),
                Timer::UnloadTimeout(thread) => self.on_unload_timeout(&thread),
                Timer::Reconnect => self.reconnect(),
                Timer::RetryLoad(thread) => self.retry_load(&thread),
                Timer::ListLoaded(server) if self.is_up(server) => self.request_loaded_list(server),
                Timer::ListLoaded(_) => {}
                Timer::ListUnresumable(server) => self.list_unresumable(server),
                Timer::AttachMore => self.changes.attach_changed(),
                Timer::UnloadDelay(server) => self.request_unload_delay(server),
                Timer::ResumeGoal(thread) => self.resume_goal_unless_migrating(&thread),
                Timer::PersistGoalsTimeout(number) => self.on_goals_persisted(number),
                Timer::ParkedSettings => self.forget_parked_settings(),
                Timer::LoadPostponedGoals => self.load_postponed_goals(),
                Timer::ReportRefusedThreads => self.report_refused_threads(),
                Timer::CheckAgain(thread) => self.on_check_timer(&thread),
                Timer::ServerRequestTimeout(number) => self.refuse_server_request(number),
                Timer::Lineage(thread) => self.learn_lineage(&thread),
                Timer::RetryIdentity => self.retry_identity(),
                Timer::EndedServer(server) => self.report_losses(server),
                Timer::Overdue => self.answer_overdue_requests(),
                Timer::ResolutionTimeout(number) => self.on_resolution_timeout(number),
                Timer::RetryRefused => self.re_evaluate_blocked_threads(),
                Timer::BackgroundLoads => self.changes.loads_changed(),
                Timer::HandoverReport => self.report_handover_if_changed(),
            }
        }
        self.changes.requests_changed();
    }
}
