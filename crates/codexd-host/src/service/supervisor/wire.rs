//! What goes over the supervisor's socket: one JSON object a line.
//!
//! An order of a command carries an id. Its replies carry the same id and go to the process that gave the order, to no other:
//! `{"id":7,"order":…}` → `{"re":7,"status":"progress"}`, then `{"re":7,"status":"ok"}` or
//! `{"re":7,"status":"refused","message":…}`. An order without an id, as those of the gateway, gets a reply only if it is refused:
//! [`Report::Refused`]. Everything that changes is a [`Report`], which goes to all connections. What an order changes is reported between
//! its `progress` and its last reply.
//!
//! The supervisor and the gateway outlive an upgrade of the binary, so either end may be newer. Both ignore unknown fields. An unknown
//! order is refused to its sender; an unknown report is ignored. Orders of older commands carry no ids: the answer to one is
//! [`Report::State`]. A supervisor whose [`Report::State`] names no protocol is older: it reports to all connections what it refuses.

use std::path::PathBuf;

use codexd_core::contract::status::LastExit;
use codexd_core::generations::Role;
use codexd_core::identity::{Pid, Process};
use codexd_core::launch_spec::{LaunchSpec, StopPolicy};
use codexd_core::os_text::OsText;
use codexd_core::record::CodexdRecord;
use codexd_core::supervise::StopStage;
use serde::{Deserialize, Serialize};

use super::state::StatePhase;

/// The version of the protocol: 1 since replies carry ids.
pub const PROTOCOL: u32 = 1;

/// What a command, or the gateway, wants of the supervisor.
#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "order", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Order {
    /// Run this program. One that runs already goes on; one that is being ended is started again afterwards.
    Start {
        /// What to run.
        program: Box<LaunchSpec>,
        /// What to run in front of it; nothing if the program makes the control socket itself.
        #[serde(default)]
        gateway: Option<Box<LaunchSpec>>,
    },
    /// Take over a process that runs.
    Adopt {
        /// Which.
        process: Process,
        /// What its record said beside that.
        codexd: Option<CodexdRecord>,
        /// What to run in front of it, if the one that was there is gone.
        #[serde(default)]
        gateway: Option<Box<LaunchSpec>>,
    },
    /// End every server and start this program in their place.
    Replace {
        /// What to run.
        program: Box<LaunchSpec>,
        /// How to end the old ones.
        policy: StopPolicy,
        /// What to run in front of it; nothing if the program makes the control socket itself.
        #[serde(default)]
        gateway: Option<Box<LaunchSpec>>,
    },
    /// Start this program beside the server. It is withdrawn if the client that gave the order disconnects before promoting it.
    Succeed {
        /// What to run.
        program: Box<LaunchSpec>,
    },
    /// End the successor that was started beside the server.
    Withdraw {
        /// Its generation id.
        generation: String,
    },
    /// The successor answers: from now on it is the server, and the one before is on its way out.
    Promote {
        /// Its generation id.
        generation: String,
        /// What to run in front of it from the next start of the gateway on.
        #[serde(default)]
        gateway: Option<Box<LaunchSpec>>,
    },
    /// From the gateway: this outgoing server holds nothing any more and may be ended.
    Retire {
        /// Its generation id.
        generation: String,
    },
    /// From the gateway: it is the one at this end. The listening socket comes along with the message.
    Subscribe {
        /// Whether it moves threads from one server to another.
        moves: bool,
        /// Whether it knows the settings of all threads, and gives what is stored here again.
        #[serde(default)]
        knows_thread_settings: bool,
    },
    /// Give the gateway that runs the arguments of this program, and start it as this from its next start on. The gateway reports
    /// with [`Report::Relayed`] when it has taken them.
    ConfigureGateway {
        /// The program.
        gateway: Box<LaunchSpec>,
    },
    /// Tell what the current server is started with. Only the connection that asks gets the answer.
    GetLaunchSpec,
    /// From the gateway: tell this to everybody else.
    Relay {
        /// Anything.
        value: serde_json::Value,
    },
    /// From the gateway: store the settings of a thread in memory, for a gateway that comes after it. Never on disk, never in
    /// a log: they may hold credentials.
    StoreThreadSettings {
        /// The thread's id.
        thread: String,
        /// Its settings, which the supervisor does not look into; nothing if they are to be forgotten.
        settings: Option<String>,
    },
    /// From the gateway: send what is stored of the threads behind this one in the order of ids, or of all.
    SendThreadSettings {
        /// The last thread that was sent.
        after: Option<String>,
    },
    /// The next order on this connection has so many bytes, more than [`codexd_core::limits::ORDER_MAX_BYTES`].
    AnnounceOrder {
        /// The length of its line.
        bytes: usize,
    },
    /// End every server, then leave.
    Stop {
        /// How.
        policy: StopPolicy,
        /// The server never became ready: remember that it failed.
        failed: bool,
    },
}

