//! Signals to the supervisor as bytes in a pipe, so that the loop can poll them.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};

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
    /// Begins to catch SIGCHLD, SIGTERM, SIGINT and SIGHUP.
    ///
    /// # Errors
    /// The handlers cannot be installed.
    pub fn catch() -> io::Result<Self> {
        let (leave, leave_end) = UnixStream::pair()?;
        for signal in [SIGTERM, SIGINT] {
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

fn drain(stream: &mut UnixStream) -> bool {
    let mut bytes = [0u8; 64];
    let mut any = false;
    while stream.read(&mut bytes).is_ok_and(|count| count > 0) {
        any = true;
    }
    any
}
