//! The messages on the supervisor's socket: one JSON object per line.
//!
//! An order of a command carries an id. Its replies carry the same id and go to the process that gave the order, to no other:
//! `{"id":7,"order":…}` → `{"re":7,"status":"progress"}`, then `{"re":7,"status":"ok"}` or
//! `{"re":7,"status":"refused","message":…}`. An order without an id, such as those of the gateway, gets a reply only if it is refused:
//! [`Report::Refused`]. Every change is a [`Report`] to all connections. The changes of an order are reported between its `progress` and
//! its last reply.
//!
//! The supervisor and the gateway outlive an upgrade of the binary, so either end may be newer. Both ignore unknown fields. An unknown
//! order is refused to its sender; an unknown report is ignored. Orders of older commands carry no ids: the answer to one is
//! [`Report::State`]. A supervisor whose [`Report::State`] names no protocol is older: it reports to all connections what it refuses.

use std::path::PathBuf;

use codexd_core::contract::status::LastExit;
use codexd_core::generations::Role;
use codexd_core::home_state::StatePhase;
use codexd_core::identity::{Pid, Process};
use codexd_core::launch_spec::{LaunchSpec, StopPolicy};
use codexd_core::os_text::OsText;
use codexd_core::record::CodexdRecord;
use codexd_core::supervise::StopStage;
use serde::{Deserialize, Serialize};

/// The version of the protocol: 1 since replies carry ids.
pub const PROTOCOL: u32 = 1;

/// An order of a command, or of the gateway, to the supervisor.
#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "order", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Order {
    /// Run an app-server. A running one continues; one that is being stopped is started again afterwards.
    Start {
        /// The app-server.
        program: Box<LaunchSpec>,
        /// The gateway; `None` if the app-server binds the control socket itself.
        #[serde(default)]
        gateway: Option<Box<LaunchSpec>>,
    },
    /// Adopt a running app-server.
    Adopt {
        /// The process.
        process: Process,
        /// codexd's part of its record.
        codexd: Option<CodexdRecord>,
        /// The gateway to start if none runs.
        #[serde(default)]
        gateway: Option<Box<LaunchSpec>>,
    },
    /// Stop every app-server and start this one in their place.
    Replace {
        /// The new app-server.
        program: Box<LaunchSpec>,
        /// How to stop the old ones.
        policy: StopPolicy,
        /// The gateway; `None` if the app-server binds the control socket itself.
        #[serde(default)]
        gateway: Option<Box<LaunchSpec>>,
    },
    /// Start a successor beside the current app-server. It is withdrawn if the client that gave the order disconnects before promoting
    /// it.
    Succeed {
        /// The successor.
        program: Box<LaunchSpec>,
    },
    /// Stop the successor.
    Withdraw {
        /// The generation id.
        generation: String,
    },
    /// The successor answers: it becomes the current app-server, and the one before becomes outgoing.
    Promote {
        /// The generation id.
        generation: String,
        /// The gateway from its next start on.
        #[serde(default)]
        gateway: Option<Box<LaunchSpec>>,
    },
    /// From the gateway: stop an outgoing app-server, which holds nothing any more.
    Retire {
        /// The generation id.
        generation: String,
    },
    /// From the gateway: this connection is the gateway's. The listening socket is attached to the message.
    Subscribe {
        /// Whether it migrates threads between app-servers.
        moves: bool,
        /// Whether it knows the settings of all threads and stores them here again.
        #[serde(default)]
        knows_thread_settings: bool,
    },
    /// Send the arguments of this program to the running gateway, and start the gateway with them from now on. The gateway reports with
    /// [`Report::Relayed`] when it has applied them.
    ConfigureGateway {
        /// The gateway.
        gateway: Box<LaunchSpec>,
    },
    /// Send the launch spec of the current app-server, to this connection only.
    GetLaunchSpec,
    /// From the gateway: send this to all other connections.
    Relay {
        /// Any value.
        value: serde_json::Value,
    },
    /// From the gateway: store the settings of a thread in memory, for the next gateway; never on disk, never in a log: they may hold
    /// credentials.
    StoreThreadSettings {
        /// The thread id.
        thread: String,
        /// The settings, which the supervisor does not parse; `None` deletes them.
        settings: Option<String>,
    },
    /// From the gateway: send the stored thread settings, in the order of thread ids.
    SendThreadSettings {
        /// Begin after this thread; `None` for the first.
        after: Option<String>,
    },
    /// From the process that a unit of systemd has started: send the program that this unit is to run. It comes with
    /// [`Report::LaunchPlan`].
    Launch {
        /// The unit.
        unit: LaunchedUnit,
    },
    /// From the same process: it cannot run the program.
    LaunchFailed {
        /// Why.
        message: String,
        /// The number of the system's error, if it was one.
        #[serde(default)]
        errno: Option<i32>,
    },
    /// The next order on this connection is longer than [`codexd_core::limits::ORDER_MAX_BYTES`].
    AnnounceOrder {
        /// The length of its line.
        bytes: usize,
    },
    /// Stop every app-server, then exit.
    Stop {
        /// How.
        policy: StopPolicy,
        /// The app-server never became ready: record the failure.
        failed: bool,
    },
}

