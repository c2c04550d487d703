//! Tells the keeper when the server has written to its logs, at most once a second.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use codexd_core::clock::Monotonic;
use codexd_core::limits::{LOG_CHECK_INTERVAL_MS, LOG_MAX_BYTES};
use rustix::fs::inotify;

use crate::home::Home;
use crate::logs;

/// The watch.
#[derive(Debug)]
pub struct LogWatch {
    inotify: OwnedFd,
    /// While a busy log is left alone: until when.
    asleep_until: Option<Monotonic>,
}

impl LogWatch {
    /// A watch on nothing yet.
    ///
    /// # Errors
    /// The system's.
    pub fn new() -> io::Result<Self> {
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        Ok(Self { inotify: inotify::init(flags)?, asleep_until: None })
    }

    /// Watches the logs of `home`, which must exist. Watching them again changes nothing.
    ///
    /// # Errors
    /// The system's.
    pub fn watch(&self, home: &Home) -> io::Result<()> {
        for path in [home.stdout_log(), home.stderr_log()] {
            inotify::add_watch(&self.inotify, path, inotify::WatchFlags::MODIFY)?;
        }
        Ok(())
    }

    /// What to wait on; nothing while a busy log is left alone.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.asleep_until.is_none().then(|| self.inotify.as_fd())
    }

    /// When to look again.
    pub fn deadline(&self) -> Option<Monotonic> {
        self.asleep_until
    }

    /// Something was written, or the time to look has come: bounds the logs.
    pub fn check(&mut self, home: &Home, now: Monotonic) {
        if self.asleep_until.is_some_and(|until| now < until) {
            return;
        }
        let wrote = self.drain();
        self.asleep_until = wrote.then(|| now + LOG_CHECK_INTERVAL_MS);
        for path in [home.stdout_log(), home.stderr_log()] {
            // What cannot be rotated now (a full disk) is tried again when more is written.
            let _ = logs::rotate_if_larger(&path, LOG_MAX_BYTES);
        }
    }

    fn drain(&self) -> bool {
        let mut buffer = [MaybeUninit::uninit(); 2048];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        let mut any = false;
        while reader.next().is_ok() {
            any = true;
        }
        any
    }
}
