//! Replaces a supervisor of codexd 0.1.0, whose command and files have other names ([`super::former_names`]).
//!
//! [`upgrade`] ends such a supervisor and renames its files. The app-server and the gateway keep running; the next supervisor
//! adopts them. A gateway of 0.1.0 looks for its supervisor at `keeper.sock`: as long as it runs, that name is a link to
//! `supervisor.sock`.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use codexd_core::identity::{Pid, Process};
use codexd_core::limits::{BUSY_SUPERVISOR_TIMEOUT_MS, SUPERVISOR_END_TIMEOUT_MS};
use rustix::process::Signal;

use super::former_names::{COMMAND, is_supervisor, lock_file, log, newest_state_file, socket, state_file};
use super::observe::{await_free_lock_at, holder_of};
use super::state;
use crate::home::Home;
use crate::launch::gateway;
use crate::{atomic, lock, process};

/// The outcome of [`upgrade`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Upgraded {
    /// Nothing had a former name.
    Nothing,
    /// Files were renamed or removed; no supervisor of 0.1.0 ran.
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
    /// The supervisor runs although it was killed.
    #[error("the supervisor (pid {0}) of an older codexd does not exit")]
    DoesNotEnd(Pid),
    /// An operation of the system failed.
    #[error(transparent)]
    System(#[from] io::Error),
}

/// Ends a supervisor of 0.1.0 and renames its files. The caller holds the operation lock. A call that was interrupted at any point is
/// completed by the next one.
///
/// # Errors
/// Nothing was renamed.
pub fn upgrade(home: &Home) -> Result<Upgraded, UpgradeError> {
    let exists = |path: &PathBuf| path.symlink_metadata().is_ok();
    let gateway_link = fs::read_link(socket(home)).is_ok();
    let has_socket = exists(&socket(home)) && !(gateway_link && gateway_runs(home));
    if !has_socket && !exists(&state_file(home)) && !exists(&lock_file(home)) {
        return Ok(Upgraded::Nothing);
    }
    let ended = end_supervisor(home)?;
    // Held until the end, so that no supervisor of 0.1.0 starts meanwhile.
    let _lock = if exists(&lock_file(home)) { lock::try_supervisor_lock(&lock_file(home))? } else { None };
    if exists(&state_file(home)) {
        if newest_state_file(home) == state_file(home) {
            fs::rename(state_file(home), home.supervisor_state())?;
        } else {
            atomic::remove_if_exists(&state_file(home))?;
        }
    }
    if exists(&log(home)) && !exists(&home.supervisor_log()) {
        fs::rename(log(home), home.supervisor_log())?;
    }
    if gateway_runs(home) {
        link_socket(home)?;
    } else {
        atomic::remove_if_exists(&socket(home))?;
    }
    atomic::remove_if_exists(&lock_file(home))?;
    Ok(ended.map_or(Upgraded::Files, Upgraded::Supervisor))
}

fn gateway_runs(home: &Home) -> bool {
    let recorded = state::read(home).and_then(|state| state.gateway?.process);
    recorded.is_some_and(|gateway| process::is_alive(&gateway)) || gateway::find(home).is_some()
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
