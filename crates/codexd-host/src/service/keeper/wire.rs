//! What verbs and the keeper say to each other: one JSON object a line.

use std::path::PathBuf;

use codexd_core::contract::status::LastExit;
use codexd_core::generations::Role;
use codexd_core::identity::{Pid, Process};
use codexd_core::os_text::OsText;
use codexd_core::program::{Program, StopPolicy};
use codexd_core::record::CodexdRecord;
use codexd_core::supervise::StopStage;
use serde::{Deserialize, Serialize};

use super::state::StatePhase;

/// What a verb, or the gateway, wants of the keeper.
#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "order", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Order {
    /// Run this program. One that runs already goes on; one that is being ended is started again afterwards.
    Start {
        /// What to run.
        program: Box<Program>,
        /// What to run in front of it; nothing if the program makes the control socket itself.
        #[serde(default)]
        gateway: Option<Box<Program>>,
    },
    /// Take over a process that runs.
    Adopt {
        /// Which.
        process: Process,
        /// What its record said beside that.
        codexd: Option<CodexdRecord>,
        /// What to run in front of it, if the one that was there is gone.
        #[serde(default)]
        gateway: Option<Box<Program>>,
    },
    /// End every server and start this program in their place.
    Replace {
        /// What to run.
        program: Box<Program>,
        /// How to end the old ones.
        policy: StopPolicy,
        /// What to run in front of it; nothing if the program makes the control socket itself.
        #[serde(default)]
        gateway: Option<Box<Program>>,
    },
    /// Start this program beside the server. It is withdrawn if whoever gave the order leaves before promoting it.
    Succeed {
        /// What to run.
        program: Box<Program>,
    },
    /// End the successor that was started beside the server.
    Withdraw {
        /// Its mark.
        generation: String,
    },
    /// The successor answers: from now on it is the server, and the one before is on its way out.
    Promote {
        /// Its mark.
        generation: String,
        /// What to run in front of it from the next start of the gateway on.
        #[serde(default)]
        gateway: Option<Box<Program>>,
    },
    /// From the gateway: this outgoing server holds nothing any more and may be ended.
    Retire {
        /// Its mark.
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
        gateway: Box<Program>,
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
        /// Its settings, which the keeper does not look into; nothing if they are to be forgotten.
        settings: Option<String>,
    },
    /// From the gateway: send what is stored of the threads behind this one in the order of ids, or of all.
    SendThreadSettings {
        /// The last thread that was sent.
        after: Option<String>,
    },
    /// End every server, then leave.
    Stop {
        /// How.
        policy: StopPolicy,
        /// The server never became ready: remember that it failed.
        failed: bool,
    },
}

/// A server that lives.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Generation {
    /// The mark that it carries; `None` for one that codexd did not start.
    pub mark: Option<String>,
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

/// What the keeper tells everybody who is connected.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "report", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Report {
    /// How things stand: the first thing a verb hears, and the answer to every order.
    State {
        /// The keeper.
        keeper_pid: Pid,
        /// Where the server stands.
        phase: StatePhase,
        /// The server, if one lives.
        pid: Option<Pid>,
        /// Whether it takes [`Order::StoreThreadSettings`], which older keepers do not know.
        #[serde(default)]
        stores_thread_settings: bool,
    },
    /// To the gateway: some of the settings of threads that are stored.
    ThreadSettings {
        /// The threads' ids and settings, in the order of ids.
        threads: Vec<(String, String)>,
        /// No more follow.
        is_last: bool,
        /// Servers live that another keeper has started, which had stored more.
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
        /// Its mark.
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
        program: Option<Box<Program>>,
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
    /// An order cannot be carried out.
    Refused {
        /// Why.
        message: String,
        /// The number of the system's error, if it was one.
        errno: Option<i32>,
    },
    /// The keeper has nothing left to keep.
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
