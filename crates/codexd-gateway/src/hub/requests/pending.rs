//! Requests that were sent upstream and are unanswered.

use std::collections::HashMap;
use std::rc::Rc;

use crate::hub::event::{ClientId, Connection, Now, ServerId, Text, ThreadId};
use crate::hub::threads::profile::Profile;

/// All unanswered requests.
#[derive(Debug, Default)]
pub struct PendingRequests {
    requests: HashMap<u64, PendingRequest>,
    last_id: u64,
    /// Number of unanswered requests per thread. Some of these threads are not in the thread table yet.
    per_thread: HashMap<ThreadId, u32>,
    /// Whether [`Timer::Overdue`](crate::hub::Timer) is set.
    has_overdue_timer: bool,
}

impl PendingRequests {
    /// The id of the next request.
    pub fn next_id(&self) -> u64 {
        self.last_id + 1
    }

    pub fn take_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    pub fn insert(&mut self, id: u64, request: PendingRequest) {
        self.requests.insert(id, request);
    }

    pub fn remove(&mut self, id: u64) -> Option<PendingRequest> {
        self.requests.remove(&id)
    }

    pub fn get(&self, id: u64) -> Option<&PendingRequest> {
        self.requests.get(&id)
    }

    pub fn get_mut(&mut self, id: u64) -> Option<&mut PendingRequest> {
        self.requests.get_mut(&id)
    }

    pub fn iter(&self) -> impl Iterator<Item = (u64, &PendingRequest)> {
        self.requests.iter().map(|(&id, request)| (id, request))
    }

    pub fn values(&self) -> impl Iterator<Item = &PendingRequest> {
        self.requests.values()
    }

    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut PendingRequest> {
        self.requests.values_mut()
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty() && self.per_thread.is_empty()
    }

    /// Ids of the requests over a connection, oldest first.
    pub fn over(&self, connection: Connection) -> Vec<u64> {
        let over = self.iter().filter(|(_, request)| request.connection == connection);
        let mut ids: Vec<u64> = over.map(|(id, _)| id).collect();
        ids.sort_unstable();
        ids
    }

    /// A request about a thread is pending.
    pub fn add_of_thread(&mut self, thread: &ThreadId) {
        *self.per_thread.entry(thread.clone()).or_default() += 1;
    }

    /// A request about a thread is no longer pending. Returns whether it was the last one.
    pub fn thread_request_done(&mut self, thread: &ThreadId) -> bool {
        let Some(count) = self.per_thread.get_mut(thread) else { return false };
        *count = count.saturating_sub(1);
        let was_last = *count == 0;
        if was_last {
            self.per_thread.remove(thread);
        }
        was_last
    }

    /// Number of pending requests about a thread.
    pub fn count_of_thread(&self, thread: &str) -> u32 {
        self.per_thread.get(thread).copied().unwrap_or_default()
    }

    /// Whether requests about a thread are pending.
    pub fn concern(&self, thread: &str) -> bool {
        self.per_thread.contains_key(thread)
    }

    /// Whether [`Timer::Overdue`](crate::hub::Timer) has to be set. From then on it is.
    pub fn needs_overdue_timer(&mut self) -> bool {
        !std::mem::replace(&mut self.has_overdue_timer, true)
    }

    /// [`Timer::Overdue`](crate::hub::Timer) was reached.
    pub fn overdue_timer_reached(&mut self) {
        self.has_overdue_timer = false;
    }
}

/// One unanswered request.
#[derive(Clone, Debug)]
pub struct PendingRequest {
    pub connection: Connection,
    pub origin: Origin,
    /// Whether the request counts against the in-flight limits.
    pub has_permit: bool,
    /// Whether large members of the client's request were dropped: such a request cannot be sent again.
    pub is_truncated: bool,
    /// When the client receives a timeout error. `None` if the method has no deadline.
    pub overdue_at: Option<Now>,
}

/// Where a request came from.
#[derive(Clone, Debug)]
pub enum Origin {
    Client {
        client: ClientId,
        /// The client's request id, raw JSON.
        id: Box<str>,
        kind: RequestKind,
        thread: Option<ThreadId>,
        /// The client's request, sent again if a draining app-server refuses it.
        text: Text,
    },
    Internal(InternalRequest),
}

/// What the response to a client's request means to the gateway.
pub use codexd_protocol::methods::RequestKind;

/// A request of the gateway's own.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum InternalRequest {
    /// Which threads an app-server has loaded.
    LoadedList(ServerId),
    /// The user's unload delay.
    UnloadDelay,
    /// Where the rollout file of a thread is.
    ReadThread(ThreadId),
    /// Checks before unloading.
    CheckQueue(ThreadId),
    CheckTerminals(ThreadId),
    CheckGoal(ThreadId),
    /// Suspend the goal.
    PauseGoal(ThreadId),
    /// Resume the goal: read it, then activate it.
    ReadSuspendedGoal(ThreadId),
    ResumeGoal(ThreadId),
    /// Unload to migrate.
    Unload(ThreadId),
    /// Subscribe again on the old app-server after a failed migration.
    RollBack(ThreadId),
    /// Load in the successor.
    Load(ThreadId),
    /// Unload because no client watches it.
    Evict(ThreadId),
    /// Load in the successor of a lost app-server.
    Recover(ThreadId),
    /// How the last turns ended.
    LastTurns(ThreadId),
    /// Which turn is running in an attached thread.
    RunningTurn(ThreadId),
    /// One part of the process-wide state.
    ProcessState(Part),
    /// Restore the environments that the thread had before it moved.
    RestoreEnvironments(ThreadId),
    /// Whether the configuration loads in the successor, for threads of one folder and provider.
    CheckConfig(Rc<Profile>),
    /// The same, by starting an ephemeral thread.
    TrialLoad(Rc<Profile>),
    /// Subscribe to a thread that was loaded before this gateway started.
    Attach(ThreadId),
    /// The parent of a thread, or of its farthest known ancestor (`of`).
    Lineage {
        thread: ThreadId,
        of: ThreadId,
    },
    /// The response does not matter.
    IgnoreResponse,
}

impl InternalRequest {
    pub fn thread(&self) -> Option<&ThreadId> {
        match self {
            InternalRequest::LoadedList(_)
            | InternalRequest::UnloadDelay
            | InternalRequest::ProcessState(_)
            | InternalRequest::IgnoreResponse => None,
            InternalRequest::CheckConfig(_) | InternalRequest::TrialLoad(_) => None,
            InternalRequest::ReadThread(thread)
            | InternalRequest::CheckQueue(thread)
            | InternalRequest::CheckTerminals(thread)
            | InternalRequest::CheckGoal(thread)
            | InternalRequest::PauseGoal(thread)
            | InternalRequest::ReadSuspendedGoal(thread)
            | InternalRequest::ResumeGoal(thread)
            | InternalRequest::Unload(thread)
            | InternalRequest::RollBack(thread)
            | InternalRequest::Load(thread)
            | InternalRequest::Evict(thread)
            | InternalRequest::Recover(thread)
            | InternalRequest::LastTurns(thread)
            | InternalRequest::RunningTurn(thread)
            | InternalRequest::RestoreEnvironments(thread)
            | InternalRequest::Attach(thread)
            | InternalRequest::Lineage { thread, .. } => Some(thread),
        }
    }
}

/// One part of the process-wide state of an app-server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Part {
    /// Who is logged in.
    Account,
    /// How.
    AuthMode,
    /// The sign-in of the model provider's gateway; 0.131.0 does not know it.
    GatewayOAuth,
    /// The skills that are found without a thread.
    Skills,
}
