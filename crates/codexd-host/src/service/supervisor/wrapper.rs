//! A wrapper: a process that the supervisor started and whose descendant is the app-server.
//!
//! A shell script that ends in `codex "$@"` without `exec` stays between the supervisor and the app-server. So does a launcher that cannot
//! replace itself, such as npm's `codex.js`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use codexd_core::identity::{Pid, Process};
use codexd_core::limits::WRAPPER_END_TIMEOUT_MS;
use rustix::process::{Signal, WaitId, WaitIdOptions};

use crate::{orphans, process};

/// A wrapper that runs, or has exited and was not reaped.
#[derive(Debug)]
pub struct Wrapper {
    /// The process.
    pub process: Process,
    handle: OwnedFd,
    /// `None` if another supervisor started it.
    child: Option<Child>,
}

impl Wrapper {
    /// Makes the started process a wrapper, once another process is known to be the app-server.
    pub fn new(process: Process, handle: OwnedFd, child: Option<Child>) -> Self {
        Self { process, handle, child }
    }

    /// The wrapper of an adopted app-server: the leader of its process group, if that is an ancestor with the same generation id.
    pub fn of(server: &Process, generation: Option<&str>) -> Option<Self> {
        let leader = Pid(process::stat(server.pid)?.group);
        let is_above = leader != server.pid && process::descends_from(server.pid, leader);
        if !is_above || !orphans::is_of_generation(leader, generation?) {
            return None;
        }
        let process = process::identify(leader).ok()?;
        let handle = process::open(&process).ok()?;
        Some(Self { process, handle, child: None })
    }

    /// The descriptor to poll for its exit.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }

    /// Sends SIGKILL.
    pub fn kill(&self) {
        let _ = rustix::process::pidfd_send_signal(&self.handle, Signal::KILL);
    }

    /// Ends the wrapper of an app-server that has exited: it gets a moment to exit by itself, then its process group is signalled.
    pub fn end(self) -> Option<ExitStatus> {
        let timeout = Duration::from_millis(WRAPPER_END_TIMEOUT_MS);
        if !process::await_end(&self.process, timeout) {
            let _ = rustix::process::pidfd_send_signal(&self.handle, Signal::TERM);
            if !process::await_end(&self.process, timeout) {
                process::kill_group_of(&self.process);
                self.kill();
            }
        }
        self.reap()
    }

    /// Reaps the exited wrapper. Returns its status if it was a child of this process.
    pub fn reap(mut self) -> Option<ExitStatus> {
        self.child.as_mut().and_then(|child| child.wait().ok())
    }
}

/// Reaps a process that became a child of this one, and returns its status.
pub fn reap(pid: Pid) -> Option<ExitStatus> {
    let status = rustix::process::waitid(
        WaitId::Pid(process::raw(pid)?),
        WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
    )
    .ok()??;
    let raw = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code << 8,
        (None, Some(signal)) => signal,
        (None, None) => return None,
    };
    Some(ExitStatus::from_raw(raw))
}
