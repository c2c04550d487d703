//! What verbs and the keeper say to each other: one JSON object a line.

use codexd_core::contract::status::LastExit;
use codexd_core::identity::{Pid, Process};
use codexd_core::program::{Program, StopPolicy};
use codexd_core::record::CodexdRecord;
use codexd_core::supervise::StopStage;
use serde::{Deserialize, Serialize};

use super::state::StatePhase;

/// What a verb wants of the keeper.
#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "order", rename_all = "camelCase")]
pub enum Order {
    /// Run this program. One that runs already goes on; one that is being ended is started again afterwards.
    Start {
        /// What to run.
        program: Box<Program>,
    },
    /// Take over a process that runs.
    Adopt {
        /// Which.
        process: Process,
        /// What its record said beside that.
        codexd: Option<CodexdRecord>,
    },
    /// End the server and start this program in its place.
    Replace {
        /// What to run.
        program: Box<Program>,
        /// How to end the old one.
        policy: StopPolicy,
    },
    /// End the server, then leave.
    Stop {
        /// How.
        policy: StopPolicy,
        /// The server never became ready: remember that it failed.
        failed: bool,
    },
}

/// What the keeper tells every connected verb.
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
