//! Everything that can happen to the hub, and everything it can want.

use codexd_core::clock::Monotonic;
use codexd_core::settings::SubagentApprovals;

use crate::host::PersistedGoals;

/// The text of one protocol message. A clone shares the bytes.
pub type Text = tungstenite::Utf8Bytes;

/// A client, for as long as the gateway lives.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ClientId(pub u64);

/// One process of the app-server, numbered by the gateway.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ServerId(pub u64);

/// A connection to an app-server.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Connection {
    /// The one that all clients share: it holds the subscriptions.
    Shared(ServerId),
    /// A client's own.
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

/// What happened. This is all that can wake the hub.
#[derive(Clone, Debug)]
pub enum Event {
    /// A client is connected.
    ClientConnected(ClientId),
    /// A client sent a text.
    ClientMessage(ClientId, Text),
    /// A client is gone, or was cut.
    ClientDisconnected(ClientId),
    /// The app-servers that live, as the host tells: the current one, and those that are to leave. Both may be empty.
    Servers {
        /// Where new threads go, once it has answered.
        current: Option<ServerId>,
        /// What is to leave when it holds nothing any more.
        outgoing: Vec<ServerId>,
    },
    /// An app-server was asked to leave when its turns have ended: nothing is to be begun there. (0.131.0 would begin it,
    /// and cut it.)
    ServerDraining(ServerId),
    /// An app-server answered a first `initialize`, sent by [`Action::Probe`]: it serves. The text is the result.
    ProbeAnswered(ServerId, Text),
    /// A link is open and its `initialize` was answered; the text is the result.
    ConnectionOpened(Connection, Text),
    /// A link is open and its `initialize` was refused; the text is the error object. The link is closed again.
    InitializeRefused(Connection, Text),
    /// A link was opened and its `initialize` was not answered in time. The link is closed again.
    InitializeTimedOut(Connection),
    /// A message came over a link.
    ConnectionMessage(Connection, Text),
    /// So much waits for the app-server on a link that no more requests are to be sent over it.
    ConnectionFull(Connection),
    /// A link that was full has room again.
    ConnectionWritable(Connection),
    /// A link is gone, or could not be opened. Nothing more comes over it.
    ConnectionLost(Connection),
    /// The answer to [`Action::CheckRollout`].
    RolloutChecked {
        /// The thread.
        thread: String,
        /// Whether its file exists.
        exists: bool,
    },
    /// The goals of [`Action::PersistGoals`] with this number, and those before it, are on disk, or cannot be written now.
    GoalsPersisted(u64),
    /// The goals that were at work when the gateway before this one ended: they are to go on. Comes before everything else,
    /// or not at all.
    GoalsRestored(PersistedGoals),
    /// What the gateway before this one had stored with [`Action::StoreThreadSettings`]. Comes before the first list that names
    /// an app-server, or not at all.
    ThreadSettingsRestored {
        /// The thread.
        thread: String,
        /// Its settings.
        settings: Text,
    },
    /// There was a gateway before this one, and what it had stored of threads is lost.
    ThreadSettingsLost,
    /// As whom the gateway before this one introduced itself: what was to be kept with [`Action::PersistClientIdentity`]. Comes before
    /// the first list that names an app-server if one that knows it still lives, or if goals are to go on; or not at all.
    ClientIdentityRestored(Text),
    /// Which clients decide what a sub-agent asks, from now on.
    SubagentApprovals(SubagentApprovals),
    /// The moment that [`Hub::deadline`](crate::hub::Hub::deadline) named has come.
    DeadlineReached,
}

/// What to do.
#[derive(Clone, Debug)]
pub enum Action {
    /// Send a client a text.
    SendToClient(ClientId, Text),
    /// A client has introduced itself: from now on it may send, and be told, as much as any.
    Admit(ClientId),
    /// Ask an app-server for an `initialize` answer under the name that does not become the name of the process, on a
    /// connection of its own that is closed again; try until it answers or the host says that it is gone.
    Probe(ServerId),
    /// Open a link and send this `initialize` request first (id 0), then the notification `initialized`. Until
    /// [`Event::ConnectionOpened`] nothing else is sent over it.
    Connect(Connection, Text),
    /// Send a text over a link.
    SendUpstream(Connection, Text),
    /// Close a link. No [`Event::ConnectionLost`] follows.
    Close(Connection),
    /// Look whether the file of a thread exists.
    CheckRollout {
        /// The thread.
        thread: String,
        /// Its file.
        path: String,
    },
    /// An outgoing app-server holds nothing any more: it may leave.
    Retire(ServerId),
    /// Remember, also if this gateway is killed the next moment, which goals are at work: in place of those before.
    /// [`Event::GoalsPersisted`] follows.
    PersistGoals {
        /// Counts from 1.
        number: u64,
        /// All of them.
        goals: PersistedGoals,
    },
    /// Remember, for a gateway that comes after this one, as whom it introduces itself.
    PersistClientIdentity(Text),
    /// Store the settings of a thread in memory that outlives the gateway, never on disk: they may hold credentials.
    StoreThreadSettings {
        /// The thread.
        thread: String,
        /// Its settings; nothing if they are to be forgotten.
        settings: Option<Text>,
    },
    /// What people and commands are to know.
    Report(Report),
}

