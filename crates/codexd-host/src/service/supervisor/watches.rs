//! Tells the supervisor when the server has written to its logs, at most once a second, and when something changes beside the
//! control socket.
//!
//! The last close of an inotify descriptor takes some 13 ms in the kernel. So commands open none, they are told; and the supervisor
//! leaves its own to its end, when no command waits for it any more.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use codexd_core::clock::Monotonic;
use codexd_core::limits::{LOG_CHECK_INTERVAL_MS, LOG_MAX_BYTES};
use rustix::fs::inotify;

use crate::home::Home;
use crate::logs;

/// The watches.
#[derive(Debug)]
pub struct Watches {
    logs: OwnedFd,
    folder: OwnedFd,
    /// Tells of the folders of programs that are missing; made when the first one is.
    programs: Option<OwnedFd>,
    /// What it watches.
    program_folders: Vec<i32>,
    /// While a busy log is left alone: until when.
    asleep_until: Option<Monotonic>,
}

impl Watches {
    /// Watches on nothing yet.
    ///
    /// # Errors
    /// The system's.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            logs: inotify()?,
            folder: inotify()?,
            programs: None,
            program_folders: Vec::new(),
            asleep_until: None,
        })
    }

    /// Watches the logs of `home` that there are. Watching them again changes nothing.
    ///
    /// # Errors
    /// The system's.
    pub fn watch_logs(&self, home: &Home) -> io::Result<()> {
        for path in logs_of(home).iter().filter(|path| path.exists()) {
            inotify::add_watch(&self.logs, path, inotify::WatchFlags::MODIFY)?;
        }
        Ok(())
    }

    /// Watches the folder of the control socket of `home`, and whether something of the state goes. Watching them again changes
    /// nothing.
    ///
    /// # Errors
    /// The system's.
    pub fn watch_folders(&self, home: &Home) -> io::Result<()> {
        let changes = inotify::WatchFlags::CREATE
            | inotify::WatchFlags::MOVED_TO
            | inotify::WatchFlags::MOVED_FROM
            | inotify::WatchFlags::DELETE
            | inotify::WatchFlags::DELETE_SELF
            | inotify::WatchFlags::MOVE_SELF;
        inotify::add_watch(&self.folder, home.control_dir(), changes)?;
        // That the folder itself goes is reported only when no process has a file of it open any more.
        let losses = inotify::WatchFlags::DELETE | inotify::WatchFlags::MOVE_SELF;
        inotify::add_watch(&self.folder, home.state_dir(), losses)?;
        Ok(())
    }

    /// Watches whether something goes from the folder of a server's socket, or the folder itself does. Many homes may have theirs
    /// there.
    ///
    /// # Errors
    /// The system's.
    pub fn watch_losses(&self, folder: &Path) -> io::Result<()> {
        let losses = inotify::WatchFlags::DELETE
            | inotify::WatchFlags::MOVED_FROM
            | inotify::WatchFlags::DELETE_SELF
            | inotify::WatchFlags::MOVE_SELF;
        inotify::add_watch(&self.folder, folder, losses)?;
        Ok(())
    }

    /// Watches for the file of a program that is missing: in its folder, or where that or one above it would be made.
    ///
    /// # Errors
    /// The system's.
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

    /// What to wait on for programs that are missing.
    pub fn programs_fd(&self) -> Option<BorrowedFd<'_>> {
        self.programs.as_ref().map(AsFd::as_fd)
    }

    /// Takes what has come of programs.
    pub fn take_programs(&self) {
        self.programs.as_ref().map(drain);
    }

    /// No program is missing any more.
    pub fn forget_programs(&mut self) {
        for watch in self.program_folders.drain(..) {
            // One whose folder is gone is gone as well.
            let _ = self.programs.as_ref().map(|programs| inotify::remove_watch(programs, watch));
        }
    }

    /// What to wait on for the logs; nothing while a busy log is left alone.
    pub fn logs_fd(&self) -> Option<BorrowedFd<'_>> {
        self.asleep_until.is_none().then(|| self.logs.as_fd())
    }

    /// What to wait on for the folder.
    pub fn folder_fd(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }

    /// When to look at the logs again.
    pub fn deadline(&self) -> Option<Monotonic> {
        self.asleep_until
    }

    /// Takes what has come from the folder.
    pub fn take_folder(&self) {
        drain(&self.folder);
    }

    /// Something was written, or the time to look has come: bounds the logs.
    pub fn check_logs(&mut self, home: &Home, now: Monotonic) {
        if self.asleep_until.is_some_and(|until| now < until) {
            return;
        }
        let wrote = drain(&self.logs);
        self.asleep_until = wrote.then(|| now + LOG_CHECK_INTERVAL_MS);
        for path in logs_of(home) {
            // What cannot be rotated now (a full disk) is tried again when more is written.
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
