//! Watches files for the supervisor: logs that grow, checked at most once a second; the folders of sockets and state; missing programs.
//!
//! The last close of an inotify descriptor takes some 13 ms in the kernel. So commands open none and get reports instead, and the supervisor
//! keeps its own open until it exits.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use codexd_core::clock::Monotonic;
use codexd_core::limits::{LOG_CHECK_INTERVAL_MS, LOG_MAX_BYTES};
use rustix::fs::inotify;

use crate::home::Home;
use crate::logs;

/// The inotify descriptors.
#[derive(Debug)]
pub struct Watches {
    logs: OwnedFd,
    folder: OwnedFd,
    /// Watches the folders of missing programs; created with the first one.
    programs: Option<OwnedFd>,
    /// Its watch descriptors.
    program_folders: Vec<i32>,
    /// Until when a busy log is not checked.
    paused_until: Option<Monotonic>,
}

impl Watches {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// inotify is not available.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            logs: inotify()?,
            folder: inotify()?,
            programs: None,
            program_folders: Vec::new(),
            paused_until: None,
        })
    }

    /// Watches the existing logs of `home`. A second call for the same log changes nothing.
    ///
    /// # Errors
    /// inotify refuses the watch.
    pub fn watch_logs(&self, home: &Home) -> io::Result<()> {
        for path in logs_of(home).iter().filter(|path| path.exists()) {
            inotify::add_watch(&self.logs, path, inotify::WatchFlags::MODIFY)?;
        }
        Ok(())
    }

    /// Watches the folder of the control socket of `home` for changes, and the state folder for removals. A second call changes nothing.
    ///
    /// # Errors
    /// inotify refuses the watch.
    pub fn watch_folders(&self, home: &Home) -> io::Result<()> {
        let changes = inotify::WatchFlags::CREATE
            | inotify::WatchFlags::MOVED_TO
            | inotify::WatchFlags::MOVED_FROM
            | inotify::WatchFlags::DELETE
            | inotify::WatchFlags::DELETE_SELF
            | inotify::WatchFlags::MOVE_SELF;
        inotify::add_watch(&self.folder, home.control_dir(), changes)?;
        // The removal of the folder itself is reported only when no process has it open any more.
        let losses = inotify::WatchFlags::DELETE | inotify::WatchFlags::MOVE_SELF;
        inotify::add_watch(&self.folder, home.state_dir(), losses)?;
        Ok(())
    }

    /// Watches the folder of an app-server's socket for removals. Many homes may share the folder.
    ///
    /// # Errors
    /// inotify refuses the watch.
    pub fn watch_losses(&self, folder: &Path) -> io::Result<()> {
        let losses = inotify::WatchFlags::DELETE
            | inotify::WatchFlags::MOVED_FROM
            | inotify::WatchFlags::DELETE_SELF
            | inotify::WatchFlags::MOVE_SELF;
        inotify::add_watch(&self.folder, folder, losses)?;
        Ok(())
    }

    /// Watches for the file of a missing program: in its folder, or in the nearest folder above that exists.
    ///
    /// # Errors
    /// inotify refuses the watch.
    pub fn watch_for_program(&mut self, program: &Path) -> io::Result<()> {
        let programs = match &self.programs {
            Some(programs) => programs,
            None => self.programs.insert(inotify()?),
        };
        let appears = inotify::WatchFlags::CREATE
            | inotify::WatchFlags::MOVED_TO
            | inotify::WatchFlags::CLOSE_WRITE
            | inotify::WatchFlags::ATTRIB
            | inotify::WatchFlags::DELETE_SELF
            | inotify::WatchFlags::MOVE_SELF;
        let folder = program.ancestors().skip(1).find(|folder| folder.is_dir());
        let watch = inotify::add_watch(programs, folder.unwrap_or(Path::new("/")), appears)?;
        if !self.program_folders.contains(&watch) {
            self.program_folders.push(watch);
        }
        Ok(())
    }

    /// The descriptor to poll for missing programs.
    pub fn programs_fd(&self) -> Option<BorrowedFd<'_>> {
        self.programs.as_ref().map(AsFd::as_fd)
    }

    /// Discards the events of missing programs.
    pub fn take_programs(&self) {
        self.programs.as_ref().map(drain);
    }

    /// Ends the watches for missing programs.
    pub fn forget_programs(&mut self) {
        for watch in self.program_folders.drain(..) {
            // The watch of a removed folder is gone already.
            let _ = self.programs.as_ref().map(|programs| inotify::remove_watch(programs, watch));
        }
    }

    /// The descriptor to poll for the logs; `None` while a busy log is not checked.
    pub fn logs_fd(&self) -> Option<BorrowedFd<'_>> {
        self.paused_until.is_none().then(|| self.logs.as_fd())
    }

    /// The descriptor to poll for the folders.
    pub fn folder_fd(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }

    /// When to check the logs again.
    pub fn deadline(&self) -> Option<Monotonic> {
        self.paused_until
    }

    /// Discards the events of the folders.
    pub fn take_folder(&self) {
        drain(&self.folder);
    }

    /// Rotates the logs that have grown too large, unless they were checked a moment ago.
    pub fn check_logs(&mut self, home: &Home, now: Monotonic) {
        if self.paused_until.is_some_and(|until| now < until) {
            return;
        }
        let wrote = drain(&self.logs);
        self.paused_until = wrote.then(|| now + LOG_CHECK_INTERVAL_MS);
        for path in logs_of(home) {
            // A log that cannot be rotated now (full disk) is tried again when it grows.
            let _ = logs::rotate_if_larger(&path, LOG_MAX_BYTES);
        }
    }
}

fn logs_of(home: &Home) -> [std::path::PathBuf; 4] {
    [home.stdout_log(), home.stderr_log(), home.gateway_log(), home.supervisor_log()]
}

fn inotify() -> io::Result<OwnedFd> {
    Ok(inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?)
}

fn drain(inotify: &OwnedFd) -> bool {
    let mut buffer = [MaybeUninit::uninit(); 2048];
    let mut reader = inotify::Reader::new(inotify, &mut buffer);
    let mut any = false;
    while reader.next().is_ok() {
        any = true;
    }
    any
}
