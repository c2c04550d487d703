//! The connections to app-servers.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use codexd_core::contract::EventLevel;
use serde_json::json;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::connection::{End, Read, Ready, WsConnection};
use super::event_loop::HubDriver;
use super::read_coalescing::ReadBudget;
use super::upstream_handshake::{self, Answer};
use crate::hub::{Connection, Event, ServerId, Text};
use crate::limits::{
    CLOSE_TIMEOUT_MS, INITIALIZE_TIMEOUT_MS, PROBE_FIRST_WAIT_MS, PROBE_LAST_WAIT_MS, PROBE_YOUNG_MS,
    PROBE_YOUNG_WAIT_MS, UPSTREAM_MESSAGE_BYTES_MAX,
};

const INITIALIZED: Text = Text::from_static(r#"{"method":"initialized"}"#);
const NORMAL: u16 = 1000;

/// The links that are open or being opened.
#[derive(Debug, Default)]
pub(crate) struct UpstreamConnections {
    entries: RefCell<HashMap<Connection, Entry>>,
    count: Cell<u64>,
}

#[derive(Debug)]
struct Entry {
    /// Tells it from one of the same name before it or after it.
    serial: u64,
    /// Not before it is up.
    connection: Option<Rc<WsConnection>>,
    task: AbortHandle,
}

impl Entry {
    /// Closes it in order, or gives it up if it is not open yet.
    fn close(self) {
        match self.connection {
            Some(connection) => connection.close(NORMAL, ""),
            None => self.task.abort(),
        }
    }
}

impl UpstreamConnections {
    /// Closes a link after what waits on it.
    pub(super) fn close(&self, link: Connection) {
        if let Some(entry) = self.entries.borrow_mut().remove(&link) {
            entry.close();
        }
    }

    fn connection(&self, link: Connection) -> Option<Rc<WsConnection>> {
        self.entries.borrow().get(&link)?.connection.clone()
    }

    /// Removes a link if it is still the one that was meant.
    fn remove(&self, link: Connection, serial: u64) -> Option<Entry> {
        let mut entries = self.entries.borrow_mut();
        if entries.get(&link)?.serial != serial {
            return None;
        }
        entries.remove(&link)
    }

    /// Puts the connection in place; false if the link was closed meanwhile.
    fn up(&self, link: Connection, serial: u64, connection: &Rc<WsConnection>) -> bool {
        match self.entries.borrow_mut().get_mut(&link) {
            Some(entry) if entry.serial == serial => {
                entry.connection = Some(Rc::clone(connection));
                true
            }
            _ => false,
        }
    }
}

impl HubDriver {
    /// Begins to open a link.
    pub(super) fn connect(self: &Rc<Self>, link: Connection, initialize: Text) {
        let serial = self.upstream.count.get() + 1;
        self.upstream.count.set(serial);
        let task = tokio::task::spawn_local(run(Rc::clone(self), link, serial, initialize)).abort_handle();
        let before =
            self.upstream.entries.borrow_mut().insert(link, Entry { serial, connection: None, task });
        if let Some(before) = before {
            before.close();
        }
    }

    pub(super) fn send_upstream(self: &Rc<Self>, link: Connection, text: Text) {
        // Lost already, and the logic is about to next_text it.
        let Some(connection) = self.upstream.connection(link) else { return };
        if connection.push(text).is_err() {
            connection.abandon();
            self.upstream.entries.borrow_mut().remove(&link);
            self.feed(Event::ConnectionLost(link));
            return;
        }
        connection.resume_reading();
        if connection.became_full() {
            self.feed(Event::ConnectionFull(link));
        }
    }

    /// Whether a link is to be read: a dedicated one is not while too much waits for its client.
    fn has_room_for(&self, link: Connection, connection: &Rc<WsConnection>) -> bool {
        match link {
            Connection::Shared(_) => true,
            Connection::Dedicated(client, _) => self.clients.has_room_for(client, connection),
        }
    }

    /// The app-server is gone. What it said before is still taken: the end of a turn may be in there.
    pub(super) fn lose_connections_of(self: &Rc<Self>, server: ServerId) {
        let mut lost: Vec<Connection> =
            self.upstream.entries.borrow().keys().copied().filter(|link| link.server() == server).collect();
        lost.sort_unstable();
        for link in lost {
            if let Some(connection) = self.upstream.connection(link) {
                let mut buffer = self.read_buffer.borrow_mut();
                connection.read_last(&mut buffer, |text| self.feed(Event::ConnectionMessage(link, text)));
            }
            // What was read may have closed it.
            let Some(entry) = self.upstream.entries.borrow_mut().remove(&link) else { continue };
            if let Some(connection) = &entry.connection {
                connection.abandon();
            }
            entry.task.abort();
            self.feed(Event::ConnectionLost(link));
        }
    }

    /// Reads once.
    fn read(
        self: &Rc<Self>,
        link: Connection,
        connection: &Rc<WsConnection>,
    ) -> (Result<Read, End>, ReadOutcome) {
        let mut buffer = self.read_buffer.borrow_mut();
        let mut heard = ReadOutcome::Nothing;
        let read = connection.read(&mut buffer, |text| {
            // Upstream begins what is not an answer with the method.
            let is_told = text.starts_with(r#"{"method""#);
            heard = if is_told && heard != ReadOutcome::Answers {
                ReadOutcome::Notifications
            } else {
                ReadOutcome::Answers
            };
            self.feed(Event::ConnectionMessage(link, text));
        });
        if let Some(bytes) = connection.take_dropped() {
            let message = format!(
                "dropped a message of the app-server that belongs to no request: {bytes} bytes exceed the limit of {} MiB",
                UPSTREAM_MESSAGE_BYTES_MAX / (1024 * 1024)
            );
            self.host_commands.note(EventLevel::Warn, "message.dropped", message, json!({"bytes": bytes}));
        }
        (read, heard)
    }
}

/// What a read of a link brought.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum ReadOutcome {
    /// Nothing that is whole.
    Nothing,
    /// Notifications and questions: nobody waits for them.
    Notifications,
    /// Answers too.
    Answers,
}

/// A link, from the connecting to the end.
async fn run(driver: Rc<HubDriver>, link: Connection, serial: u64, initialize: Text) {
    let limit = Duration::from_millis(INITIALIZE_TIMEOUT_MS);
    let socket = driver.servers.borrow().socket(link.server());
    let opened = match socket {
        Some(socket) => {
            Box::pin(timeout(limit, upstream_handshake::open(&driver, &socket, initialize))).await
        }
        None => Ok(Err(std::io::ErrorKind::NotFound.into())),
    };
    // One that is left for the gateway itself is not for a client's dedicated connection.
    let is_reserved = |connection: &WsConnection| {
        matches!(link, Connection::Dedicated(..))
            && driver.uninitialized.is_gateway_only(connection.descriptor())
    };
    let (connection, answer, early) = match opened {
        Ok(Ok(opened)) if !is_reserved(&opened.0) => opened,
        failed => {
            if driver.upstream.remove(link, serial).is_some() {
                let is_late = failed.is_err();
                driver.feed(if is_late {
                    Event::InitializeTimedOut(link)
                } else {
                    Event::ConnectionLost(link)
                });
            }
            return;
        }
    };
    match answer {
        Answer::Refusal(error) => {
            connection.abandon();
            if driver.upstream.remove(link, serial).is_some() {
                driver.feed(Event::InitializeRefused(link, error));
            }
            return;
        }
        Answer::Result(result) => {
            if connection.push(INITIALIZED).is_ok() && driver.upstream.up(link, serial, &connection) {
                driver.feed(Event::ConnectionOpened(link, result));
                early.into_iter().for_each(|text| driver.feed(Event::ConnectionMessage(link, text)));
                listen(&driver, link, &connection).await;
            }
        }
    }
    if driver.upstream.remove(link, serial).is_some() {
        connection.abandon();
        driver.feed(Event::ConnectionLost(link));
    }
    // Closed from this peer: what was said before is still to go out.
    let _ = timeout(Duration::from_millis(CLOSE_TIMEOUT_MS), connection.flushed()).await;
    connection.abandon();
}

async fn listen(driver: &Rc<HubDriver>, link: Connection, connection: &Rc<WsConnection>) {
    let mut read_budget = ReadBudget::new(Instant::now());
    loop {
        match connection.ready(|| driver.has_room_for(link, connection)).await {
            Ready::Readable => {}
            Ready::Room => {
                driver.feed(Event::ConnectionWritable(link));
                continue;
            }
            Ready::Ended => return,
        }
        match driver.read(link, connection) {
            (Ok(Read::All), ReadOutcome::Notifications) => {
                if let Some(pause) = read_budget.count(Instant::now()) {
                    connection.rest(pause, || driver.awaits(link)).await;
                }
            }
            (Ok(Read::All), ReadOutcome::Nothing | ReadOutcome::Answers) => {}
            // Before the next read, what this one led to is written.
            (Ok(Read::More), _) => tokio::task::yield_now().await,
            (Err(_), _) => return,
        }
    }
}

/// Asks an app-server for its first answer until it comes. Whoever ends the app-server ends this.
pub(super) async fn probe_readiness(driver: Rc<HubDriver>, server: ServerId) {
    let limit = Duration::from_millis(INITIALIZE_TIMEOUT_MS);
    let began = tokio::time::Instant::now();
    let mut wait = PROBE_FIRST_WAIT_MS;
    loop {
        let socket = driver.servers.borrow().socket(server);
        let Some(socket) = socket else { return };
        // Listened for first, tried second: nothing comes in between.
        let changed = driver.sockets_changed.notified();
        let opened = Box::pin(timeout(
            limit,
            upstream_handshake::open(&driver, &socket, upstream_handshake::readiness_probe()),
        ))
        .await;
        if let Ok(Ok((connection, Answer::Result(result), _))) = opened {
            connection.close(NORMAL, "");
            driver.feed(Event::ProbeAnswered(server, result));
            let _ = timeout(Duration::from_millis(CLOSE_TIMEOUT_MS), connection.flushed()).await;
            return;
        }
        tokio::select! {
            () = changed => wait = PROBE_FIRST_WAIT_MS,
            () = tokio::time::sleep(Duration::from_millis(wait)) => {
                // One that has just been started answers soon, and clients wait for it.
                let is_young = began.elapsed() < Duration::from_millis(PROBE_YOUNG_MS);
                let longest = if is_young { PROBE_YOUNG_WAIT_MS } else { PROBE_LAST_WAIT_MS };
                wait = (wait * 2).min(longest);
            }
        }
    }
}
