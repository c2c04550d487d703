//! `supervisor.json`: what the supervisor last wrote about itself, for `status` and for the next supervisor.

use std::io;

use codexd_core::contract::status::LastExit;
use codexd_core::generations::Role;
pub use codexd_core::home_state::StatePhase;
use codexd_core::identity::Process;
use codexd_core::launch_spec::LaunchSpec;
use serde::{Deserialize, Serialize};

use super::former_names;
use crate::atomic::{self, Durability};
use crate::home::Home;
use crate::{pid_namespace, process};

/// A server beside the current one.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OtherState {
    /// What it is for.
    pub role: Role,
    /// It, if it is known to live: one that is being started is not yet.
    pub process: Option<Process>,
    /// Its generation id.
    pub generation: Option<String>,
    /// What runs, without its environment.
    pub program: LaunchSpec,
    /// Whether it was asked to leave.
    pub stopping: bool,
}

/// The gateway.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayState {
    /// It, if it lives.
    pub process: Option<Process>,
    /// Restarts after a crash since it was first wanted.
    pub restarts: u64,
}

/// The contents of `supervisor.json`. A field that a later codexd adds is ignored by this one.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SupervisorState {
    /// The supervisor.
    #[serde(alias = "keeper")]
    pub supervisor: Process,
    /// Its version.
    pub version: String,
    /// The pid namespace in which all numbers of this file are true; an older supervisor does not tell.
    #[serde(default)]
    pub pid_namespace: Option<u64>,
    /// The host name there: that of the container, for one.
    #[serde(default)]
    pub host_name: Option<String>,
    /// Where the server stands.
    pub phase: StatePhase,
    /// The server, if one lives.
    pub server: Option<Process>,
    /// The generation id of the server that runs or is being started.
    pub generation: Option<String>,
    /// What runs, without its environment.
    pub program: Option<LaunchSpec>,
    /// The servers beside that one.
    #[serde(default)]
    pub others: Vec<OtherState>,
    /// The gateway, if there is to be one.
    #[serde(default)]
    pub gateway: Option<GatewayState>,
    /// Restarts after a crash since a command last asked for the server.
    pub restarts: u64,
    /// Whether it keeps dying.
    pub crash_looping: bool,
    /// When the next attempt is due, in RFC 3339.
    pub next_attempt_at: Option<String>,
    /// How the last server ended.
    pub last_exit: Option<LastExit>,
}

impl SupervisorState {
    /// The state of a supervisor that keeps nothing.
    pub fn new(supervisor: Process, version: &str) -> Self {
        Self {
            supervisor,
            version: version.to_owned(),
            pid_namespace: pid_namespace::own(),
            host_name: rustix::system::uname().nodename().to_str().ok().map(str::to_owned),
            phase: StatePhase::Idle,
            server: None,
            generation: None,
            program: None,
            others: Vec::new(),
            gateway: None,
            restarts: 0,
            crash_looping: false,
            next_attempt_at: None,
            last_exit: None,
        }
    }
}

impl SupervisorState {
    /// Whether the numbers in it are those of this pid namespace, as far as it tells.
    pub fn is_from_here(&self) -> bool {
        self.pid_namespace.is_none_or(|written| pid_namespace::own() == Some(written))
    }

    /// Whether it was written since this machine was booted.
    pub fn is_from_this_boot(&self) -> bool {
        process::boot_id().is_ok_and(|boot| boot == self.supervisor.identity.boot_id)
    }
}

/// Reads the state; `None` if there is none or it cannot be read, which only costs what it would have told. What was written in
/// another pid namespace tells nothing either: its numbers name others here.
pub fn read(home: &Home) -> Option<SupervisorState> {
    read_of_any_place(home).filter(SupervisorState::is_from_here)
}

/// The same wherever it was written.
pub fn read_of_any_place(home: &Home) -> Option<SupervisorState> {
    let bytes = atomic::read(&former_names::newest_state_file(home)).ok()??;
    serde_json::from_slice(&bytes).ok()
}

/// Writes down that the server was stopped on purpose, where a supervisor that was killed has left something else. No supervisor
/// lives.
///
/// # Errors
/// The file system's.
pub fn settle(home: &Home) -> io::Result<()> {
    match read_of_any_place(home) {
        Some(state) if state.phase != StatePhase::Stopped => write(
            home,
            &SupervisorState {
                phase: StatePhase::Stopped,
                server: None,
                others: Vec::new(),
                gateway: None,
                restarts: 0,
                crash_looping: false,
                next_attempt_at: None,
                ..state
            },
        ),
        _ => Ok(()),
    }
}

/// Writes the state.
///
/// # Errors
/// The file system's.
pub fn write(home: &Home, state: &SupervisorState) -> io::Result<()> {
    atomic::replace(&home.supervisor_state(), &serde_json::to_vec(state)?, Durability::Process)
}
