//! Signals to the supervisor as bytes in a pipe, so that the loop can poll them, and what they make it do.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use codexd_core::contract::EventLevel;
use codexd_core::identity::Pid;
use rustix::process::{WaitId, WaitIdOptions};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use super::Supervisor;
use super::server::Server;
use crate::events::Event as LogEvent;
use crate::process;

/// The pipes.
#[derive(Debug)]
pub struct Signals {
    leave: UnixStream,
    hangup: UnixStream,
    child: UnixStream,
}

/// The signals since the last call.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Signalled {
    /// A child exited.
    pub child: bool,
    /// The supervisor is to exit.
    pub leave: bool,
    /// SIGHUP came.
    pub hangup: bool,
}

impl Signals {
    /// Begins to catch SIGCHLD, SIGTERM, SIGINT, SIGQUIT and SIGHUP.
    ///
    /// # Errors
    /// The handlers cannot be installed.
    pub fn catch() -> io::Result<Self> {
        let (leave, leave_end) = UnixStream::pair()?;
        for signal in [SIGTERM, SIGINT, SIGQUIT] {
            signal_hook::low_level::pipe::register(signal, leave_end.try_clone()?)?;
        }
        let (hangup, hangup_end) = UnixStream::pair()?;
        signal_hook::low_level::pipe::register(SIGHUP, hangup_end)?;
        let (child, child_end) = UnixStream::pair()?;
        signal_hook::low_level::pipe::register(SIGCHLD, child_end)?;
        for stream in [&leave, &hangup, &child] {
            stream.set_nonblocking(true)?;
        }
        Ok(Self { leave, hangup, child })
    }

    /// The descriptors to poll.
    pub fn fds(&self) -> [BorrowedFd<'_>; 3] {
        [self.leave.as_fd(), self.hangup.as_fd(), self.child.as_fd()]
    }

    /// Takes the signals that have arrived.
    pub fn take(&mut self) -> Signalled {
        Signalled {
            child: drain(&mut self.child),
            leave: drain(&mut self.leave),
            hangup: drain(&mut self.hangup),
        }
    }
}

impl Supervisor {
    /// Handles the signals that have arrived.
    pub(super) fn signalled(&mut self) {
        let signalled = self.signals.take();
        if signalled.child {
            self.reap_orphans();
        }
        if self.standalone().is_some() {
            self.standalone_signalled(signalled);
            return;
        }
        if signalled.hangup && self.foreground.is_some() {
            self.run_command("reload");
        }
        if signalled.leave || (signalled.hangup && self.foreground.is_none()) {
            let message =
                "the supervisor exited on a signal; the app-server keeps running without a supervisor";
            self.log_event(LogEvent::new(EventLevel::Warn, "daemon.stopped", message));
            self.forget_failed_start();
            self.has_left = true;
        }
    }

    /// Reaps orphaned tools, never managed processes: their exits are reported by their pidfds.
    pub(super) fn reap_orphans(&self) {
        let servers = self.table.iter().filter_map(|managed| managed.server.as_ref());
        let waited_for = self.launches.pids().chain(self.commands.pids());
        let managed: Vec<Pid> = servers.flat_map(Server::pids).chain(waited_for).collect();
        for pid in process::children().into_iter().filter(|pid| !managed.contains(pid)) {
            if let Some(pid) = i32::try_from(pid.0).ok().and_then(rustix::process::Pid::from_raw) {
                let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
                let _ = rustix::process::waitid(WaitId::Pid(pid), look);
            }
        }
    }
}

fn drain(stream: &mut UnixStream) -> bool {
    let mut bytes = [0u8; 64];
    let mut any = false;
    while stream.read(&mut bytes).is_ok_and(|count| count > 0) {
        any = true;
    }
    any
}
