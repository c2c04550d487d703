//! The clients: who they are, what they say, how they are told, how they leave.
//!
//! The logic should_read of a client once that it came and once that it left, whoever ended it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;
use std::time::Duration;

use codexd_core::contract::EventLevel;
use serde_json::json;
use tokio::time::timeout;

use super::connection::{End, Peer, Read, Ready, WsConnection};
use super::event_loop::HubDriver;
use super::outbox::Overflow;
use super::stream::Stream;
use crate::host::HostCommand;
use crate::hub::{ClientId, Event, Text};
use crate::limits::{CLOSE_TIMEOUT_MS, TRIM_AFTER_MS};
use codexd_protocol::websocket::Fault;

const GOING_AWAY: u16 = 1001;
const POLICY: u16 = 1008;
const TRY_AGAIN_LATER: u16 = 1013;

/// The clients that are connected.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    connections: RefCell<HashMap<ClientId, Rc<WsConnection>, BuildHasherDefault<Spread>>>,
    count: Cell<u64>,
}

/// Our own numbers need no defence against whoever chooses them; they are looked up for every viewer of every message.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
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
    /// Wakes the task of a client.
    pub(super) fn wake(&self, client: ClientId) {
        if let Some(connection) = self.connections.borrow().get(&client) {
            connection.wake();
        }
    }

    pub(super) fn admit(&self, client: ClientId) {
        if let Some(connection) = self.connections.borrow().get(&client) {
            connection.admit();
        }
    }

    /// Whether a connection whose messages go to a client is to be read.
    pub(super) fn has_room_for(&self, client: ClientId, source: &Rc<WsConnection>) -> bool {
        self.connections.borrow().get(&client).is_none_or(|connection| connection.has_room_for(source))
    }

    fn add(&self, connection: Rc<WsConnection>) -> ClientId {
        let client = ClientId(self.count.get() + 1);
        self.count.set(client.0);
        self.connections.borrow_mut().insert(client, connection);
        client
    }

    fn remove(&self, client: ClientId) -> Option<Rc<WsConnection>> {
        self.connections.borrow_mut().remove(&client)
    }
}

/// Waits until a client has had time enough to send `initialize`, and has not.
async fn no_initialize(driver: &HubDriver, client: ClientId, within: Duration) -> End {
    tokio::time::sleep(within).await;
    if driver.has_initialized(client) {
        std::future::pending::<()>().await;
    }
    End::Faulty(Fault { code: POLICY, reason: "no initialize in time" })
}

/// Serves a client that has shaken hands until it is gone, or has not sent `initialize` within a time, if there is one. `read`
/// is what came behind the handshake. One that has shown no token may be closed until it introduces itself: `uninitialized` is
/// its number among those.
pub(crate) async fn serve(
    driver: Rc<HubDriver>,
    stream: Stream,
    read: Vec<u8>,
    initialize_within: Option<Duration>,
    uninitialized: Option<u64>,
) {
    let connection = WsConnection::new(stream, Peer::Client, Rc::clone(&driver.writer));
    let client = driver.clients.add(Rc::clone(&connection));
    if let Some(serial) = uninitialized {
        driver.uninitialized.set_silent(serial, client, Rc::clone(&connection));
    }
    driver.feed(Event::ClientConnected(client));
    let end = match connection.take(&read, |text| driver.feed(Event::ClientMessage(client, text))) {
        Ok(()) => {
            drop(read);
            match initialize_within {
                None => listen(&driver, client, &connection).await,
                Some(within) => {
                    Box::pin(async {
                        tokio::select! {
                            end = listen(&driver, client, &connection) => end,
                            end = no_initialize(&driver, client, within) => Some(end),
                        }
                    })
                    .await
                }
            }
        }
        Err(end) => Some(end),
    };
    driver.ended(client, &connection, end);
    uninitialized.inspect(|serial| driver.uninitialized.remove(*serial));
    drop(driver);
    finish_closing(&connection, end).await;
}

