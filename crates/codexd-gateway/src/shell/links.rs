//! The connections to app-servers.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use codexd_core::contract::EventLevel;
use serde_json::json;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::driver::Driver;
use super::line::{End, Line, Read, Ready};
use super::open::{self, Answer};
use super::pace::Pace;
use crate::hub::{Connection, Event, ServerId, Text};
use crate::limits::{
    CLOSE_TIMEOUT_MS, GREET_FIRST_WAIT_MS, GREET_HASTE_MS, GREET_HASTY_WAIT_MS, GREET_LAST_WAIT_MS,
    INITIALIZE_TIMEOUT_MS, UPSTREAM_MESSAGE_BYTES_MAX,
};

const INITIALIZED: Text = Text::from_static(r#"{"method":"initialized"}"#);
const NORMAL: u16 = 1000;

/// The links that are open or being opened.
#[derive(Debug, Default)]
pub(crate) struct Links {
    entries: RefCell<HashMap<Connection, Entry>>,
    count: Cell<u64>,
}

#[derive(Debug)]
struct Entry {
    /// Tells it from one of the same name before it or after it.
    serial: u64,
    /// Not before it is up.
    line: Option<Rc<Line>>,
    task: AbortHandle,
}

impl Entry {
    /// Closes it in order, or gives it up if it is not open yet.
    fn close(self) {
        match self.line {
            Some(line) => line.close(NORMAL, ""),
            None => self.task.abort(),
        }
    }
}

impl Links {
    /// Closes a link after what waits on it.
    pub(super) fn close(&self, link: Connection) {
        if let Some(entry) = self.entries.borrow_mut().remove(&link) {
            entry.close();
        }
    }

    fn line(&self, link: Connection) -> Option<Rc<Line>> {
        self.entries.borrow().get(&link)?.line.clone()
    }

    /// Removes a link if it is still the one that was meant.
    fn remove(&self, link: Connection, serial: u64) -> Option<Entry> {
        let mut entries = self.entries.borrow_mut();
        if entries.get(&link)?.serial != serial {
            return None;
        }
        entries.remove(&link)
    }

    /// Puts the line in place; false if the link was closed meanwhile.
    fn up(&self, link: Connection, serial: u64, line: &Rc<Line>) -> bool {
        match self.entries.borrow_mut().get_mut(&link) {
            Some(entry) if entry.serial == serial => {
                entry.line = Some(Rc::clone(line));
                true
            }
            _ => false,
        }
    }
}

impl Driver {
    /// Begins to open a link.
    pub(super) fn connect(self: &Rc<Self>, link: Connection, initialize: Text) {
        let serial = self.links.count.get() + 1;
        self.links.count.set(serial);
        let task = tokio::task::spawn_local(run(Rc::clone(self), link, serial, initialize)).abort_handle();
        let before = self.links.entries.borrow_mut().insert(link, Entry { serial, line: None, task });
        if let Some(before) = before {
            before.close();
        }
    }

    pub(super) fn say(self: &Rc<Self>, link: Connection, text: Text) {
        // Lost already, and the brain is about to hear it.
        let Some(line) = self.links.line(link) else { return };
        if line.push(text).is_err() {
            line.abandon();
            self.links.entries.borrow_mut().remove(&link);
            self.feed(Event::ConnectionLost(link));
            return;
        }
        line.stir();
        if line.became_full() {
            self.feed(Event::ConnectionFull(link));
        }
    }

    /// Whether a link is to be read: a dedicated one is not while too much waits for its client.
    fn has_room_for(&self, link: Connection, line: &Rc<Line>) -> bool {
        match link {
            Connection::Shared(_) => true,
            Connection::Dedicated(client, _) => self.clients.has_room_for(client, line),
        }
    }

    /// The app-server is gone. What it said before is still taken: the end of a turn may be in there.
    pub(super) fn lose_links_of(self: &Rc<Self>, server: ServerId) {
        let mut lost: Vec<Connection> =
            self.links.entries.borrow().keys().copied().filter(|link| link.server() == server).collect();
        lost.sort_unstable();
        for link in lost {
            if let Some(line) = self.links.line(link) {
                let mut buffer = self.read_buffer.borrow_mut();
                line.read_last(&mut buffer, |text| self.feed(Event::ConnectionMessage(link, text)));
            }
            // What was read may have closed it.
            let Some(entry) = self.links.entries.borrow_mut().remove(&link) else { continue };
            if let Some(line) = &entry.line {
                line.abandon();
            }
            entry.task.abort();
            self.feed(Event::ConnectionLost(link));
        }
    }

    /// Reads once.
    fn read(self: &Rc<Self>, link: Connection, line: &Rc<Line>) -> (Result<Read, End>, Heard) {
        let mut buffer = self.read_buffer.borrow_mut();
        let mut heard = Heard::Nothing;
        let read = line.read(&mut buffer, |text| {
            // Upstream begins what is not an answer with the method.
            let is_told = text.starts_with(r#"{"method""#);
            heard = if is_told && heard != Heard::Answers { Heard::Notes } else { Heard::Answers };
            self.feed(Event::ConnectionMessage(link, text));
        });
        if let Some(bytes) = line.take_dropped() {
            let message = format!(
                "a message of the app-server that belongs to no request was dropped: {bytes} bytes, more than the {} MiB that \
                 codexd passes on",
                UPSTREAM_MESSAGE_BYTES_MAX / (1024 * 1024)
            );
            self.orders.note(EventLevel::Warn, "message.dropped", message, json!({"bytes": bytes}));
        }
        (read, heard)
    }
}

/// What a read of a link brought.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Heard {
    /// Nothing that is whole.
    Nothing,
    /// Notifications and questions: nobody waits for them.
    Notes,
    /// Answers too.
    Answers,
}

/// A link, from the connecting to the end.
async fn run(driver: Rc<Driver>, link: Connection, serial: u64, initialize: Text) {
    let patience = Duration::from_millis(INITIALIZE_TIMEOUT_MS);
    let socket = driver.servers.borrow().socket(link.server());
    let opened = match socket {
        Some(socket) => Box::pin(timeout(patience, open::open(&driver, &socket, initialize))).await,
        None => Ok(Err(std::io::ErrorKind::NotFound.into())),
    };
    // One that is left for the gateway itself is not for a client's dedicated connection.
    let is_reserved = |line: &Line| {
        matches!(link, Connection::Dedicated(..)) && driver.unintroduced.is_of_the_gateway(line.descriptor())
    };
    let (line, answer, early) = match opened {
        Ok(Ok(opened)) if !is_reserved(&opened.0) => opened,
        failed => {
            if driver.links.remove(link, serial).is_some() {
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
            line.abandon();
            if driver.links.remove(link, serial).is_some() {
                driver.feed(Event::InitializeRefused(link, error));
            }
            return;
        }
        Answer::Result(result) => {
            if line.push(INITIALIZED).is_ok() && driver.links.up(link, serial, &line) {
                driver.feed(Event::ConnectionOpened(link, result));
                early.into_iter().for_each(|text| driver.feed(Event::ConnectionMessage(link, text)));
                listen(&driver, link, &line).await;
            }
        }
    }
    if driver.links.remove(link, serial).is_some() {
        line.abandon();
        driver.feed(Event::ConnectionLost(link));
    }
    // Closed from this side: what was said before is still to go out.
    let _ = timeout(Duration::from_millis(CLOSE_TIMEOUT_MS), line.flushed()).await;
    line.abandon();
}

async fn listen(driver: &Rc<Driver>, link: Connection, line: &Rc<Line>) {
    let mut pace = Pace::new(Instant::now());
    loop {
        match line.ready(|| driver.has_room_for(link, line)).await {
            Ready::Readable => {}
            Ready::Room => {
                driver.feed(Event::ConnectionWritable(link));
                continue;
            }
            Ready::Ended => return,
        }
        match driver.read(link, line) {
            (Ok(Read::All), Heard::Notes) => {
                if let Some(pause) = pace.count(Instant::now()) {
                    line.rest(pause, || driver.awaits(link)).await;
                }
            }
            (Ok(Read::All), Heard::Nothing | Heard::Answers) => {}
            // Before the next read, what this one led to is written.
            (Ok(Read::More), _) => tokio::task::yield_now().await,
            (Err(_), _) => return,
        }
    }
}

/// Asks an app-server for its first answer until it comes. Whoever ends the app-server ends this.
pub(super) async fn greet(driver: Rc<Driver>, server: ServerId) {
    let patience = Duration::from_millis(INITIALIZE_TIMEOUT_MS);
    let began = tokio::time::Instant::now();
    let mut wait = GREET_FIRST_WAIT_MS;
    loop {
        let socket = driver.servers.borrow().socket(server);
        let Some(socket) = socket else { return };
        // Listened for first, tried second: nothing comes in between.
        let changed = driver.sockets_changed.notified();
        let opened = Box::pin(timeout(patience, open::open(&driver, &socket, open::greeting()))).await;
        if let Ok(Ok((line, Answer::Result(result), _))) = opened {
            line.close(NORMAL, "");
            driver.feed(Event::ProbeAnswered(server, result));
            let _ = timeout(Duration::from_millis(CLOSE_TIMEOUT_MS), line.flushed()).await;
            return;
        }
        tokio::select! {
            () = changed => wait = GREET_FIRST_WAIT_MS,
            () = tokio::time::sleep(Duration::from_millis(wait)) => {
                // One that has just been started answers soon, and clients wait for it.
                let is_young = began.elapsed() < Duration::from_millis(GREET_HASTE_MS);
                let longest = if is_young { GREET_HASTY_WAIT_MS } else { GREET_LAST_WAIT_MS };
                wait = (wait * 2).min(longest);
            }
        }
    }
}
