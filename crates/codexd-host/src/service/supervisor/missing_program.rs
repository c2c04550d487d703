//! A program whose file is missing, as it is for a moment while Codex is updated. The supervisor waits for the file; this is no crash.

use std::io::{self, ErrorKind};
use std::path::PathBuf;

use codexd_core::contract::EventLevel;
use codexd_core::generations::{Event, Name};
use codexd_core::supervise;
use rustix::io::Errno;

use super::Supervisor;
use crate::events::Event as LogEvent;

impl Supervisor {
    /// Handles a failed start: a crash, unless the program is missing.
    pub(super) fn spawn_failed(
        &mut self,
        name: Name,
        kind: &'static str,
        message: String,
        error: &io::Error,
    ) {
        let Some(managed) = self.managed_mut(name) else { return };
        let executable = managed.program.executable.clone();
        // A file that is being written cannot be executed yet.
        let is_half_there = matches!(
            error.raw_os_error().map(Errno::from_raw_os_error),
            Some(Errno::TXTBSY | Errno::ACCESS | Errno::NOEXEC)
        );
        let is_gone = error.kind() == ErrorKind::NotFound && !executable.exists();
        let was_missing = managed.is_program_missing;
        managed.is_program_missing = is_gone || (was_missing && is_half_there);
        if !managed.is_program_missing {
            self.log_event(LogEvent::new(EventLevel::Error, kind, message));
            return self.feed(Event::Of(name, supervise::Event::SpawnFailed));
        }
        if !was_missing {
            let message = format!("{message}; the supervisor starts it when the file exists");
            self.log_event(LogEvent::new(EventLevel::Error, kind, message));
        }
        // If the folder cannot be watched, the start is retried every few seconds.
        let _ = self.watches.watch_for_program(&executable);
        self.feed(Event::Of(name, supervise::Event::ProgramMissing));
    }

    /// Ends the wait for a program that was started.
    pub(super) fn program_was_found(&mut self, name: Name) {
        if let Some(managed) = self.managed_mut(name) {
            managed.is_program_missing = false;
        }
        if self.table.iter().all(|managed| !managed.is_program_missing) {
            self.watches.forget_programs();
        }
    }

    /// Starts missing programs whose files exist now.
    pub(super) fn check_missing_programs(&mut self) {
        self.watches.take_programs();
        let missing = self.table.iter().filter(|managed| managed.is_program_missing);
        let missing: Vec<(Name, PathBuf)> =
            missing.map(|managed| (managed.name, managed.program.executable.clone())).collect();
        if missing.is_empty() {
            self.watches.forget_programs();
        }
        for (name, executable) in missing {
            // A folder above it may have been created.
            let _ = self.watches.watch_for_program(&executable);
            if executable.is_file() {
                self.feed(Event::Of(name, supervise::Event::ProgramAppeared));
            }
        }
    }
}
