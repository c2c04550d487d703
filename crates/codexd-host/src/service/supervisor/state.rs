//! `supervisor.json`: the state of the supervisor, for `status` and for the next supervisor.

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

/// An app-server beside the current one.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OtherState {
    /// Its role.
    pub role: Role,
    /// The process; `None` while it is being started.
    pub process: Option<Process>,
    /// The generation id.
    pub generation: Option<String>,
    /// The launch spec, without its environment.
    pub program: LaunchSpec,
    /// Whether it is being stopped.
    pub stopping: bool,
}

/// The gateway.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayState {
    /// The process, if it runs.
    pub process: Option<Process>,
    /// Restarts after a crash since it was first requested.
    pub restarts: u64,
}

/// The contents of `supervisor.json`. Unknown fields are ignored.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SupervisorState {
    /// The supervisor.
    #[serde(alias = "keeper")]
    pub supervisor: Process,
    /// Its version.
    pub version: String,
    /// The pid namespace of all pids in this file; `None` from an older supervisor.
    #[serde(default)]
    pub pid_namespace: Option<u64>,
    /// The host name, such as that of the container.
    #[serde(default)]
    pub host_name: Option<String>,
    /// The phase of the current app-server.
    pub phase: StatePhase,
    /// The current app-server, if it runs.
    pub server: Option<Process>,
    /// The generation id of the current app-server, which runs or is being started.
    pub generation: Option<String>,
    /// Its launch spec, without its environment.
    pub program: Option<LaunchSpec>,
    /// The other app-servers.
    #[serde(default)]
    pub others: Vec<OtherState>,
    /// The gateway, if one is requested.
    #[serde(default)]
    pub gateway: Option<GatewayState>,
    /// Restarts after a crash since a command last requested the app-server.
    pub restarts: u64,
    /// Whether it is in a crash loop.
    pub crash_looping: bool,
    /// When the next restart is due, in RFC 3339.
    pub next_attempt_at: Option<String>,
    /// The last exit of a current app-server.
    pub last_exit: Option<LastExit>,
    /// The instance number of the unit of the last app-server; under systemd no number is used twice.
    #[serde(default)]
    pub last_instance: u64,
}

impl SupervisorState {
    /// The state of a supervisor that manages no process.
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
            last_instance: 0,
        }
    }
}

impl SupervisorState {
    /// Whether its pids are of this pid namespace, as far as it is known.
    pub fn is_from_here(&self) -> bool {
        self.pid_namespace.is_none_or(|written| pid_namespace::own() == Some(written))
    }

    /// Whether it was written since the last boot.
    pub fn is_from_this_boot(&self) -> bool {
        process::boot_id().is_ok_and(|boot| boot == self.supervisor.identity.boot_id)
    }
}

/// Reads the state; `None` if it is missing, unreadable, or from another pid namespace, whose pids name other processes here.
pub fn read(home: &Home) -> Option<SupervisorState> {
    read_of_any_namespace(home).filter(SupervisorState::is_from_here)
}

/// Reads the state, also from another pid namespace.
pub fn read_of_any_namespace(home: &Home) -> Option<SupervisorState> {
    let bytes = atomic::read(&former_names::newest_state_file(home)).ok()??;
    serde_json::from_slice(&bytes).ok()
}

/// Records that the app-server was stopped on purpose, if a killed supervisor has left another phase. No supervisor runs.
///
/// # Errors
/// The state cannot be written.
pub fn settle(home: &Home) -> io::Result<()> {
    match read_of_any_namespace(home) {
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
/// The state cannot be written.
pub fn write(home: &Home, state: &SupervisorState) -> io::Result<()> {
    atomic::replace(&home.supervisor_state(), &serde_json::to_vec(state)?, Durability::Process)
}
