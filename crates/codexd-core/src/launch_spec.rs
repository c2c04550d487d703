//! How a process is started and stopped, as data: the supervisor gets it from a command and starts the process.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::os_text::OsText;

/// How an app-server or a gateway is started.
///
/// The environment is complete: nothing is inherited from the process that starts it. It may hold secrets, so it is sent over a
/// socket and never written to disk.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LaunchSpec {
    /// The executable, an absolute path. The kernel follows its links at each start.
    pub executable: PathBuf,
    /// The arguments, without the program name.
    pub args: Vec<OsText>,
    /// The environment; empty in files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<(OsText, OsText)>,
    /// The working directory.
    pub cwd: PathBuf,
    /// Whether this is the server built into codexd.
    #[serde(default)]
    pub embedded: bool,
    /// The socket behind a gateway; `None` for a server that listens on the control socket. The supervisor sends the path to the
    /// gateway, and removes the socket after the exit of the process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
    /// The Codex that `--codex-bin` selected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub named: Option<NamedCodex>,
    /// The version that the executable printed before the first start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The umask that the environment of a command sets; `None` if the files of the configuration are to be read at each start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub umask: Option<u32>,
    /// The resident memory above which the process is replaced, in MiB; `None` without a ceiling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_ceiling_mib: Option<u64>,
}

/// A Codex that `--codex-bin` selected. Later commands use it until the server is stopped, another one is selected, or the setting
/// `codexBin` changes.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NamedCodex {
    /// The absolute path.
    pub path: PathBuf,
    /// The setting `codexBin` at that time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub setting: Option<PathBuf>,
}

impl LaunchSpec {
    /// The same without the environment: the form for files.
    pub fn without_env(&self) -> LaunchSpec {
        LaunchSpec { env: Vec::new(), ..self.clone() }
    }
}

/// The signal that drains a server.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum DrainSignal {
    /// SIGTERM: drains; a second one forces the exit.
    Terminate,
    /// SIGHUP: drains; never forces, however often it is sent.
    Hangup,
}

/// How a process is stopped.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StopPolicy {
    /// The first signal.
    pub signal: DrainSignal,
    /// The time until the second signal, in milliseconds; `None` is no limit.
    pub grace_ms: Option<u64>,
}
