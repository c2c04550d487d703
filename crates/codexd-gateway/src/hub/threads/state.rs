//! The states of a thread, with the data that belongs to each, and where a thread exists.

use crate::hub::event::{BlockedOn, ClientId, Now};
use crate::hub::threads::deferred::Deferred;

/// The state of a thread.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ThreadState {
    /// Loaded and subscribed.
    Attached,
    /// Loaded before this gateway knew it; being subscribed.
    Attaching,
    /// Checks before unloading are pending.
    Checking(Check),
    /// Being unloaded to migrate.
    Unloading,
    /// Migration failed; being subscribed again on the old app-server.
    RollingBack,
    /// Being loaded in the successor.
    Loading,
    /// Being unloaded because no client watches it.
    Evicting,
    /// Its app-server is gone; no app-server has it.
    Orphaned,
    /// Being loaded after its app-server was lost.
    Recovering {
        /// Status reported by the app-server that loads it, held back until the last turns are read.
        status_after_load: Option<Box<str>>,
        /// Notifications that arrived since, sent after the last turns are reported.
        deferred: Deferred,
    },
}

impl ThreadState {
    pub fn recovering() -> Self {
        ThreadState::Recovering { status_after_load: None, deferred: Deferred::default() }
    }
}

/// Where a thread exists besides in the memory of its app-server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Residency {
    /// On disk once it has had a turn.
    Durable { is_on_disk: bool },
    /// Never on disk.
    Ephemeral,
    /// Impossible to resume. It is closed when its turn ends.
    Unresumable,
}

impl Default for Residency {
    fn default() -> Self {
        Residency::Durable { is_on_disk: false }
    }
}

impl Residency {
    /// Whether it is known to be on disk.
    pub fn is_on_disk(self) -> bool {
        self == Residency::Durable { is_on_disk: true }
    }

    pub fn found_on_disk(&mut self) {
        if let Residency::Durable { is_on_disk } = self {
            *is_on_disk = true;
        }
    }

    /// Applies upstream's `ephemeral`.
    pub fn describe(&mut self, is_ephemeral: bool) {
        *self = match (*self, is_ephemeral) {
            (Residency::Durable { .. }, true) => Residency::Ephemeral,
            (Residency::Ephemeral, false) => Residency::default(),
            (known, _) => known,
        };
    }

    /// A client has resumed it.
    pub fn resumed(&mut self) {
        if *self == Residency::Unresumable {
            *self = Residency::Ephemeral;
        }
    }
}

/// Results of the checks before unloading.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Check {
    pub since: Now,
    /// Number of pending responses.
    pub outstanding: u32,
    pub blocked_on: Option<BlockedOn>,
    pub goal_is_active: bool,
    /// Unload because no client watches the thread, not to migrate.
    pub to_evict: bool,
}

/// A client waits for a thread to be loaded.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct LoadDemand {
    /// Number of other threads that the client was waiting for: a client that waits for one thread is not behind a
    /// client that waits for hundreds.
    pub earlier: usize,
    /// Sequence number of the demand.
    pub number: u64,
    pub client: ClientId,
}
