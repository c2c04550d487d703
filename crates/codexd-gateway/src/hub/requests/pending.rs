//! A request that was sent upstream and not answered yet.

use std::rc::Rc;

use crate::hub::event::{ClientId, Connection, Now, ServerId, Text};
use crate::hub::migration::Profile;
use crate::hub::threads::thread::ThreadId;
use crate::hub::upstream::connection_bound::Background;

/// One request on its way.
#[derive(Clone, Debug)]
pub struct PendingRequest {
    pub connection: Connection,
    pub origin: Origin,
    /// It counts against the limits on requests under way.
    pub has_permit: bool,
    /// Only the small members of a client's request are kept: it cannot be sent again.
    pub is_truncated: bool,
    /// When its client is told that there is no answer.
    pub overdue_at: Option<Now>,
}

/// Whose request it is.
#[derive(Clone, Debug)]
pub enum Origin {
    /// A client's.
    Client {
        client: ClientId,
        /// The id that the client gave it, raw.
        id: Box<str>,
        kind: RequestKind,
        thread: Option<ThreadId>,
        /// As the client sent it: it is sent again if the app-server refused it because it is draining.
        text: Text,
    },
    /// The gateway's own.
    Internal(InternalRequest),
}

/// What the answer to a client's request means to the gateway.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RequestKind {
    /// Nothing.
    Plain,
    /// It names a new thread that the client watches: `thread/start`, `thread/fork`.
    NewThread,
    /// The client watches the thread now.
    Resume,
    /// It carries the turn that it began.
    Turn,
    /// It may have begun a turn that it does not name.
    MayStartTurn,
    /// It ended the turn that runs.
    Interrupt,
    /// The command that it ran has ended.
    Exec,
    /// The process that it began runs until it is told to have ended; refused, it never ran.
    Spawn,
    /// It began, changed or ended something that is begun again on another connection.
    Replayed,
    /// Something goes on in the app-server from now on, such as a login that waits for its user.
    StartsBackground(&'static Background),
    /// It changed a setting that a successor has to be told as well.
    Setting,
    /// It began a stream of events.
    EventStream,
    /// The client does not watch the thread any more.
    Unsubscribe,
    /// A goal, which the gateway may have paused.
    Goal,
    /// A list of loaded threads, which lacks those on other app-servers.
    LoadedList,
    /// A list of threads, whose status is wrong for those on other app-servers.
    ThreadList,
}

/// What the gateway asks for itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum InternalRequest {
    /// Which threads an app-server has.
    LoadedList(ServerId),
    /// How long the user wants unwatched threads to stay loaded.
    UnloadDelay,
    /// Where the file of a thread is.
    ReadThread(ThreadId),
    /// May it be moved: one of the questions about it.
    CheckQueue(ThreadId),
    CheckTerminals(ThreadId),
    CheckGoal(ThreadId),
    /// Keep its goal from beginning turns.
    PauseGoal(ThreadId),
    /// Let it again: what it is by now, and that it is to go on.
    ReadSuspendedGoal(ThreadId),
    ResumeGoal(ThreadId),
    /// Unload it to move it.
    Unload(ThreadId),
    /// Stay after all.
    RollBack(ThreadId),
    /// Load it in its new place.
    Load(ThreadId),
    /// Unload it since nobody watches it.
    Evict(ThreadId),
    /// Load it in the successor of the app-server that was lost.
    Recover(ThreadId),
    /// How its last turn ended.
    LastTurns(ThreadId),
    /// Which turn runs in a thread that was found.
    RunningTurn(ThreadId),
    /// How something stands that may differ in the next app-server.
    ProcessState(crate::hub::upstream::process_state::Part),
    /// Give it the environments again that it had before it moved.
    RestoreEnvironments(ThreadId),
    /// Whether the configuration loads where threads are to move to, for those of one folder and provider.
    CheckConfig(Rc<Profile>),
    /// The same, by starting a thread for nothing else.
    TrialLoad(Rc<Profile>),
    /// Take over a thread that an app-server had before this gateway was there.
    Attach(ThreadId),
    /// What a thread descends from: what the app-server knows of it, or of the farthest known ancestor.
    Lineage {
        thread: ThreadId,
        of: ThreadId,
    },
    /// Whatever comes of it.
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