/// Reads until the end. `None` when it came from this peer.
async fn listen(driver: &Rc<HubDriver>, client: ClientId, connection: &Rc<WsConnection>) -> Option<End> {
    let mut turns = driver.read_turns.of_a_client();
    loop {
        match connection.ready(|| driver.should_read(client)).await {
            Ready::Readable => {}
            Ready::Room => continue,
            Ready::Ended => return None,
        }
        let read = {
            let mut buffer = driver.read_buffer.borrow_mut();
            let room = turns.bytes().min(buffer.len());
            connection.read(&mut buffer[..room], |text| driver.feed(Event::ClientMessage(client, text)))
        };
        turns.set_has_more(read == Ok(Read::More));
        match read {
            Ok(Read::All) => {}
            Ok(Read::More) => tokio::task::yield_now().await,
            Err(end) => return Some(end),
        }
    }
}

async fn finish_closing(connection: &Rc<WsConnection>, end: Option<End>) {
    let goodbye = async {
        connection.flushed().await;
        // Closed at once, a socket with unread bytes may take the close frame back from the other end.
        if end != Some(End::Closed) {
            connection.wait_for_hangup().await;
        }
    };
    if end != Some(End::Gone) && !connection.is_broken() {
        let _ = timeout(Duration::from_millis(CLOSE_TIMEOUT_MS), goodbye).await;
    }
    connection.abandon();
}

impl HubDriver {
    pub(super) fn send_to_client(self: &Rc<Self>, client: ClientId, text: Text) {
        // Gone already, and the logic is about to next_text it.
        let Some(connection) = self.clients.connections.borrow().get(&client).map(Rc::clone) else { return };
        if let Err(overflow) = connection.push(text) {
            self.close_slow_client(client, overflow);
        }
    }

    /// Closes every client's connection after what waits for it; the logic is not told.
    pub(super) fn close_all(&self) -> Vec<Rc<WsConnection>> {
        let connections: Vec<Rc<WsConnection>> = self.clients.connections.take().into_values().collect();
        for connection in &connections {
            connection.close(GOING_AWAY, "the gateway is shutting down");
        }
        connections
    }

    fn close_slow_client(self: &Rc<Self>, client: ClientId, overflow: Overflow) {
        let Some(connection) = self.clients.remove(client) else { return };
        let Overflow { messages, bytes } = overflow;
        let (whole, tenth) = (bytes / 1_000_000, bytes % 1_000_000 / 100_000);
        let why = format!(
            "slow reader: {messages} messages ({whole}.{tenth} MB) unread; reconnect and resume the thread"
        );
        connection.cut(TRY_AGAIN_LATER, &why);
        self.note_cut(client, &why);
        self.has_left(client);
    }

    /// The task of a client has come to the end.
    fn ended(self: &Rc<Self>, client: ClientId, connection: &Rc<WsConnection>, end: Option<End>) {
        match end {
            Some(End::Full(overflow)) => return self.close_slow_client(client, overflow),
            Some(End::Faulty(fault)) => {
                connection.cut(fault.code, fault.reason);
                self.note_cut(client, fault.reason);
            }
            Some(End::Closed) => connection.close(1000, ""),
            Some(End::Gone) | None => {}
        }
        if self.clients.remove(client).is_some() {
            self.has_left(client);
        }
    }

    fn has_left(self: &Rc<Self>, client: ClientId) {
        self.feed(Event::ClientDisconnected(client));
        if !self.trim_is_due.replace(true) {
            let driver = self.clone();
            tokio::task::spawn_local(async move {
                tokio::time::sleep(Duration::from_millis(TRIM_AFTER_MS)).await;
                driver.trim_is_due.set(false);
                driver.host_commands.give(HostCommand::TrimMemory);
            });
        }
    }

    fn note_cut(&self, client: ClientId, why: &str) {
        let message = format!("disconnected client {}: {why}", client.0);
        self.host_commands.note(
            EventLevel::Warn,
            "client.cut",
            message,
            json!({"client": client.0, "why": why}),
        );
    }
}
