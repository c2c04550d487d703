//! The table of connected clients.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;

use super::connection::WsConnection;
use crate::hub::ClientId;

#[derive(Debug, Default)]
pub(crate) struct Clients {
    connections: RefCell<HashMap<ClientId, Rc<WsConnection>, BuildHasherDefault<IdHasher>>>,
    count: Cell<u64>,
}

/// A fast hasher: no peer chooses the ids, and they are looked up for every viewer of every message.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(26);
    }
}

impl Clients {
    pub(super) fn add(&self, connection: Rc<WsConnection>) -> ClientId {
        let client = ClientId(self.count.get() + 1);
        self.count.set(client.0);
        self.connections.borrow_mut().insert(client, connection);
        client
    }

    pub(super) fn get(&self, client: ClientId) -> Option<Rc<WsConnection>> {
        self.connections.borrow().get(&client).map(Rc::clone)
    }

    pub(super) fn remove(&self, client: ClientId) -> Option<Rc<WsConnection>> {
        self.connections.borrow_mut().remove(&client)
    }

    pub(super) fn take_all(&self) -> Vec<Rc<WsConnection>> {
        self.connections.take().into_values().collect()
    }

    /// Wakes the task of a client.
    pub(super) fn wake(&self, client: ClientId) {
        if let Some(connection) = self.connections.borrow().get(&client) {
            connection.wake();
        }
    }

    /// Whether a connection whose messages go to a client is to be read.
    pub(super) fn has_room_for(&self, client: ClientId, source: &Rc<WsConnection>) -> bool {
        self.connections.borrow().get(&client).is_none_or(|connection| connection.has_room_for(source))
    }
}
