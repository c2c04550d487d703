//! The answers of the lifecycle commands: upstream's fields in upstream's order, ours behind them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::status::Problem;
use crate::identity::Pid;

/// The outcome of a lifecycle command, in upstream's words.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum LifecycleStatus {
    /// A server ran before the command and runs now.
    AlreadyRunning,
    /// The command brought a server up.
    Started,
    /// The command replaced the server, or brought one up where none ran.
    Restarted,
    /// The command ended the server.
    Stopped,
    /// The command runs inside the server that it ends: the supervisor has the order, and carries it out when the running turns have
    /// ended.
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
}

/// Who runs the server. Absent from an answer when nothing runs or a server that codexd does not manage.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Backend {
    /// The supervisor, by the pid record.
    Pid,
}

/// Something that was found wrong and put right on the way.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Repair {
    /// What was found, kebab-case, such as `stale-record`.
    pub found: String,
    /// The facts, and what was done about it, in a sentence.
    pub message: String,
}

/// The answer of `start`, `stop`, `restart`, `reload` and `version`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LifecycleReply {
    /// The outcome.
    pub status: LifecycleStatus,
    /// Who runs the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<Backend>,
    /// The app-server's process, when the command started it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<Pid>,
    /// The installed Codex; where it would be when there is none.
    pub managed_codex_path: PathBuf,
    /// Its version; null when there is none or it cannot be told.
    pub managed_codex_version: Option<String>,
    /// Where its path comes from; null when there is none.
    pub managed_codex_source: Option<CodexSource>,
    /// The well-known control socket.
    pub socket_path: PathBuf,
    /// The version of the Codex CLI on this machine, which is what upstream's clients compare with the server's. Where
    /// no Codex is installed it is codexd's own.
    pub cli_version: String,
    /// The version that the running server tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_server_version: Option<String>,
    /// The version of codexd.
    pub codexd_version: &'static str,
    /// Present and true when the server is the one built into codexd.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub embedded: bool,
    /// How the handover from the server before goes, where the two overlap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handover: Option<serde_json::Value>,
    /// What did not go as it was meant to, such as a thread that the new server cannot load.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
    /// What the caller may want to do next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// What was found wrong and put right.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub repairs: Vec<Repair>,
}

/// Where the path of the Codex that a start would run comes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum CodexSource {
    /// `--codex-bin` of this command.
    Named,
    /// The setting `codexBin`.
    Setting,
    /// The record of the server: what `--codex-bin` of an earlier command named, or, where no Codex is found, what runs.
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
    /// Who runs the server, if one runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<Backend>,
    /// The setting as it is now.
    pub remote_control_enabled: bool,
    /// How the replacement of the server goes, where it goes on after the command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handover: Option<serde_json::Value>,
    /// The well-known control socket.
    pub socket_path: PathBuf,
    /// See [`LifecycleReply::cli_version`].
    pub cli_version: String,
    /// The version that the running server tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_server_version: Option<String>,
    /// The version of codexd.
    pub codexd_version: &'static str,
    /// What was found wrong and put right.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub repairs: Vec<Repair>,
}
