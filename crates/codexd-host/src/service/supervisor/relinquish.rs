//! The state folder was removed: the supervisor creates it again, or gives up the home if another supervisor was faster.

use std::os::unix::fs::MetadataExt;

use codexd_core::contract::EventLevel;
use codexd_core::launch_spec::DrainSignal;
use codexd_core::limits::STATE_FOLDER_REMOVED_PAUSE_MS;

use super::Supervisor;
use super::supervisor_socket::listen;
use crate::events::Event as LogEvent;
use crate::{clock, lock};

impl Supervisor {
    /// Whether the lock that this supervisor holds is the lock of the home. After the removal of the state folder another supervisor may hold
    /// a new lock, and this one must not start anything any more.
    pub(super) fn owns_the_home(&self) -> bool {
        let held = self.lock.metadata().map(|held| (held.dev(), held.ino()));
        let named = std::fs::metadata(self.home.supervisor_lock()).map(|named| (named.dev(), named.ino()));
        matches!((held, named), (Ok(held), Ok(named)) if held == named)
    }

    /// A watched folder changed. If the lock is gone, the state folder is being removed; wait until that is complete.
    pub(super) fn check_ownership(&mut self) {
        if !self.owns_the_home() && self.state_removed_until.is_none() {
            self.state_removed_until = Some(clock::monotonic() + STATE_FOLDER_REMOVED_PAUSE_MS);
        }
    }

    /// Creates the state folder again if it was removed, and records every managed process there.
    pub(super) fn restore_state_folder(&mut self) {
        let now = clock::monotonic();
        if self.state_removed_until.is_none_or(|until| now < until) {
            return;
        }
        self.state_removed_until = None;
        if self.owns_the_home() || !self.home.root().is_dir() || self.home.create_state().is_err() {
            return;
        }
        // Another supervisor was faster and manages the home now.
        let Ok(Some(lock)) = lock::try_supervisor_lock(&self.home.supervisor_lock()) else { return };
        let Ok(listener) = listen(&self.home) else { return };
        (self.lock, self.listener) = (lock, listener);
        let _ = self.watches.watch_folders(&self.home);
        self.record(self.machine.current());
        let phase = self.phase();
        let _ = self.write_state(phase);
        let message = "the state folder was removed; the supervisor created it again";
        self.log_event(
            LogEvent::new(EventLevel::Warn, "repair", message).with("found", "state-folder-removed"),
        );
    }

    /// Gives up the home: stops all processes of this supervisor and writes nothing any more.
    pub(super) fn relinquish(&mut self) {
        self.sweep_and_wait();
        for server in self.table.iter().filter_map(|managed| managed.server.as_ref()) {
            server.drain(DrainSignal::Terminate);
        }
        self.has_left = true;
        self.clients.close_all();
    }
}
