//! A program is data: what to run, with what, and how to end it. Service managers render it; the supervisor runs it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::os_text::OsText;

/// One program that a service manager runs.
///
/// The environment is complete: nothing is inherited from the process that starts the program. It may hold secrets, so a program
/// is handed over on a socket and never written to disk with its environment.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LaunchSpec {
    /// The executable, an absolute path; links in it are left for the kernel to follow at every start.
    pub executable: PathBuf,
    /// The arguments, without the name of the program itself.
    pub args: Vec<OsText>,
    /// The whole environment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<(OsText, OsText)>,
    /// The working directory.
    pub cwd: PathBuf,
    /// Whether this is the server built into codexd.
    #[serde(default)]
    pub embedded: bool,
    /// The socket of its own that it listens on, behind a gateway; `None` for one that makes the control socket itself. A
    /// supervisor tells it to the gateway, and removes it when the process is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
    /// The Codex that `--codex-bin` named for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub named: Option<NamedCodex>,
    /// The version that it told when it was proven to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// A Codex that `--codex-bin` named. It stays in force for later commands until the server is stopped, another one is named, or
/// the setting `codexBin` changes.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NamedCodex {
    /// The path as it was named, absolute.
    pub path: PathBuf,
    /// The setting `codexBin` at that time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub setting: Option<PathBuf>,
}

impl LaunchSpec {
    /// The same program without its environment: what may be written down.
    pub fn without_env(&self) -> LaunchSpec {
        LaunchSpec { env: Vec::new(), ..self.clone() }
    }
}

/// The signal that asks a server to drain.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum DrainSignal {
    /// SIGTERM: drains; a second one forces the exit.
    Terminate,
    /// SIGHUP: drains; never forces, however often it is sent.
    Hangup,
}

/// How a program is to be ended.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StopPolicy {
    /// The first signal.
    pub signal: DrainSignal,
    /// How long to wait before the second signal; `None` waits without limit.
    pub grace_ms: Option<u64>,
}
