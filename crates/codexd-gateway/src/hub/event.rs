//! The hub's interface: every event that can reach it and every action that it can request.

use std::rc::Rc;

use codexd_core::clock::Monotonic;
use codexd_core::config::SubagentApprovals;

use crate::host::PersistedGoals;

/// Text of one protocol message. Clones share the bytes.
pub type Text = tungstenite::Utf8Bytes;

/// Id of a client connection, unique for the lifetime of the gateway.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ClientId(pub u64);

/// Id of one app-server process, assigned by the gateway.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ServerId(pub u64);

/// Id of a thread.
pub type ThreadId = Rc<str>;

/// A connection to an app-server.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Connection {
    /// Shared by all clients. It holds the thread subscriptions.
    Shared(ServerId),
    /// Dedicated to one client.
    Dedicated(ClientId, ServerId),
}

impl Connection {
    /// The app-server at the other end.
    pub fn server(self) -> ServerId {
        match self {
            Connection::Shared(server) | Connection::Dedicated(_, server) => server,
        }
    }
}

/// An event. Nothing else wakes the hub.
#[derive(Clone, Debug)]
pub enum Event {
    /// A client connected.
    ClientConnected(ClientId),
    /// A client sent a message.
    ClientMessage(ClientId, Text),
    /// A client disconnected, or the gateway closed its connection.
    ClientDisconnected(ClientId),
    /// The running app-servers, as the host reports them. Both members may be empty.
    Servers {
        /// Receives new threads once it has answered a readiness probe.
        current: Option<ServerId>,
        /// To be retired once they hold nothing.
        outgoing: Vec<ServerId>,
    },
    /// An app-server is draining: nothing new may be started there (0.131.0 would start it and then cut it).
    ServerDraining(ServerId),
    /// An app-server answered a readiness probe ([`Action::Probe`]). The text is the `initialize` result.
    ProbeAnswered(ServerId, Text),
    /// A connection is open and `initialize` succeeded. The text is the result.
    ConnectionOpened(Connection, Text),
    /// The app-server refused `initialize` on a new connection, which is closed again. The text is the error object.
    InitializeRefused(Connection, Text),
    /// The app-server did not answer `initialize` on a new connection in time. The connection is closed again.
    InitializeTimedOut(Connection),
    /// A message arrived on a connection.
    ConnectionMessage(Connection, Text),
    /// The outbox of a connection is full: send no more requests over it.
    ConnectionFull(Connection),
    /// The outbox of a full connection has room again.
    ConnectionWritable(Connection),
    /// A connection broke or could not be opened. Nothing more arrives on it.
    ConnectionLost(Connection),
    /// Result of [`Action::CheckRollout`].
    RolloutChecked {
        /// The thread.
        thread: String,
        /// Whether the rollout file exists.
        exists: bool,
    },
    /// The goals of the [`Action::PersistGoals`] with this number, and of all before it, are on disk, or cannot be
    /// written now.
    GoalsPersisted(u64),
    /// Goals that were active when the previous gateway ended. Comes before every other event, or not at all.
    GoalsRestored(PersistedGoals),
    /// Thread settings that the previous gateway stored with [`Action::StoreThreadSettings`]. Comes before the first
    /// [`Event::Servers`] that names an app-server, or not at all.
    ThreadSettingsRestored {
        /// The thread.
        thread: String,
        /// Its settings.
        settings: Text,
    },
    /// A previous gateway existed and the thread settings that it stored are lost.
    ThreadSettingsLost,
    /// The client identity that the previous gateway stored with [`Action::PersistClientIdentity`]. Comes before the
    /// first [`Event::Servers`] that names an app-server, if an app-server that knows the identity still runs or if
    /// goals have to be resumed; or not at all.
    ClientIdentityRestored(Text),
    /// Which clients answer the approval requests of sub-agents, from now on.
    SubagentApprovals(SubagentApprovals),
    /// The time given by [`Hub::deadline`](crate::hub::Hub::deadline) was reached.
    DeadlineReached,
}

/// A command of the hub to the I/O half.
#[derive(Clone, Debug)]
pub enum Action {
    /// Send a message to a client.
    SendToClient(ClientId, Text),
    /// A client sent a valid `initialize`: lift the limits for uninitialized clients.
    Admit(ClientId),
    /// Probe an app-server for readiness: send `initialize` on a temporary connection, under a name that does not
    /// become the process's client name. Retry until it answers or the host reports it gone.
    Probe(ServerId),
    /// Open a connection; send this `initialize` request first (id 0), then the notification `initialized`. Nothing
    /// else may be sent before [`Event::ConnectionOpened`].
    Connect(Connection, Text),
    /// Send a message over an open connection.
    SendUpstream(Connection, Text),
    /// Close a connection. No [`Event::ConnectionLost`] follows.
    Close(Connection),
    /// Check whether the rollout file of a thread exists. [`Event::RolloutChecked`] follows.
    CheckRollout {
        /// The thread.
        thread: String,
        /// Path of the rollout file.
        path: String,
    },
    /// An outgoing app-server holds nothing: stop it.
    Retire(ServerId),
    /// Persist which goals are active, replacing the previous set. [`Event::GoalsPersisted`] follows.
    PersistGoals {
        /// Sequence number, starting at 1.
        number: u64,
        /// All of them.
        goals: PersistedGoals,
    },
    /// Persist the client identity for the next gateway.
    PersistClientIdentity(Text),
    /// Keep the settings of a thread in memory that outlives the gateway, never on disk: they may hold credentials.
    StoreThreadSettings {
        /// The thread.
        thread: String,
        /// The settings; `None` deletes them.
        settings: Option<Text>,
    },
    /// Report to the event log and to waiting commands.
    Report(Report),
}

