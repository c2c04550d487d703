//! Back pressure: requests stay queued while the connection that they need has a full outbox.

use std::collections::BTreeSet;

use crate::hub::event::{ClientId, Connection};
use crate::hub::{Hub, Timer};
use crate::limits::SENT_PER_STEP_BYTES_MAX;

/// Connections whose outbox is full, and how much the current step has sent.
#[derive(Debug, Default)]
pub struct BackPressure {
    full_connections: BTreeSet<Connection>,
    /// Bytes of client requests that were sent in this step.
    sent_bytes: usize,
}

impl BackPressure {
    pub fn begin_step(&mut self) {
        self.sent_bytes = 0;
    }

    /// A client's request was sent.
    pub fn sent(&mut self, bytes: usize) {
        self.sent_bytes += bytes;
    }

    /// Whether a connection's outbox is full.
    pub fn is_full(&self, connection: Connection) -> bool {
        self.full_connections.contains(&connection)
    }

    pub fn full_connections(&self) -> impl Iterator<Item = Connection> + '_ {
        self.full_connections.iter().copied()
    }

    /// A connection was opened or lost: its outbox is empty.
    pub fn reset(&mut self, connection: Connection) {
        self.full_connections.remove(&connection);
    }

    pub fn client_disconnected(&mut self, client: ClientId) {
        let is_of_client = |connection: &Connection| matches!(connection, Connection::Dedicated(owner, _) if *owner == client);
        self.full_connections.retain(|connection| !is_of_client(connection));
    }
}

impl Hub {
    pub(in crate::hub) fn on_connection_full(&mut self, connection: Connection) {
        self.back_pressure.full_connections.insert(connection);
    }

    pub(in crate::hub) fn on_connection_writable(&mut self, connection: Connection) {
        if self.back_pressure.full_connections.remove(&connection) {
            self.changes.requests_changed();
        }
    }

    /// Whether this step has sent so much that outboxes must be checked before more is sent. If so, scheduling
    /// continues in the next step.
    pub(in crate::hub) fn has_sent_enough(&mut self) -> bool {
        if self.back_pressure.sent_bytes < SENT_PER_STEP_BYTES_MAX {
            return false;
        }
        self.set_timer(0, Timer::ReleasePermits);
        true
    }
}