impl Order {
    /// Whether a command gives it, to change who runs.
    pub fn is_of_a_command(&self) -> bool {
        match self {
            Order::Start { .. }
            | Order::Adopt { .. }
            | Order::Replace { .. }
            | Order::Succeed { .. }
            | Order::Withdraw { .. }
            | Order::Promote { .. }
            | Order::Stop { .. } => true,
            Order::Retire { .. }
            | Order::Subscribe { .. }
            | Order::GetLaunchSpec
            | Order::ConfigureGateway { .. }
            | Order::StoreThreadSettings { .. }
            | Order::SendThreadSettings { .. }
            | Order::AnnounceOrder { .. }
            | Order::Relay { .. } => false,
        }
    }
}

/// A server that lives.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Generation {
    /// The generation id that it carries; `None` for one that codexd did not start.
    #[serde(rename = "mark")]
    pub generation_id: Option<String>,
    /// Its process.
    pub pid: Pid,
    /// The socket of its own; `None` for one that made the control socket.
    pub socket: Option<PathBuf>,
    /// What it is for.
    pub role: Role,
    /// Whether it is the one built into codexd.
    #[serde(default)]
    pub embedded: bool,
    /// The version that its program told.
    #[serde(default)]
    pub version: Option<String>,
}

/// An order with its id.
#[derive(Debug, Serialize)]
pub struct NumberedOrder<'a> {
    /// No other order on the connection has it.
    pub id: u64,
    /// The order.
    #[serde(flatten)]
    pub order: &'a Order,
}

/// An order as it was read.
#[derive(Debug)]
pub struct ReadOrder {
    /// Its id; `None` for one of an older program.
    pub id: Option<u64>,
    /// The order, or why it is none.
    pub order: Result<Box<Order>, String>,
}

/// A reply to an order.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Reply {
    /// The id of the order.
    pub re: u64,
    /// How far it is.
    #[serde(flatten)]
    pub status: ReplyStatus,
}

/// How far an order is.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "status", rename_all = "camelCase")]
pub enum ReplyStatus {
    /// It is being carried out: reports that follow are later than the order.
    Progress,
    /// It was carried out, as far as that can be done at once.
    Ok,
    /// It cannot be carried out.
    Refused(Refusal),
}

/// Why an order cannot be carried out.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Refusal {
    /// A sentence.
    pub message: String,
    /// The number of the system's error, if it was one.
    #[serde(default)]
    pub errno: Option<i32>,
}

impl Refusal {
    /// A refusal without a system error.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), errno: None }
    }
}

/// What a supervisor sends.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Message {
    /// To this connection.
    Reply(Reply),
    /// To all of them, or to the gateway.
    Report(Report),
}

