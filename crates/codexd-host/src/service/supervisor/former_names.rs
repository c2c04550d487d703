//! The names that codexd 0.1.0 used. Its supervisor ran as `codexd keeper`, with `keeper.json`, `keeper.lock`, `keeper.sock` and
//! `keeper.log` in the state folder.
//!
//! [`super::upgrade`] replaces such a supervisor and renames its files. Commands that change nothing read `keeper.json` in place.

use std::fs;
use std::path::{Path, PathBuf};

use codexd_core::identity::Pid;

use crate::home::Home;
use crate::{ownership, pid_namespace, process};

/// The internal command of a supervisor of 0.1.0.
pub const COMMAND: &str = "keeper";

pub(super) fn state_file(home: &Home) -> PathBuf {
    home.state_file("keeper.json")
}

/// The lock that a supervisor of 0.1.0 holds as long as it runs.
pub fn lock_file(home: &Home) -> PathBuf {
    home.state_file("keeper.lock")
}

/// The socket on which a supervisor of 0.1.0 takes orders.
pub fn socket(home: &Home) -> PathBuf {
    home.state_file("keeper.sock")
}

pub(super) fn log(home: &Home) -> PathBuf {
    home.state_file("keeper.log")
}

/// The file that holds the state of the last supervisor: the newer one of `supervisor.json` and `keeper.json`.
pub fn newest_state_file(home: &Home) -> PathBuf {
    let modified = |path: &Path| fs::symlink_metadata(path).and_then(|found| found.modified()).ok();
    let (current, former) = (home.supervisor_state(), state_file(home));
    if modified(&former) > modified(&current) { former } else { current }
}

/// Whether a process runs as a supervisor of this home under the former command name.
pub fn is_supervisor(pid: Pid, home: &Home) -> bool {
    let arguments = process::arguments(pid);
    matches!(&arguments[..], [_, command, option, path]
        if command == COMMAND && option == "--codex-home" && path == home.root().as_os_str())
        && !pid_namespace::is_below(pid)
        && ownership::is_trusted_process(pid)
}

/// Removes the link of a gateway of 0.1.0, which has exited.
pub fn remove_gateway_link(home: &Home) {
    if fs::read_link(socket(home)).is_ok() {
        // A link that stays is removed by the next command that changes something.
        let _ = fs::remove_file(socket(home));
    }
}
