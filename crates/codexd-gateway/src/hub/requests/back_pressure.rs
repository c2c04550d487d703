//! Connections to app-servers that are full: requests wait until the app-server has read what was sent before.

use crate::hub::event::Connection;
use crate::hub::{Hub, Timer};
use crate::limits::SENT_AT_ONCE_BYTES;

impl Hub {
    pub(in crate::hub) fn on_connection_full(&mut self, connection: Connection) {
        self.full_connections.insert(connection);
    }

    pub(in crate::hub) fn on_connection_writable(&mut self, connection: Connection) {
        if self.full_connections.remove(&connection) {
            self.schedule();
        }
    }

    /// Whether no more requests are to be sent over a connection for now.
    pub(in crate::hub) fn is_full(&self, connection: Connection) -> bool {
        self.full_connections.contains(&connection)
    }

    /// Whether so much was sent in this step that the connections are to be asked first whether they have room for more. If so, it
    /// goes on in a step of its own.
    pub(in crate::hub) fn has_sent_enough(&mut self) -> bool {
        if self.sent_bytes < SENT_AT_ONCE_BYTES {
            return false;
        }
        self.set_timer(0, Timer::ReleasePermits);
        true
    }
}