impl Order {
    /// Whether a command gives it to change which app-servers run.
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
            | Order::Launch { .. }
            | Order::LaunchFailed { .. }
            | Order::AnnounceOrder { .. }
            | Order::Relay { .. } => false,
        }
    }
}

/// A unit that runs a program of this home.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum LaunchedUnit {
    /// That of an app-server, by its instance number.
    AppServer(u64),
    /// That of the gateway.
    Gateway,
}

/// A running app-server.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Generation {
    /// The generation id; `None` if codexd did not start it.
    #[serde(rename = "mark")]
    pub generation_id: Option<String>,
    /// Process id.
    pub pid: Pid,
    /// Its own socket; `None` if it bound the control socket.
    pub socket: Option<PathBuf>,
    /// Its role.
    pub role: Role,
    /// Whether it is the embedded server.
    #[serde(default)]
    pub embedded: bool,
    /// The version that `--version` printed.
    #[serde(default)]
    pub version: Option<String>,
}

/// Why an order cannot be carried out.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Refusal {
    /// A sentence for people.
    pub message: String,
    /// The errno, if a system call failed.
    #[serde(default)]
    pub errno: Option<i32>,
}

impl Refusal {
    /// A refusal without a system error.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), errno: None }
    }
}

/// A message of the supervisor that answers no order.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "report", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Report {
    /// The state of the supervisor: the first report on a connection, and again after every change.
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
        /// The phase of the current app-server.
        phase: StatePhase,
        /// Its pid, if it runs.
        pid: Option<Pid>,
        /// Whether the supervisor knows [`Order::StoreThreadSettings`].
        #[serde(default)]
        stores_thread_settings: bool,
    },
    /// To the gateway: a part of the stored thread settings.
    ThreadSettings {
        /// Thread ids and settings, in the order of thread ids.
        threads: Vec<(String, String)>,
        /// No more follow.
        is_last: bool,
        /// Some may be missing: app-servers of a previous supervisor run, which had stored more.
        may_lack: bool,
    },
    /// To the gateway: the settings of this thread are not stored, because all together would be too large.
    ThreadSettingsRefused {
        /// The thread id.
        thread: String,
    },
    /// The running app-servers and the gateway: the second report on a connection, and again after every change.
    Generations {
        /// The app-servers, the current one first.
        generations: Vec<Generation>,
        /// The gateway's pid, if it runs.
        gateway_pid: Option<Pid>,
        /// Whether it is connected and migrates threads.
        gateway_moves: bool,
    },
    /// The successor exited before it was promoted.
    SuccessorEnded {
        /// How.
        exit: LastExit,
    },
    /// The successor could not be started.
    SuccessorFailed {
        /// Why.
        message: String,
        /// The errno, if a system call failed.
        errno: Option<i32>,
    },
    /// An outgoing app-server and its processes have exited.
    Retired {
        /// The generation id.
        generation: Option<String>,
    },
    /// The gateway could not be started.
    GatewayFailed {
        /// Why.
        message: String,
        /// The errno, if a system call failed.
        errno: Option<i32>,
    },
    /// The launch spec of the current app-server, with its environment; `None` if there is none.
    LaunchSpec {
        /// The launch spec.
        program: Option<Box<LaunchSpec>>,
    },
    /// To the process of a unit: what it is to run. The program with its environment is in a memory file that comes along with this
    /// message; for the gateway the listening socket follows it.
    LaunchPlan,
    /// To the gateway: its arguments from now on.
    ConfigureGateway {
        /// The arguments.
        args: Vec<OsText>,
    },
    /// A value that the gateway relays ([`Order::Relay`]).
    Relayed {
        /// The value.
        value: serde_json::Value,
    },
    /// An app-server was started.
    Spawned {
        /// Process id.
        pid: Pid,
    },
    /// An app-server could not be started.
    SpawnFailed {
        /// Why.
        message: String,
        /// The errno, if a system call failed.
        errno: Option<i32>,
    },
    /// The folder of the control socket has changed: the socket may exist now.
    SocketFolderChanged,
    /// A signal was sent to a stopping app-server.
    Signalled {
        /// The stage of the stop.
        stage: StopStage,
    },
    /// The current app-server exited.
    Exited {
        /// How.
        exit: LastExit,
    },
    /// The orphans of a dead app-server were ended.
    Swept {
        /// Number of processes.
        ended: usize,
        /// Those that still run.
        left: Vec<Pid>,
    },
    /// A process survived SIGKILL.
    Unkillable {
        /// Process id.
        pid: Pid,
    },
    /// An order without an id cannot be carried out.
    Refused(Refusal),
    /// The supervisor exits: it has no process left to manage.
    Leaving,
}
