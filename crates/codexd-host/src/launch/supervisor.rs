//! The supervisor as a process: `codexd supervisor --codex-home PATH`.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::environment;
use crate::home::Home;
use crate::logs;

/// The internal command of a supervisor.
pub const COMMAND: &str = "supervisor";
/// The command and its option, as they stand on the command line. The path of the home follows.
const ARGUMENTS: [&str; 2] = [COMMAND, "--codex-home"];

/// The home in the arguments of a supervisor; `None` for any other command line. Only codexd writes these arguments, and a
/// supervisor that does not load the argument parser needs a fifth less of the binary in memory.
pub fn home_of(arguments: impl IntoIterator<Item = OsString>) -> Option<Home> {
    let arguments: Vec<OsString> = arguments.into_iter().skip(1).collect();
    let [command, option, home] = arguments.as_slice() else { return None };
    ([command, option] == ARGUMENTS).then(|| Home::new(PathBuf::from(home)))
}

/// Starts the supervisor of a home. `codexd` is the binary, `connection` the supervisor's end of a connection to the command.
///
/// # Errors
/// The system's.
pub fn spawn(home: &Home, codexd: &Path, connection: OwnedFd) -> io::Result<Child> {
    let log = logs::open_for_append(&home.supervisor_log())?;
    Command::new(codexd)
        .args(ARGUMENTS)
        .arg(home.root())
        .env_clear()
        .envs(environment::for_service(|name| std::env::var_os(name)))
        .env("CODEX_HOME", home.root())
        .current_dir("/")
        .stdin(Stdio::from(connection))
        .stdout(log.try_clone()?)
        .stderr(log)
        // No process group: the leader of a group cannot create a session, which the supervisor does first.
        .spawn()
}
