//! A request that was sent upstream and not answered yet.

use std::rc::Rc;

use crate::hub::event::{ClientId, Connection, Now, ServerId, Text};
use crate::hub::migration::Profile;
use crate::hub::threads::thread::ThreadId;
use crate::hub::upstream::connection_bound::Background;

/// One request on its way.
#[derive(Clone, Debug)]
pub struct Call {
    pub link: Connection,
    pub asker: Asker,
    /// It counts against the limits on requests under way.
    pub holds_slot: bool,
    /// Only the small members of a client's request are kept: it cannot be sent again.
    pub is_shortened: bool,
    /// When its client is told that there is no answer.
    pub overdue_at: Option<Now>,
}

/// Whose request it is.
#[derive(Clone, Debug)]
pub enum Asker {
    /// A client's.
    Client {
        client: ClientId,
        /// The id that the client gave it, raw.
        id: Box<str>,
        kind: Kind,
        thread: Option<ThreadId>,
        /// As the client sent it: it is sent again if the app-server refused it because it is draining.
        text: Text,
    },
    /// The gateway's own.
    Gateway(Errand),
}

/// What the answer to a client's request means to the gateway.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Nothing.
    Plain,
    /// It names a new thread that the client watches: `thread/start`, `thread/fork`.
    NewThread,
    /// The client watches the thread now.
    Resume,
    /// It carries the turn that it began.
    Turn,
    /// It may have begun a turn that it does not name.
    Starter,
    /// It ended the turn that runs.
    Interrupt,
    /// The command that it ran has ended.
    Exec,
    /// The process that it began runs until it is told to have ended; refused, it never ran.
    Spawn,
    /// It began, changed or ended something that is begun again on another connection.
    Replayed,
    /// Something goes on in the app-server from now on, such as a login that waits for its user.
    Begins(&'static Background),
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
pub enum Errand {
    /// Which threads an app-server has.
    LoadedList(ServerId),
    /// How long the user wants unwatched threads to stay loaded.
    UnloadDelay,
    /// Where the file of a thread is.
    Read(ThreadId),
    /// May it be moved: one of the questions about it.
    CheckQueue(ThreadId),
    CheckTerminals(ThreadId),
    CheckGoal(ThreadId),
    /// Keep its goal from beginning turns.
    PauseGoal(ThreadId),
    /// Let it again: what it is by now, and that it is to go on.
    LookAtGoal(ThreadId),
    ResumeGoal(ThreadId),
    /// Unload it to move it.
    Leave(ThreadId),
    /// Stay after all.
    Return(ThreadId),
    /// Load it in its new place.
    Arrive(ThreadId),
    /// Unload it since nobody watches it.
    Release(ThreadId),
    /// Load it in the successor of the app-server that was lost.
    Recover(ThreadId),
    /// How its last turn ended.
    LastTurn(ThreadId),
    /// Which turn runs in a thread that was found.
    Running(ThreadId),
    /// How something stands that may differ in the next app-server.
    ProcessState(crate::hub::upstream::process_state::Part),
    /// Give it the environments again that it had before it moved.
    GiveEnvironments(ThreadId),
    /// Whether the configuration loads where threads are to move to, for those of one folder and provider.
    CheckConfig(Rc<Profile>),
    /// The same, by starting a thread for nothing else.
    Rehearse(Rc<Profile>),
    /// Take over a thread that an app-server had before this gateway was there.
    TakeOver(ThreadId),
    /// What a thread descends from: what the app-server knows of it, or of the farthest known ancestor.
    Lineage {
        thread: ThreadId,
        of: ThreadId,
    },
    /// Whatever comes of it.
    Forget,
}

impl Errand {
    pub fn thread(&self) -> Option<&ThreadId> {
        match self {
            Errand::LoadedList(_) | Errand::UnloadDelay | Errand::ProcessState(_) | Errand::Forget => None,
            Errand::CheckConfig(_) | Errand::Rehearse(_) => None,
            Errand::Read(thread)
            | Errand::CheckQueue(thread)
            | Errand::CheckTerminals(thread)
            | Errand::CheckGoal(thread)
            | Errand::PauseGoal(thread)
            | Errand::LookAtGoal(thread)
            | Errand::ResumeGoal(thread)
            | Errand::Leave(thread)
            | Errand::Return(thread)
            | Errand::Arrive(thread)
            | Errand::Release(thread)
            | Errand::Recover(thread)
            | Errand::LastTurn(thread)
            | Errand::Running(thread)
            | Errand::GiveEnvironments(thread)
            | Errand::TakeOver(thread)
            | Errand::Lineage { thread, .. } => Some(thread),
        }
    }
}
