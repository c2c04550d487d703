//! The names that codexd 0.1.0 used: its supervisor ran as `codexd keeper`, with `keeper.json`, `keeper.lock`, `keeper.sock` and
//! `keeper.log` in the state folder.
//!
//! [`upgrade`] ends such a supervisor and renames its files. The app-server and the gateway keep running; the next supervisor adopts them.
//! A gateway of 0.1.0 looks for its supervisor at `keeper.sock`: while it lives, that name is a link to `supervisor.sock`. Commands that
//! change nothing read `keeper.json` in place.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use codexd_core::identity::{Pid, Process};
use codexd_core::limits::{BUSY_SUPERVISOR_TIMEOUT_MS, SUPERVISOR_END_TIMEOUT_MS};
use rustix::process::Signal;

use super::observe::{await_free_lock_at, holder_of};
use super::state::{self, SupervisorState};
use crate::home::Home;
use crate::launch::gateway;
use crate::{atomic, lock, ownership, pid_namespace, process};

/// The internal command of a supervisor of 0.1.0.
pub const COMMAND: &str = "keeper";

fn state_file(home: &Home) -> PathBuf {
    home.state_file("keeper.json")
}

/// The lock that a supervisor of 0.1.0 holds while it lives.
pub fn lock_file(home: &Home) -> PathBuf {
    home.state_file("keeper.lock")
}

/// The socket on which a supervisor of 0.1.0 takes orders.
pub fn socket(home: &Home) -> PathBuf {
    home.state_file("keeper.sock")
}

fn log(home: &Home) -> PathBuf {
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

/// What [`upgrade`] did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Upgraded {
    /// There was nothing under a former name.
    Nothing,
    /// Files were renamed or removed; no supervisor of 0.1.0 lived.
    Files,
    /// This supervisor of 0.1.0 was ended, and its files were renamed.
    Supervisor(Pid),
}

/// Why a supervisor of 0.1.0 could not be replaced.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// A process holds `keeper.lock`, and it cannot be identified as a supervisor of this home. It was not signalled.
    #[error("an unidentified process holds the lock")]
    Unidentified,
    /// The supervisor lives although it was killed.
    #[error("the supervisor (pid {0}) of an older codexd does not exit")]
    DoesNotEnd(Pid),
    /// The system refused something.
    #[error(transparent)]
    System(#[from] io::Error),
}

/// Ends a supervisor of 0.1.0 and renames its files. The caller holds the operation lock. A call that was interrupted at any point is
/// completed by the next one.
///
/// # Errors
/// [`UpgradeError`]: nothing was renamed.
pub fn upgrade(home: &Home) -> Result<Upgraded, UpgradeError> {
    let is_there = |path: &PathBuf| path.symlink_metadata().is_ok();
    let gateway_link = fs::read_link(socket(home)).is_ok();
    let has_socket = is_there(&socket(home)) && !(gateway_link && lives_gateway(home));
    if !has_socket && !is_there(&state_file(home)) && !is_there(&lock_file(home)) {
        return Ok(Upgraded::Nothing);
    }
    let ended = end_supervisor(home)?;
    // Held until the end, so that no supervisor of 0.1.0 starts meanwhile.
    let _lock = if is_there(&lock_file(home)) { lock::try_supervisor_lock(&lock_file(home))? } else { None };
    if is_there(&state_file(home)) {
        if newest_state_file(home) == state_file(home) {
            fs::rename(state_file(home), home.supervisor_state())?;
        } else {
            atomic::remove_if_exists(&state_file(home))?;
        }
    }
    if is_there(&log(home)) && !is_there(&home.supervisor_log()) {
        fs::rename(log(home), home.supervisor_log())?;
    }
    if lives_gateway(home) {
        link_socket(home)?;
    } else {
        atomic::remove_if_exists(&socket(home))?;
    }
    atomic::remove_if_exists(&lock_file(home))?;
    Ok(ended.map_or(Upgraded::Files, Upgraded::Supervisor))
}

/// Removes the link of a gateway of 0.1.0, which has ended.
pub fn remove_gateway_link(home: &Home) {
    if fs::read_link(socket(home)).is_ok() {
        // A link that stays is removed by the next command that changes something.
        let _ = fs::remove_file(socket(home));
    }
}

fn lives_gateway(home: &Home) -> bool {
    let written = state::read(home).and_then(|state: SupervisorState| state.gateway?.process);
    written.is_some_and(|gateway| process::is_alive(&gateway)) || gateway::find(home).is_some()
}

fn link_socket(home: &Home) -> io::Result<()> {
    let beside = home.state_file("keeper.sock.tmp");
    atomic::remove_if_exists(&beside)?;
    std::os::unix::fs::symlink(home.supervisor_socket().file_name().unwrap_or_default(), &beside)?;
    fs::rename(&beside, socket(home))
}

/// Ends the supervisor that holds `keeper.lock`: SIGTERM, on which it leaves its servers running; if it does not react, SIGKILL.
fn end_supervisor(home: &Home) -> Result<Option<Pid>, UpgradeError> {
    let path = lock_file(home);
    if !path.exists() || lock::try_supervisor_lock(&path)?.is_some() {
        return Ok(None);
    }
    let is_former = |process: &Process| is_supervisor(process.pid, home);
    let Some(supervisor) = holder_of(&path, COMMAND).filter(is_former) else {
        // A supervisor that is exiting shows neither its arguments nor its files.
        let timeout = Duration::from_millis(BUSY_SUPERVISOR_TIMEOUT_MS);
        return if await_free_lock_at(&path, timeout)? { Ok(None) } else { Err(UpgradeError::Unidentified) };
    };
    for (signal, timeout_ms) in
        [(Signal::TERM, SUPERVISOR_END_TIMEOUT_MS), (Signal::KILL, BUSY_SUPERVISOR_TIMEOUT_MS)]
    {
        process::signal(&supervisor, signal)?;
        let timeout = Duration::from_millis(timeout_ms);
        if process::await_end(&supervisor, timeout) && await_free_lock_at(&path, timeout)? {
            return Ok(Some(supervisor.pid));
        }
    }
    Err(UpgradeError::DoesNotEnd(supervisor.pid))
}
