//! The answer of `status`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::event::EventRecord;
use super::lifecycle::{Backend, CodexSource, LifecycleStatus};
pub use super::problem::Problem;
use crate::generations::Role;
use crate::identity::Pid;

/// The state of the server of a home.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// It answers.
    Running,
    /// Its process runs and does not answer yet.
    Starting,
    /// It is being stopped and finishes its turns.
    Draining,
    /// It was never started, or was stopped on purpose.
    Stopped,
    /// It exited or does not answer, and no supervisor is about to restart it.
    Failed,
    /// It keeps crashing; the supervisor retries with the longest backoff.
    CrashLooping,
    /// A server that codexd does not manage answers.
    Unmanaged,
}

/// The exit of a server.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LastExit {
    /// The process that exited.
    pub pid: Pid,
    /// Its exit code; null when a signal ended it or its parent did not report it.
    pub code: Option<i32>,
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
    /// When, in RFC 3339.
    pub at: String,
    /// Whether codexd had stopped it.
    pub requested: bool,
    /// The last bytes of its stderr, at most 4 KiB.
    pub stderr_tail: String,
    /// The line of its stderr that names the failure, at most 200 characters; null if it wrote nothing.
    #[serde(default)]
    pub error_line: Option<String>,
}

/// The settings as they are in force.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SettingsReport {
    /// Whether the server is started with remote control.
    pub remote_control_enabled: bool,
    /// The grace period of `stop` and `restart`, in seconds.
    pub shutdown_grace_seconds: u64,
    /// The Codex that the settings name.
    pub codex_bin: Option<PathBuf>,
    /// The gateway in the settings.
    pub gateway: GatewaySettingReport,
}

/// The gateway in the settings.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewaySettingReport {
    /// Whether the server gets a gateway.
    pub enabled: bool,
    /// The URL of its TCP listener; null without one.
    pub listen: Option<String>,
    /// Which clients get the approval requests of sub-agents: `viewers` or `all`; null without a gateway.
    pub subagent_approvals: Option<&'static str>,
}

/// The gateway of a home.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayReport {
    /// Its process; null if it does not run.
    pub pid: Option<Pid>,
    /// `running`, or `missing` if the server needs a gateway and none runs.
    pub state: GatewayStanding,
    /// The URL of its TCP listener; null without one.
    pub listen: Option<String>,
    /// Restarts after a crash since the supervisor first started it.
    pub restarts: u64,
}

/// Whether the gateway runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum GatewayStanding {
    /// It runs.
    Running,
    /// It does not run, and the server is behind a gateway.
    Missing,
}

/// A running server.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GenerationReport {
    /// Its process.
    pub pid: Pid,
    /// What it is for.
    pub role: Role,
    /// The socket that it listens on.
    pub socket: PathBuf,
    /// The version that its binary printed before it was started.
    pub version: Option<String>,
}

/// The paths of a home.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PathsReport {
    /// CODEX_HOME.
    pub codex_home: PathBuf,
    /// The state folder of codexd.
    pub state_dir: PathBuf,
    /// The control socket.
    pub socket: PathBuf,
    /// The settings.
    pub settings: PathBuf,
    /// The event log.
    pub events: PathBuf,
    /// The server's stdout.
    pub stdout_log: PathBuf,
    /// The server's stderr.
    pub stderr_log: PathBuf,
}

/// The answer of `status`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusReport {
    /// `running` if a server answers, else `notRunning`.
    pub status: LifecycleStatus,
    /// The state of the server.
    pub state: State,
    /// Absent unless codexd manages the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<Backend>,
    /// The server's process, managed or not.
    pub pid: Option<Pid>,
    /// The supervisor's process.
    pub supervisor_pid: Option<Pid>,
    /// The uptime of the server; null if none runs.
    pub uptime_seconds: Option<u64>,
    /// Restarts after a crash since a command last started the server.
    pub restarts: u64,
    /// The time of the next attempt of the supervisor, in RFC 3339; null unless it waits.
    pub next_attempt_at: Option<String>,
    /// The exit of the last server.
    pub last_exit: Option<LastExit>,
    /// Whether the running binary is the one that a start would run; null if no server runs.
    pub running_is_installed: Option<bool>,
    /// See [`super::LifecycleReply::managed_codex_path`].
    pub managed_codex_path: PathBuf,
    /// Its version.
    pub managed_codex_version: Option<String>,
    /// Where its path comes from; null when there is none.
    pub managed_codex_source: Option<CodexSource>,
    /// The well-known control socket.
    pub socket_path: PathBuf,
    /// See [`super::LifecycleReply::cli_version`].
    pub cli_version: String,
    /// The version that the running server reports.
    pub app_server_version: Option<String>,
    /// The version of codexd.
    pub codexd_version: &'static str,
    /// Whether the server is the one built into codexd.
    pub embedded: bool,
    /// The gateway; null if none is needed.
    pub gateway: Option<GatewayReport>,
    /// The running servers that codexd manages, the current one first.
    pub generations: Vec<GenerationReport>,
    /// The last report of the running gateway about a handover; null if there is none.
    pub handover: Option<serde_json::Value>,
    /// The settings in force.
    pub settings: SettingsReport,
    /// The configuration object of the scaffold, as `config` has it.
    pub config: serde_json::Value,
    /// The paths of the home.
    pub paths: PathsReport,
    /// The problems that were found. The next changing command repairs those of codexd itself.
    pub problems: Vec<Problem>,
    /// The newest events, oldest first.
    pub events: Vec<EventRecord>,
}
