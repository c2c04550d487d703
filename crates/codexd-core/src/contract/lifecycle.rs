//! The answers of the lifecycle commands: the fields of upstream in its order, then those of codexd.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::problem::Problem;
use crate::identity::Pid;

/// The outcome of a lifecycle command. The names are those of upstream.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum LifecycleStatus {
    /// A server was running already.
    AlreadyRunning,
    /// The command started a server.
    Started,
    /// The command replaced the server, or started one if none ran.
    Restarted,
    /// The command stopped the server.
    Stopped,
    /// The command runs inside the server that it stops: the supervisor carries out the order when the running turns have ended.
    Stopping,
    /// The same for a server that it replaces.
    Restarting,
    /// No server ran.
    NotRunning,
    /// A server runs (`version`).
    Running,
    /// Remote control was off and is on.
    Enabled,
    /// Remote control was on and is off.
    Disabled,
    /// Remote control was on.
    AlreadyEnabled,
    /// Remote control was off.
    AlreadyDisabled,
    /// The services of the home are installed, and the server runs (`bootstrap`).
    Bootstrapped,
    /// The services and the state of the home are removed (`uninstall`).
    Uninstalled,
}

/// What manages the server. Absent from an answer if no server runs, or one that codexd does not manage.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Backend {
    /// The supervisor, by the pid record.
    Pid,
    /// The same supervisor, run by the systemd user manager.
    Systemd,
}

/// A repair of a command.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Repair {
    /// The problem, kebab-case, such as `stale-record`.
    pub found: String,
    /// A sentence about the problem and the repair.
    pub message: String,
}

/// The answer of `start`, `stop`, `restart`, `reload` and `version`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LifecycleReply {
    /// The outcome.
    pub status: LifecycleStatus,
    /// Absent unless codexd manages the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<Backend>,
    /// The process of the server, if the command started it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<Pid>,
    /// The installed Codex; the path where it would be if there is none.
    pub managed_codex_path: PathBuf,
    /// Its version; null if there is no Codex, or if it does not print its version in time.
    pub managed_codex_version: Option<String>,
    /// Where its path comes from; null if there is no Codex.
    pub managed_codex_source: Option<CodexSource>,
    /// The well-known control socket.
    pub socket_path: PathBuf,
    /// The version of the installed Codex, which clients of upstream compare with that of the server. That of codexd if no Codex is
    /// installed.
    pub cli_version: String,
    /// The version that the running server reports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_server_version: Option<String>,
    /// The version of codexd.
    pub codexd_version: &'static str,
    /// Present and true for the embedded server.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub embedded: bool,
    /// The handover from the replaced server, if both run at the same time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handover: Option<serde_json::Value>,
    /// Problems, such as a thread that the new server cannot load.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
    /// What the caller may want to do next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The repairs of the command.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub repairs: Vec<Repair>,
}

/// The answer of `bootstrap`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BootstrapReply {
    /// `bootstrapped`.
    pub status: LifecycleStatus,
    /// What manages the server from now on.
    pub backend: Backend,
    /// Whether codexd updates Codex by itself.
    pub auto_update_enabled: bool,
    /// The setting after the command.
    pub remote_control_enabled: bool,
    /// See [`LifecycleReply::managed_codex_path`].
    pub managed_codex_path: PathBuf,
    /// See [`LifecycleReply::managed_codex_version`].
    pub managed_codex_version: Option<String>,
    /// The well-known control socket.
    pub socket_path: PathBuf,
    /// See [`LifecycleReply::cli_version`].
    pub cli_version: String,
    /// The version that the running server reports; absent if the command runs inside a server that is to be replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_server_version: Option<String>,
    /// The version of codexd.
    pub codexd_version: &'static str,
    /// The unit of systemd that runs codexd; absent with another backend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Why this backend was chosen: a sentence.
    pub reason: String,
    /// Whether the services start when the machine boots; null if that cannot be found out.
    pub starts_at_boot: Option<bool>,
    /// The last report about the handover from a server that was replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handover: Option<serde_json::Value>,
    /// What the caller may want to do next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The repairs of the command.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub repairs: Vec<Repair>,
}

/// The answer of `uninstall`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UninstallReply {
    /// `uninstalled`.
    pub status: LifecycleStatus,
    /// The files that were removed.
    pub removed: Vec<PathBuf>,
    /// Files of the user that stay.
    pub kept: Vec<PathBuf>,
    /// The version of codexd.
    pub codexd_version: &'static str,
    /// The repairs of the command.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub repairs: Vec<Repair>,
}

/// The source of the path of the Codex that a start would run.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum CodexSource {
    /// `--codex-bin` of this command.
    Named,
    /// The setting `codexBin`.
    Setting,
    /// The record of the server: the `--codex-bin` of an earlier command, or, if no Codex is found, the running binary.
    Record,
    /// An installation in CODEX_HOME.
    Managed,
    /// A folder of PATH.
    Path,
}

/// The answer of `enable-remote-control` and `disable-remote-control`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RemoteControlReply {
    /// The outcome.
    pub status: LifecycleStatus,
    /// Absent unless codexd manages the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<Backend>,
    /// The setting after the command.
    pub remote_control_enabled: bool,
    /// The replacement of the server, if it continues after the command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handover: Option<serde_json::Value>,
    /// The well-known control socket.
    pub socket_path: PathBuf,
    /// See [`LifecycleReply::cli_version`].
    pub cli_version: String,
    /// The version that the running server reports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_server_version: Option<String>,
    /// The version of codexd.
    pub codexd_version: &'static str,
    /// The repairs of the command.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub repairs: Vec<Repair>,
}
