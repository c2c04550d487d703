//! The answer of `status`: everything at once, whatever state the machine is in.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::event::EventRecord;
use super::lifecycle::{Backend, CodexSource, LifecycleStatus};
use crate::generations::Role;
use crate::identity::Pid;

/// What the server of a home is doing.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// It answers.
    Running,
    /// Its process lives and does not answer yet.
    Starting,
    /// It has been asked to leave and finishes its turns.
    Draining,
    /// It was never started, or was stopped on purpose.
    Stopped,
    /// It is gone, or does not answer, and no supervisor is about to restart it.
    Failed,
    /// It keeps dying; the supervisor tries again at the ceiling of its backoff.
    CrashLooping,
    /// A server that codexd does not manage answers.
    Unmanaged,
}

/// How a server ended.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LastExit {
    /// The process that ended.
    pub pid: Pid,
    /// Its exit code; null when a signal ended it or its parent did not report it.
    pub code: Option<i32>,
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
    /// When, in RFC 3339.
    pub at: String,
    /// Whether codexd had asked it to leave.
    pub requested: bool,
    /// The end of what it wrote to stderr.
    pub stderr_tail: String,
    /// The line of its stderr that says what failed, in at most 200 characters; null if it wrote nothing.
    #[serde(default)]
    pub error_line: Option<String>,
}

/// A file or a process as `status` found it, when it was not as it should be.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// Kebab-case, such as `stale-record`.
    pub found: String,
    /// A sentence.
    pub message: String,
}

/// The settings as they are in force.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SettingsReport {
    /// Whether the server is started with remote control.
    pub remote_control_enabled: bool,
    /// The grace of `stop` and `restart`, in seconds.
    pub shutdown_grace_seconds: u64,
    /// The Codex that the settings name.
    pub codex_bin: Option<PathBuf>,
    /// What is to stand in front of the server.
    pub gateway: GatewaySettingReport,
}

/// What the settings say of the gateway.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewaySettingReport {
    /// Whether one is to stand in front of the server.
    pub enabled: bool,
    /// Where it is to listen besides, as a URL.
    pub listen: Option<String>,
    /// Which clients decide what a sub-agent asks: `viewers` or `all`; null without a gateway.
    pub subagent_approvals: Option<&'static str>,
}

/// The gateway of a home.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayReport {
    /// Its process, if it lives.
    pub pid: Option<Pid>,
    /// `running`, or `missing` where a server needs one that is not there.
    pub state: GatewayStanding,
    /// Where it listens besides, as a URL.
    pub listen: Option<String>,
    /// Restarts after a crash since it was first wanted.
    pub restarts: u64,
}

/// Whether the gateway is there.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum GatewayStanding {
    /// It lives.
    Running,
    /// It does not, and a server stands behind it.
    Missing,
}

/// A server that lives.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GenerationReport {
    /// Its process.
    pub pid: Pid,
    /// What it is for.
    pub role: Role,
    /// The socket that it listens on.
    pub socket: PathBuf,
    /// The version that its program told when it was started.
    pub version: Option<String>,
}

/// Where things are.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PathsReport {
    /// CODEX_HOME.
    pub codex_home: PathBuf,
    /// The folder of codexd's own state.
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
    /// `running` when a server answers, else `notRunning`.
    pub status: LifecycleStatus,
    /// What the server is doing.
    pub state: State,
    /// Who runs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<Backend>,
    /// The server's process, managed or not.
    pub pid: Option<Pid>,
    /// The supervisor's process.
    pub supervisor_pid: Option<Pid>,
    /// How long the server has lived.
    pub uptime_seconds: Option<u64>,
    /// How often the supervisor has restarted it since it was started by a command.
    pub restarts: u64,
    /// When the supervisor tries next, in RFC 3339, while it waits.
    pub next_attempt_at: Option<String>,
    /// How the last server ended.
    pub last_exit: Option<LastExit>,
    /// Whether the running server is the Codex that is installed now; null when nothing runs.
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
    /// The version that the running server tells.
    pub app_server_version: Option<String>,
    /// The version of codexd.
    pub codexd_version: &'static str,
    /// Whether the server is the one built into codexd.
    pub embedded: bool,
    /// The gateway; null where the server that runs listens on the control socket itself, and where nothing runs.
    pub gateway: Option<GatewayReport>,
    /// Every server that lives and that codexd manages, the current one first.
    pub generations: Vec<GenerationReport>,
    /// How the last handover from one server to another goes or went, as the gateway tells; null while it lives and has
    /// told of none.
    pub handover: Option<serde_json::Value>,
    /// The settings in force.
    pub settings: SettingsReport,
    /// Where things are.
    pub paths: PathsReport,
    /// What is not as it should be. The next changing command repairs what is codexd's own, and names the rest.
    pub problems: Vec<Problem>,
    /// The newest events, oldest first.
    pub events: Vec<EventRecord>,
}
