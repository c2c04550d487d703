//! Connections of the control socket that have not sent `initialize`. Their number is bounded; the oldest silent one makes room.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::AbortHandle;

use super::connection::WsConnection;
use crate::hub::ClientId;
use crate::limits::{
    DESCRIPTORS_RESERVED, DESCRIPTORS_RESERVED_FOR_GATEWAY, UNINITIALIZED_MAX, UNINITIALIZED_SILENT_MS,
};

/// The connections, the oldest first.
#[derive(Debug)]
pub(crate) struct Uninitialized {
    entries: RefCell<VecDeque<Entry>>,
    count: Cell<u64>,
    /// The limit of descriptors of this process; 0 if unknown.
    pub(super) descriptors_max: Cell<usize>,
    /// How long a connection may be silent while there are too many.
    pub(super) limit: Cell<Duration>,
}

impl Default for Uninitialized {
    fn default() -> Self {
        Self {
            entries: RefCell::default(),
            count: Cell::new(0),
            descriptors_max: Cell::new(0),
            limit: Cell::new(Duration::from_millis(UNINITIALIZED_SILENT_MS)),
        }
    }
}

#[derive(Debug)]
struct Entry {
    serial: u64,
    since: Instant,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// Its task has not started.
    New,
    /// Aborting the task closes the connection.
    Handshake(AbortHandle),
    /// The hub knows the client, which has sent no `initialize`.
    Silent(ClientId, Rc<WsConnection>),
}

impl Uninitialized {
    /// Adds a connection and returns its number. If there are too many, the oldest are closed, as far as they have been silent
    /// for long enough.
    pub(super) fn add(&self) -> u64 {
        while self.has_too_many() && self.evict_oldest() {}
        let serial = self.count.get() + 1;
        self.count.set(serial);
        self.entries.borrow_mut().push_back(Entry { serial, since: Instant::now(), stage: Stage::New });
        serial
    }

    pub(super) fn set_handshaking(&self, serial: u64, task: AbortHandle) {
        self.set(serial, Stage::Handshake(task));
    }

    pub(super) fn set_silent(&self, serial: u64, client: ClientId, connection: Rc<WsConnection>) {
        self.set(serial, Stage::Silent(client, connection));
    }

    /// Removes a connection that has ended.
    pub(super) fn remove(&self, serial: u64) {
        self.entries.borrow_mut().retain(|entry| entry.serial != serial);
    }

    /// Removes the connection of a client that has sent `initialize`.
    pub(super) fn remove_client(&self, client: ClientId) {
        let is_it = |entry: &Entry| matches!(entry.stage, Stage::Silent(known, _) if known == client);
        self.entries.borrow_mut().retain(|entry| !is_it(entry));
    }

    /// Whether a descriptor is one of the last, which are reserved for existing clients and the gateway.
    pub(super) fn is_reserved(&self, descriptor: &impl AsRawFd) -> bool {
        self.is_among_last(descriptor.as_raw_fd(), DESCRIPTORS_RESERVED)
    }

    /// Whether a descriptor is one of the last, which are reserved for the gateway alone.
    pub(super) fn is_gateway_only(&self, descriptor: RawFd) -> bool {
        self.is_among_last(descriptor, DESCRIPTORS_RESERVED_FOR_GATEWAY)
    }

    /// The kernel assigns the lowest free number: a high number means that all lower ones are in use.
    fn is_among_last(&self, descriptor: RawFd, last: usize) -> bool {
        let most = self.descriptors_max.get();
        most > 0 && usize::try_from(descriptor).is_ok_and(|number| number >= most.saturating_sub(last))
    }

    /// Closes the oldest connection; `false` if there is none.
    pub(super) fn evict_oldest(&self) -> bool {
        let oldest = self.entries.borrow_mut().pop_front();
        match oldest.as_ref().map(|oldest| &oldest.stage) {
            None => return false,
            Some(Stage::New) => {}
            Some(Stage::Handshake(task)) => task.abort(),
            // Without a close frame: a silent peer would hold the descriptor until it answers.
            Some(Stage::Silent(_, connection)) => connection.abandon(),
        }
        true
    }

    fn has_too_many(&self) -> bool {
        let entries = self.entries.borrow();
        let is_silent = entries.front().is_some_and(|oldest| oldest.since.elapsed() >= self.limit.get());
        entries.len() >= UNINITIALIZED_MAX && is_silent
    }

    fn set(&self, serial: u64, stage: Stage) {
        if let Some(entry) = self.entries.borrow_mut().iter_mut().find(|entry| entry.serial == serial) {
            entry.stage = stage;
        }
    }
}
