//! The clients: who they are, what they say, how they are told, how they leave.
//!
//! The brain hears of a client once that it came and once that it left, whoever ended it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;
use std::time::Duration;

use codexd_core::contract::EventLevel;
use serde_json::json;
use tokio::time::timeout;

use super::driver::Driver;
use super::line::{End, Line, Read, Ready, Side};
use super::outbox::Overflow;
use super::stream::Stream;
use crate::hub::{ClientId, Event, Text};
use crate::limits::{CLIENT_READ_BYTES, CLOSE_TIMEOUT_MS};
use codexd_protocol::websocket::Fault;

const GOING_AWAY: u16 = 1001;
const POLICY: u16 = 1008;
const TRY_AGAIN_LATER: u16 = 1013;

/// The clients that are connected.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    lines: RefCell<HashMap<ClientId, Rc<Line>, BuildHasherDefault<Spread>>>,
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
        if let Some(line) = self.lines.borrow().get(&client) {
            line.wake();
        }
    }

    pub(super) fn admit(&self, client: ClientId) {
        if let Some(line) = self.lines.borrow().get(&client) {
            line.admit();
        }
    }

    /// Whether a connection whose messages go to a client is to be read.
    pub(super) fn has_room_for(&self, client: ClientId, source: &Rc<Line>) -> bool {
        self.lines.borrow().get(&client).is_none_or(|line| line.has_room_for(source))
    }

    fn add(&self, line: Rc<Line>) -> ClientId {
        let client = ClientId(self.count.get() + 1);
        self.count.set(client.0);
        self.lines.borrow_mut().insert(client, line);
        client
    }

    fn remove(&self, client: ClientId) -> Option<Rc<Line>> {
        self.lines.borrow_mut().remove(&client)
    }
}

/// Waits until a client has had time enough to send `initialize`, and has not.
async fn no_initialize(driver: &Driver, client: ClientId, within: Duration) -> End {
    tokio::time::sleep(within).await;
    if driver.has_initialized(client) {
        std::future::pending::<()>().await;
    }
    End::Faulty(Fault { code: POLICY, reason: "no initialize in time" })
}

/// Serves a client that has shaken hands until it is gone, or has not sent `initialize` within a time, if there is one. `read`
/// is what came behind the handshake. One that has shown no token may be closed until it introduces itself: `unintroduced` is
/// its number among those.
pub(crate) async fn serve(
    driver: Rc<Driver>,
    stream: Stream,
    read: Vec<u8>,
    initialize_within: Option<Duration>,
    unintroduced: Option<u64>,
) {
    let line = Line::new(stream, Side::Server, Rc::clone(&driver.writer));
    let client = driver.clients.add(Rc::clone(&line));
    if let Some(serial) = unintroduced {
        driver.unintroduced.is_silent(serial, client, Rc::clone(&line));
    }
    driver.feed(Event::ClientConnected(client));
    let end = match line.take(&read, |text| driver.feed(Event::ClientMessage(client, text))) {
        Ok(()) => {
            drop(read);
            match initialize_within {
                None => listen(&driver, client, &line).await,
                Some(within) => {
                    Box::pin(async {
                        tokio::select! {
                            end = listen(&driver, client, &line) => end,
                            end = no_initialize(&driver, client, within) => Some(end),
                        }
                    })
                    .await
                }
            }
        }
        Err(end) => Some(end),
    };
    driver.ended(client, &line, end);
    unintroduced.inspect(|serial| driver.unintroduced.remove(*serial));
    drop(driver);
    say_goodbye(&line, end).await;
}

/// Reads until the end. `None` when it came from this side.
async fn listen(driver: &Rc<Driver>, client: ClientId, line: &Rc<Line>) -> Option<End> {
    loop {
        match line.ready(|| driver.hears(client)).await {
            Ready::Readable => {}
            Ready::Room => continue,
            Ready::Ended => return None,
        }
        let read = {
            let mut buffer = driver.read_buffer.borrow_mut();
            let room = CLIENT_READ_BYTES.min(buffer.len());
            line.read(&mut buffer[..room], |text| driver.feed(Event::ClientMessage(client, text)))
        };
        match read {
            Ok(Read::All) => {}
            Ok(Read::More) => tokio::task::yield_now().await,
            Err(end) => return Some(end),
        }
    }
}

async fn say_goodbye(line: &Rc<Line>, end: Option<End>) {
    let goodbye = async {
        line.flushed().await;
        // Closed at once, a socket with unread bytes may take the close frame back from the other end.
        if end != Some(End::Closed) {
            line.hung_up().await;
        }
    };
    if end != Some(End::Gone) && !line.is_broken() {
        let _ = timeout(Duration::from_millis(CLOSE_TIMEOUT_MS), goodbye).await;
    }
    line.abandon();
}

impl Driver {
    pub(super) fn tell(self: &Rc<Self>, client: ClientId, text: Text) {
        // Gone already, and the brain is about to hear it.
        let Some(line) = self.clients.lines.borrow().get(&client).map(Rc::clone) else { return };
        if let Err(overflow) = line.push(text) {
            self.cut_slow(client, overflow);
        }
    }

    /// Closes every client's connection after what waits for it; the brain is not told.
    pub(super) fn send_all_away(&self) -> Vec<Rc<Line>> {
        let lines: Vec<Rc<Line>> = self.clients.lines.take().into_values().collect();
        for line in &lines {
            line.close(GOING_AWAY, "codexd is going away");
        }
        lines
    }

    fn cut_slow(self: &Rc<Self>, client: ClientId, overflow: Overflow) {
        let Some(line) = self.clients.remove(client) else { return };
        let Overflow { messages, bytes } = overflow;
        let (whole, tenth) = (bytes / 1_000_000, bytes % 1_000_000 / 100_000);
        let why = format!(
            "slow reader: {messages} messages ({whole}.{tenth} MB) unread; reconnect and resume the thread"
        );
        line.cut(TRY_AGAIN_LATER, &why);
        self.note_cut(client, &why);
        self.feed(Event::ClientDisconnected(client));
    }

    /// The task of a client has come to the end.
    fn ended(self: &Rc<Self>, client: ClientId, line: &Rc<Line>, end: Option<End>) {
        match end {
            Some(End::Full(overflow)) => return self.cut_slow(client, overflow),
            Some(End::Faulty(fault)) => {
                line.cut(fault.code, fault.reason);
                self.note_cut(client, fault.reason);
            }
            Some(End::Closed) => line.close(1000, ""),
            Some(End::Gone) | None => {}
        }
        if self.clients.remove(client).is_some() {
            self.feed(Event::ClientDisconnected(client));
        }
    }

    fn note_cut(&self, client: ClientId, why: &str) {
        let message = format!("client {} was cut: {why}", client.0);
        self.orders.note(EventLevel::Warn, "client.cut", message, json!({"client": client.0, "why": why}));
    }
}