/// A report for the event log or for a waiting command.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// An app-server ended, or its shared connection broke, while it had threads loaded.
    ServerLost {
        /// The app-server.
        server: ServerId,
        /// Threads that were loaded there.
        threads: usize,
        /// Requests that were answered with an error.
        requests: usize,
        /// The app-server was draining or outgoing.
        was_expected: bool,
    },
    /// All threads of a lost app-server are loaded in its successor.
    Recovered {
        /// The app-server.
        server: ServerId,
        /// Threads that were loaded again.
        threads: usize,
        /// Turns that had completed, according to the disk.
        completed: usize,
        /// Turns that were interrupted.
        interrupted: usize,
        /// Time since the loss.
        took_ms: u64,
    },
    /// The set of threads that the app-server refuses to load for recoverable reasons has changed.
    NotLoaded {
        /// Total number.
        count: usize,
        /// At most `REFUSED_THREADS_LISTED_MAX` of them.
        threads: Vec<RefusedThread>,
    },
    /// Unloaded threads with active goals are about to be loaded.
    GoalsToLoad {
        /// The app-server.
        server: ServerId,
        /// Thread ids.
        threads: Vec<String>,
    },
    /// A thread with an active goal cannot be loaded now, or loading it crashed the app-server; loading is postponed.
    GoalPostponed {
        /// Thread id.
        thread: String,
    },
    /// An active goal ended because its thread cannot be loaded again.
    GoalLost {
        /// The thread's id.
        thread: String,
    },
    /// The successor refused to load a migrating thread. The thread stays on the old app-server, or is loaded there
    /// again, and the migration is retried.
    MigrationRefused {
        /// The thread's id.
        thread: String,
        /// The app-server's error message.
        reason: String,
    },
    /// A handover has made progress.
    Handover(HandoverReport),
    /// Requests timed out; their clients received an error.
    Unanswered {
        /// Number of requests.
        count: usize,
        /// Distinct methods.
        methods: Vec<String>,
    },
    /// A client's answer to a server request is malformed: the next answer counts.
    AnswerRefused {
        /// The client.
        client: ClientId,
        /// The gateway's id of the server request.
        request: String,
        /// Why.
        reason: String,
    },
    /// An app-server did not resolve a server request after an answer was sent: the next answer counts.
    AnswerNotTaken {
        /// Thread of the server request.
        thread: String,
        /// The gateway's number of the server request.
        request: String,
    },
    /// The client identity was refused by an app-server or is unreadable; another is used.
    ClientInfoDiscarded {
        /// Why.
        reason: String,
    },
}

/// A thread that an app-server refuses to load.
#[derive(Clone, Debug, Eq, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RefusedThread {
    /// Thread id.
    pub thread_id: String,
    /// Why, in the app-server's words.
    pub reason: String,
}

/// Progress of a handover.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HandoverReport {
    /// The old app-server.
    #[serde(skip)]
    pub from: Option<ServerId>,
    /// The successor.
    #[serde(skip)]
    pub to: Option<ServerId>,
    /// The phase.
    pub state: HandoverState,
    /// Threads that have migrated.
    pub threads_moved: usize,
    /// Threads that have not migrated, with what blocks each.
    pub threads_waiting: Vec<BlockedThread>,
    /// Dedicated connections to the old app-server that are still in use.
    pub connections_waiting: usize,
    /// Time since the handover began.
    pub took_ms: u64,
    /// Whether to write an event.
    #[serde(skip)]
    pub is_news: bool,
}

/// Phase of a handover.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum HandoverState {
    /// The successor receives new threads; the first round of migrations is running.
    Moving,
    /// Every thread that could migrate has done so; the others are blocked.
    Waiting,
    /// The old app-server holds nothing and was retired.
    Completed,
}

/// A thread that cannot migrate yet.
#[derive(Clone, Debug, Eq, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BlockedThread {
    /// Thread id.
    pub thread_id: String,
    /// What blocks it.
    pub blocked_on: BlockedOn,
    /// The successor's error message if it refuses the thread.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Box<str>>,
}

/// Why a thread cannot migrate.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum BlockedOn {
    /// A turn is running or about to start.
    Turn,
    /// A turn is waiting for an approval.
    Approval,
    /// A request about the thread is pending.
    Request,
    /// A realtime session is open.
    Realtime,
    /// Its message queue is not empty.
    Queue,
    /// Background terminals are running.
    BackgroundTerminals,
    /// It has had no turn and is not on disk.
    FirstTurn,
    /// It is ephemeral, or cannot be resumed: it stays until its client unsubscribes or it ends.
    Ephemeral,
    /// Nothing: it is queued for migration.
    Nothing,
    /// Unloading failed or the app-server was overloaded; retried later.
    RetryLater,
    /// The successor refuses to load it for a recoverable reason (invalid configuration, missing provider, failing
    /// required MCP server). It stays where it is and is retried with backoff.
    Refused,
}

/// Milliseconds on the hub's clock.
pub type Now = Monotonic;
