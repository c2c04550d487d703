//! How codexd starts its processes: the command line, the environment, the working directory and the descriptors of each.
//!
//! | process | started by | descriptors |
//! |---|---|---|
//! | [`supervisor`] | a command | 0: the connection of the command; 1, 2: `supervisor.log` |
//! | [`app_server`] | the supervisor | 0: `/dev/null`; 1, 2: its two logs |
//! | [`gateway`] | the supervisor | 0: `/dev/null`; 1, 2: `gateway.log`; the control socket, under the number in `LISTEN_FDS_FIRST_FD` |
//!
//! A command builds the [`LaunchSpec`] of the app-server and of the gateway and sends both to the supervisor, which starts them
//! as often as needed. Under systemd the supervisor does not start them: see `service/supervisor/launches.rs`. The environment is part of the spec: nothing comes from the environment of the supervisor.

pub mod app_server;
pub mod environment;
pub mod gateway;
mod inherit_socket;
pub mod supervisor;

use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use codexd_core::launch_spec::LaunchSpec;

use crate::home::Home;
use crate::logs;

/// A process that was just started.
#[derive(Debug)]
pub struct Started {
    /// The process, not reaped.
    pub child: Child,
    /// Its log for standard error.
    pub stderr: PathBuf,
    /// The size of that log before the start, in bytes.
    pub stderr_from: u64,
}

/// The command for `spec` with its working directory and its logs, in a process group of its own; and the size of `stderr` in bytes.
fn command(home: &Home, spec: &LaunchSpec, stdout: &Path, stderr: &Path) -> io::Result<(Command, u64)> {
    let stdout = logs::open_for_append(stdout)?;
    let stderr = logs::open_for_append(stderr)?;
    let stderr_from = stderr.metadata()?.len();
    // If the working directory was removed, the process starts in the home.
    let cwd = if spec.cwd.is_dir() { spec.cwd.as_path() } else { home.root() };
    let mut command = Command::new(&spec.executable);
    command.current_dir(cwd).stdin(Stdio::null()).stdout(stdout).stderr(stderr).process_group(0);
    Ok((command, stderr_from))
}
