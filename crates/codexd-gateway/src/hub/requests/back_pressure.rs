//! Back pressure: requests stay queued while the connection that they need has a full outbox.

use crate::hub::event::Connection;
use crate::hub::{Hub, Timer};
use crate::limits::SENT_AT_ONCE_BYTES;

impl Hub {
    pub(in crate::hub) fn on_connection_full(&mut self, connection: Connection) {
        self.full_connections.insert(connection);
    }

    pub(in crate::hub) fn on_connection_writable(&mut self, connection: Connection) {
        if self.full_connections.remove(&connection) {
            self.changes.requests_changed();
        }
    }

    /// Whether a connection's outbox is full.
    pub(in crate::hub) fn is_full(&self, connection: Connection) -> bool {
        self.full_connections.contains(&connection)
    }

    /// Whether this step has sent so much that outboxes must be checked before more is sent. If so, scheduling
    /// continues in the next step.
    pub(in crate::hub) fn has_sent_enough(&mut self) -> bool {
        if self.sent_bytes < SENT_AT_ONCE_BYTES {
            return false;
        }
        self.set_timer(0, Timer::ReleasePermits);
        true
    }
}
