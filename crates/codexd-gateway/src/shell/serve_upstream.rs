//! The task of a connection to an app-server: opens it, sends and reads until it is closed.

use std::io::ErrorKind;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::connection::{End, Read, Ready, WsConnection};
use super::event_log;
use super::read_coalescing::ReadBudget;
use super::shell_context::ShellContext;
use super::upstream_handshake::{self, Answer};
use crate::hub::{Connection, Event, ServerId, Text};
use crate::limits::{CLOSE_TIMEOUT_MS, INITIALIZE_TIMEOUT_MS};

const INITIALIZED: Text = Text::from_static(r#"{"method":"initialized"}"#);

/// Starts to open a connection.
pub(super) fn connect(shell: &Rc<ShellContext>, key: Connection, initialize: Text) {
    let serial = shell.upstream.next_serial();
    let task = tokio::task::spawn_local(run(Rc::clone(shell), key, serial, initialize));
    shell.upstream.add(key, serial, task.abort_handle());
}

/// Queues a message for an app-server. A connection whose outbox overflows is lost.
pub(super) fn send_upstream(shell: &Rc<ShellContext>, key: Connection, text: Text) {
    // The connection is lost, and the event is still queued.
    let Some(connection) = shell.upstream.get(key) else { return };
    if connection.push(text).is_err() {
        connection.abandon();
        shell.upstream.take(key);
        shell.feed(Event::ConnectionLost(key));
        return;
    }
    connection.resume_reading();
    if connection.became_full() {
        shell.feed(Event::ConnectionFull(key));
    }
}

/// Closes the connections to an app-server that has exited. What it sent before is still read: it may hold the end of a
/// turn.
pub(super) fn lose_connections_of(shell: &Rc<ShellContext>, server: ServerId) {
    for key in shell.upstream.to_server(server) {
        if let Some(connection) = shell.upstream.get(key) {
            let mut buffer = shell.read_buffer.borrow_mut();
            connection.read_last(&mut buffer, |text| shell.feed(Event::ConnectionMessage(key, text)));
        }
        // A message may have closed the connection.
        let Some(entry) = shell.upstream.take(key) else { continue };
        entry.abandon();
        shell.feed(Event::ConnectionLost(key));
    }
}

/// What a read brought.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum ReadOutcome {
    /// No complete message.
    Nothing,
    /// Only notifications and server requests: no client waits for them.
    Notifications,
    /// Responses too.
    Responses,
}

async fn run(shell: Rc<ShellContext>, key: Connection, serial: u64, initialize: Text) {
    let limit = Duration::from_millis(INITIALIZE_TIMEOUT_MS);
    let socket = shell.servers.borrow().socket(key.server());
    let opened = match socket {
        Some(socket) => Box::pin(timeout(limit, upstream_handshake::open(&shell, &socket, initialize))).await,
        None => Ok(Err(ErrorKind::NotFound.into())),
    };
    // The last descriptors are reserved for the gateway itself.
    let is_reserved = |connection: &WsConnection| {
        matches!(key, Connection::Dedicated(..))
            && shell.uninitialized.is_gateway_only(connection.descriptor())
    };
    let (connection, answer, early) = match opened {
        Ok(Ok(opened)) if !is_reserved(&opened.0) => opened,
        failed => {
            if shell.upstream.remove(key, serial) {
                let is_late = failed.is_err();
                shell.feed(if is_late { Event::InitializeTimedOut(key) } else { Event::ConnectionLost(key) });
            }
            return;
        }
    };
    match answer {
        Answer::Refusal(error) => {
            connection.abandon();
            if shell.upstream.remove(key, serial) {
                shell.feed(Event::InitializeRefused(key, error));
            }
            return;
        }
        Answer::Result(result) => {
            if connection.push(INITIALIZED).is_ok() && shell.upstream.set_open(key, serial, &connection) {
                shell.feed(Event::ConnectionOpened(key, result));
                early.into_iter().for_each(|text| shell.feed(Event::ConnectionMessage(key, text)));
                listen(&shell, key, &connection).await;
            }
        }
    }
    if shell.upstream.remove(key, serial) {
        connection.abandon();
        shell.feed(Event::ConnectionLost(key));
    }
    // If this end closed the connection, its pending output is still to be written.
    let _ = timeout(Duration::from_millis(CLOSE_TIMEOUT_MS), connection.flushed()).await;
    connection.abandon();
}

async fn listen(shell: &Rc<ShellContext>, key: Connection, connection: &Rc<WsConnection>) {
    let mut read_budget = ReadBudget::new(Instant::now());
    loop {
        match connection.ready(|| has_room_for(shell, key, connection)).await {
            Ready::Readable => {}
            Ready::Room => {
                shell.feed(Event::ConnectionWritable(key));
                continue;
            }
            Ready::Ended => return,
        }
        match read(shell, key, connection) {
            (Ok(Read::All), ReadOutcome::Notifications) => {
                if let Some(pause) = read_budget.count(Instant::now()) {
                    connection.pause(pause, || shell.awaits(key)).await;
                }
            }
            (Ok(Read::All), ReadOutcome::Nothing | ReadOutcome::Responses) => {}
            // The messages that follow from this read are written before the next read.
            (Ok(Read::More), _) => tokio::task::yield_now().await,
            (Err(_), _) => return,
        }
    }
}

/// Whether to read a connection. A dedicated connection is not read while the outbox of its client is full.
fn has_room_for(shell: &ShellContext, key: Connection, connection: &Rc<WsConnection>) -> bool {
    match key {
        Connection::Shared(_) => true,
        Connection::Dedicated(client, _) => shell.clients.has_room_for(client, connection),
    }
}

/// Reads once.
fn read(
    shell: &Rc<ShellContext>,
    key: Connection,
    connection: &Rc<WsConnection>,
) -> (Result<Read, End>, ReadOutcome) {
    let mut buffer = shell.read_buffer.borrow_mut();
    let mut outcome = ReadOutcome::Nothing;
    let read = connection.read(&mut buffer, |text| {
        // The app-server writes the method first in every message that is no response.
        let is_notification = text.starts_with(r#"{"method""#);
        outcome = if is_notification && outcome != ReadOutcome::Responses {
            ReadOutcome::Notifications
        } else {
            ReadOutcome::Responses
        };
        shell.feed(Event::ConnectionMessage(key, text));
    });
    if let Some(bytes) = connection.take_dropped() {
        shell.host_commands.log(event_log::message_dropped(bytes));
    }
    (read, outcome)
}
