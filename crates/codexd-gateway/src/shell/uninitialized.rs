//! Connections of the control socket that have not sent `initialize`: they are few, and no client waits for their sake.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::AbortHandle;

use super::connection::WsConnection;
use super::event_loop::HubDriver;
use crate::hub::ClientId;
use crate::limits::{
    DESCRIPTORS_OF_THE_GATEWAY, DESCRIPTORS_RESERVED, UNINITIALIZED_MAX, UNINITIALIZED_SILENT_MS,
};

/// The oldest first.
#[derive(Debug)]
pub(crate) struct Uninitialized {
    entries: RefCell<VecDeque<Entry>>,
    count: Cell<u64>,
    /// So many descriptors this process may have.
    pub(super) descriptors_max: Cell<usize>,
    /// So long a connection may be silent although there are too many.
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
    /// Its task is about to register itself.
    New,
    /// The task ends with the connection.
    Handshake(AbortHandle),
    /// The hub knows the client.
    Silent(ClientId, Rc<WsConnection>),
}

impl Uninitialized {
    /// Adds a connection; if there are too many, the oldest are closed that have been silent for long enough.
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

    /// A connection has ended.
    pub(super) fn remove(&self, serial: u64) {
        self.entries.borrow_mut().retain(|entry| entry.serial != serial);
    }

    /// Whether a descriptor is one of the last ones, which no new client gets.
    pub(super) fn is_reserved(&self, descriptor: &impl AsRawFd) -> bool {
        self.is_among_last(descriptor.as_raw_fd(), DESCRIPTORS_RESERVED)
    }

    /// Whether a descriptor is one of those that no dedicated connection gets.
    pub(super) fn is_gateway_only(&self, descriptor: RawFd) -> bool {
        self.is_among_last(descriptor, DESCRIPTORS_OF_THE_GATEWAY)
    }

    /// The kernel gives the lowest number that is free: a high one says that all below it are taken.
    fn is_among_last(&self, descriptor: RawFd, last: usize) -> bool {
        let most = self.descriptors_max.get();
        most > 0 && usize::try_from(descriptor).is_ok_and(|number| number >= most.saturating_sub(last))
    }

    /// Closes the oldest; false if there is none.
    pub(super) fn evict_oldest(&self) -> bool {
        let oldest = self.entries.borrow_mut().pop_front();
        match oldest.as_ref().map(|oldest| &oldest.stage) {
            None => return false,
            Some(Stage::New) => {}
            Some(Stage::Handshake(task)) => task.abort(),
            // Without a word: whoever was silent for so long holds a descriptor until it is gone.
            Some(Stage::Silent(_, connection)) => connection.abandon(),
        }
        true
    }

    fn has_too_many(&self) -> bool {
        let entries = self.entries.borrow();
        let set_silent = entries.front().is_some_and(|oldest| oldest.since.elapsed() >= self.limit.get());
        entries.len() >= UNINITIALIZED_MAX && set_silent
    }

    fn set(&self, serial: u64, stage: Stage) {
        if let Some(entry) = self.entries.borrow_mut().iter_mut().find(|entry| entry.serial == serial) {
            entry.stage = stage;
        }
    }

    fn admit(&self, client: ClientId) {
        let is_it = |entry: &Entry| matches!(entry.stage, Stage::Silent(known, _) if known == client);
        self.entries.borrow_mut().retain(|entry| !is_it(entry));
    }
}

impl HubDriver {
    /// A client has introduced itself.
    pub(super) fn admit(&self, client: ClientId) {
        self.uninitialized.admit(client);
        self.clients.admit(client);
    }
}
