//! Requests that were sent upstream and are unanswered.

use std::rc::Rc;

use crate::hub::event::{ClientId, Connection, Now, ServerId, Text};
use crate::hub::migration::Profile;
use crate::hub::threads::thread::ThreadId;

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
    ProcessState(crate::hub::upstream::process_state::Part),
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