/// Something worth an event, or the ear of a waiting command.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// An app-server ended, or its link broke, under its threads.
    ServerLost {
        /// Which.
        server: ServerId,
        /// So many threads were loaded there.
        threads: usize,
        /// So many requests had to be answered with an error.
        requests: usize,
        /// It had been asked to leave.
        was_expected: bool,
    },
    /// The threads of a lost app-server are loaded in its successor.
    Recovered {
        /// The successor.
        server: ServerId,
        /// So many threads are back.
        threads: usize,
        /// So many turns turned out to have ended well.
        completed: usize,
        /// So many were cut.
        interrupted: usize,
        /// From the loss to now.
        took_ms: u64,
    },
    /// The threads that the app-server refuses to load, for reasons that may heal, have changed.
    NotLoaded {
        /// How many there are.
        count: usize,
        /// The first of them.
        threads: Vec<RefusedThread>,
    },
    /// Threads that no app-server has are about to be loaded, for their goals are at work.
    GoalsToLoad {
        /// Where.
        server: ServerId,
        /// Their ids.
        threads: Vec<String>,
    },
    /// The thread of a goal that is at work cannot be loaded now, or its app-server dies of it: it is tried again later.
    GoalPostponed {
        /// The thread's id.
        thread: String,
    },
    /// A goal that was at work does not go on: its thread cannot be loaded again.
    GoalLost {
        /// The thread's id.
        thread: String,
    },
    /// A thread cannot be loaded where it is to move to. It stays where it is, or is loaded again there, and is tried again.
    MigrationRefused {
        /// The thread's id.
        thread: String,
        /// Why, in the app-server's words.
        reason: String,
    },
    /// A handover has got somewhere.
    Handover(HandoverReport),
    /// Requests were not answered in time; their clients got an error.
    Unanswered {
        /// So many.
        count: usize,
        /// Their methods, each once.
        methods: Vec<String>,
    },
    /// A client's answer to a server request is none that an app-server takes: the next answer counts.
    AnswerRefused {
        /// The client.
        client: ClientId,
        /// The gateway's number of the server request.
        request: String,
        /// Why.
        reason: String,
    },
    /// An app-server did not say that it took the answer to a server request: the next answer counts.
    AnswerNotTaken {
        /// The thread that the server request is about.
        thread: String,
        /// The gateway's number of the server request.
        request: String,
    },
    /// The client information under which the gateway introduced itself, or was to, is of no use: other is used.
    ClientInfoDiscarded {
        /// Why.
        reason: String,
    },
}

/// A thread that the app-server refuses to load.
#[derive(Clone, Debug, Eq, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RefusedThread {
    /// Its id.
    pub thread_id: String,
    /// Why, in the app-server's words.
    pub reason: String,
}

/// How far a handover has come.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HandoverReport {
    /// Where from.
    #[serde(skip)]
    pub from: Option<ServerId>,
    /// Where to.
    #[serde(skip)]
    pub to: Option<ServerId>,
    /// How far.
    pub state: HandoverState,
    /// So many threads have moved.
    pub threads_moved: usize,
    /// The threads that have not, and for what each waits.
    pub threads_waiting: Vec<BlockedThread>,
    /// So many connections of clients are still in use on the old one.
    pub connections_waiting: usize,
    /// Since its beginning.
    pub took_ms: u64,
    /// It is worth a line in the event log.
    #[serde(skip)]
    pub is_news: bool,
}

/// How far a handover has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum HandoverState {
    /// New threads go to the new app-server; the first round of moves is under way.
    Moving,
    /// Everything that could move at once has moved; the rest waits for something.
    Waiting,
    /// The old app-server holds nothing any more.
    Completed,
}

/// A thread that cannot move yet.
#[derive(Clone, Debug, Eq, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BlockedThread {
    /// Which.
    pub thread_id: String,
    /// For what.
    pub blocked_on: BlockedOn,
    /// Why the new app-server refuses it, in that one's words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Box<str>>,
}

/// What keeps a thread where it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum BlockedOn {
    /// A turn runs, or is about to.
    Turn,
    /// A turn waits for somebody's approval.
    Approval,
    /// A request about it is not answered yet.
    Request,
    /// A realtime session is open.
    Realtime,
    /// Messages are queued.
    Queue,
    /// Commands run in the background.
    BackgroundTerminals,
    /// Nothing was said in it yet, so it is not on disk.
    FirstTurn,
    /// It is ephemeral: it stays until its client lets it go.
    Ephemeral,
    /// Nothing: its turn has not come yet.
    Nothing,
    /// It refused to leave or to arrive; tried again later.
    RetryLater,
    /// The new app-server cannot load it, for a cause that may go: an invalid configuration, a missing provider, a required MCP
    /// server that does not start. It stays where it is and is tried again with backoff.
    Refused,
}

/// Milliseconds on the hub's clock.
pub type Now = Monotonic;
