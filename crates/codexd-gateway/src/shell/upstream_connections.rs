//! The table of connections to app-servers.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use tokio::task::AbortHandle;

use super::close_code;
use super::connection::WsConnection;
use crate::hub::{Connection, ServerId};

/// The connections that are open or being opened.
#[derive(Debug, Default)]
pub(crate) struct UpstreamConnections {
    entries: RefCell<HashMap<Connection, Entry>>,
    count: Cell<u64>,
}

#[derive(Debug)]
pub(super) struct Entry {
    /// Distinguishes it from earlier and later entries under the same key.
    serial: u64,
    /// `None` until the connection is open.
    connection: Option<Rc<WsConnection>>,
    task: AbortHandle,
}

impl Entry {
    /// Closes the connection after its pending output, or gives up opening it.
    fn close(self) {
        match self.connection {
            Some(connection) => connection.close(close_code::NORMAL, ""),
            None => self.task.abort(),
        }
    }

    /// Closes the connection at once and ends its task.
    pub(super) fn abandon(self) {
        if let Some(connection) = &self.connection {
            connection.abandon();
        }
        self.task.abort();
    }
}

impl UpstreamConnections {
    pub(super) fn next_serial(&self) -> u64 {
        let serial = self.count.get() + 1;
        self.count.set(serial);
        serial
    }

    /// Adds a connection that `task` opens. A previous one under the same key is closed.
    pub(super) fn add(&self, key: Connection, serial: u64, task: AbortHandle) {
        let entry = Entry { serial, connection: None, task };
        let previous = self.entries.borrow_mut().insert(key, entry);
        if let Some(previous) = previous {
            previous.close();
        }
    }

    /// Closes a connection after its pending output.
    pub(super) fn close(&self, key: Connection) {
        if let Some(entry) = self.take(key) {
            entry.close();
        }
    }

    /// The connection, if it is open.
    pub(super) fn get(&self, key: Connection) -> Option<Rc<WsConnection>> {
        self.entries.borrow().get(&key)?.connection.clone()
    }

    pub(super) fn take(&self, key: Connection) -> Option<Entry> {
        self.entries.borrow_mut().remove(&key)
    }

    /// Removes a connection unless another one has replaced it. Returns whether it was removed.
    pub(super) fn remove(&self, key: Connection, serial: u64) -> bool {
        let mut entries = self.entries.borrow_mut();
        let is_it = entries.get(&key).is_some_and(|entry| entry.serial == serial);
        is_it && entries.remove(&key).is_some()
    }

    /// Marks a connection as open; `false` if it was closed or replaced meanwhile.
    pub(super) fn set_open(&self, key: Connection, serial: u64, connection: &Rc<WsConnection>) -> bool {
        match self.entries.borrow_mut().get_mut(&key) {
            Some(entry) if entry.serial == serial => {
                entry.connection = Some(Rc::clone(connection));
                true
            }
            _ => false,
        }
    }

    /// The connections to an app-server, in a fixed order.
    pub(super) fn to_server(&self, server: ServerId) -> Vec<Connection> {
        let entries = self.entries.borrow();
        let mut keys: Vec<Connection> =
            entries.keys().copied().filter(|key| key.server() == server).collect();
        keys.sort_unstable();
        keys
    }
}