/// What the supervisor sends to every client.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "report", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Report {
    /// How things stand: the first report on a connection, and again after every change.
    State {
        /// The version of the protocol; zero for a supervisor whose replies carry no ids.
        #[serde(default)]
        protocol: u32,
        /// The supervisor; `None` from a supervisor of 0.1.0.
        #[serde(default)]
        supervisor_pid: Option<Pid>,
        /// The same under the name without which a gateway of 0.1.0 ignores the report.
        #[serde(default, rename = "keeperPid")]
        former_supervisor_pid: Option<Pid>,
        /// Where the server stands.
        phase: StatePhase,
        /// The server, if one lives.
        pid: Option<Pid>,
        /// Whether it takes [`Order::StoreThreadSettings`], which older supervisors do not know.
        #[serde(default)]
        stores_thread_settings: bool,
    },
    /// To the gateway: some of the settings of threads that are stored.
    ThreadSettings {
        /// The threads' ids and settings, in the order of ids.
        threads: Vec<(String, String)>,
        /// No more follow.
        is_last: bool,
        /// Servers live that another supervisor has started, which had stored more.
        may_lack: bool,
    },
    /// To the gateway: the settings of this thread are not stored, since all together would be too large.
    ThreadSettingsRefused {
        /// The thread's id.
        thread: String,
    },
    /// Every server that lives, and the gateway: the second thing that anybody hears, and again after every change.
    Generations {
        /// The servers, the current one first.
        generations: Vec<Generation>,
        /// The gateway, if one lives.
        gateway_pid: Option<Pid>,
        /// Whether it is connected and moves threads.
        gateway_moves: bool,
    },
    /// The successor ended before it was promoted.
    SuccessorEnded {
        /// How.
        exit: LastExit,
    },
    /// The successor could not be started.
    SuccessorFailed {
        /// Why.
        message: String,
        /// The number of the system's error, if it was one.
        errno: Option<i32>,
    },
    /// Nothing of this server lives any more, and it is not missed.
    Retired {
        /// Its generation id.
        generation: Option<String>,
    },
    /// The gateway could not be started.
    GatewayFailed {
        /// Why.
        message: String,
        /// The number of the system's error, if it was one.
        errno: Option<i32>,
    },
    /// What the current server is started with, its environment included; nothing if there is none.
    LaunchSpec {
        /// The program.
        program: Option<Box<LaunchSpec>>,
    },
    /// To the gateway: its arguments from now on.
    ConfigureGateway {
        /// The arguments.
        args: Vec<OsText>,
    },
    /// What the gateway wants told.
    Relayed {
        /// As it came.
        value: serde_json::Value,
    },
    /// A server lives.
    Spawned {
        /// It.
        pid: Pid,
    },
    /// A server could not be started.
    SpawnFailed {
        /// Why.
        message: String,
        /// The number of the system's error, if it was one.
        errno: Option<i32>,
    },
    /// Something changed beside the control socket: it may be there now.
    SocketFolderChanged,
    /// A signal was sent.
    Signalled {
        /// How far the stop has come.
        stage: StopStage,
    },
    /// The server ended.
    Exited {
        /// How.
        exit: LastExit,
    },
    /// What a dead server left behind was ended.
    Swept {
        /// How many processes.
        ended: usize,
        /// Those that are still there.
        left: Vec<Pid>,
    },
    /// A killed process is still there.
    Unkillable {
        /// It.
        pid: Pid,
    },
    /// An order that carries no id cannot be carried out.
    Refused(Refusal),
    /// The supervisor has nothing left to keep.
    Leaving,
}

/// One line.
///
/// # Errors
/// If the value does not serialise, which only a path that is not UTF-8 can cause.
pub fn line(value: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}

/// Reads a line that was sent to the supervisor.
pub fn read_order(line: &[u8]) -> ReadOrder {
    #[derive(Deserialize)]
    struct Numbered {
        #[serde(default)]
        id: Option<u64>,
    }
    let id = serde_json::from_slice::<Numbered>(line).ok().and_then(|numbered| numbered.id);
    let order = serde_json::from_slice(line).map(Box::new);
    ReadOrder { id, order: order.map_err(|error| format!("the order cannot be read: {error}")) }
}

/// Reads a line that a supervisor sent; `None` for one that a newer supervisor knows.
pub fn read_message(line: &[u8]) -> Option<Message> {
    #[derive(Deserialize)]
    struct Head {
        #[serde(default)]
        re: Option<u64>,
    }
    let head: Head = serde_json::from_slice(line).ok()?;
    match head.re {
        Some(_) => serde_json::from_slice(line).ok().map(Message::Reply),
        None => serde_json::from_slice(line).ok().map(Message::Report),
    }
}
