//! The task of a client: reads its messages until one end closes the connection.
//!
//! The hub gets one [`Event::ClientConnected`] and one [`Event::ClientDisconnected`] per client, whichever end closes.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::timeout;

use super::client_disconnect::disconnected;
use super::close_code;
use super::connection::{End, Peer, Read, Ready, WsConnection};
use super::event_log;
use super::shell_context::ShellContext;
use super::slow_client::close_slow_client;
use super::stream::Stream;
use crate::hub::{ClientId, Event};
use crate::limits::CLOSE_TIMEOUT_MS;
use codexd_protocol::websocket::Fault;

/// Serves a client after the WebSocket handshake. `read` holds the bytes that followed the handshake. A client that has not
/// sent `initialize` within `initialize_within` is closed. `uninitialized` is its number among the connections of the control
/// socket without `initialize`, which may be closed to make room.
pub(super) async fn serve(
    shell: Rc<ShellContext>,
    stream: Stream,
    read: Vec<u8>,
    initialize_within: Option<Duration>,
    uninitialized: Option<u64>,
) {
    let connection = WsConnection::new(stream, Peer::Client, Rc::clone(&shell.write_queue));
    let client = shell.clients.add(Rc::clone(&connection));
    if let Some(serial) = uninitialized {
        shell.uninitialized.set_silent(serial, client, Rc::clone(&connection));
    }
    shell.feed(Event::ClientConnected(client));
    let end = match connection.take(&read, |text| shell.feed(Event::ClientMessage(client, text))) {
        Ok(()) => {
            drop(read);
            match initialize_within {
                None => listen(&shell, client, &connection).await,
                Some(within) => {
                    Box::pin(async {
                        tokio::select! {
                            end = listen(&shell, client, &connection) => end,
                            end = no_initialize(&shell, client, within) => Some(end),
                        }
                    })
                    .await
                }
            }
        }
        Err(end) => Some(end),
    };
    close(&shell, client, &connection, end);
    uninitialized.inspect(|serial| shell.uninitialized.remove(*serial));
    drop(shell);
    finish_closing(&connection, end).await;
}

/// Lifts the limits of a client that has sent `initialize`.
pub(super) fn admit(shell: &ShellContext, client: ClientId) {
    shell.uninitialized.remove_client(client);
    if let Some(connection) = shell.clients.get(client) {
        connection.admit();
    }
}

/// Closes the connections of all clients after their pending output. The hub is not informed.
pub(super) fn close_all(shell: &ShellContext) -> Vec<Rc<WsConnection>> {
    let connections = shell.clients.take_all();
    for connection in &connections {
        connection.close(close_code::GOING_AWAY, "the gateway is shutting down");
    }
    connections
}

/// Returns when the time is over and the client has not sent `initialize`.
async fn no_initialize(shell: &ShellContext, client: ClientId, within: Duration) -> End {
    tokio::time::sleep(within).await;
    if shell.has_initialized(client) {
        std::future::pending::<()>().await;
    }
    End::Faulty(Fault { code: close_code::POLICY_VIOLATION, reason: "no initialize in time" })
}

/// Reads until the end; `None` when this end closed the connection.
async fn listen(shell: &Rc<ShellContext>, client: ClientId, connection: &Rc<WsConnection>) -> Option<End> {
    let mut turns = shell.read_turns.of_a_client();
    loop {
        match connection.ready(|| shell.wants_input(client)).await {
            Ready::Readable => {}
            Ready::Room => continue,
            Ready::Ended => return None,
        }
        let read = {
            let mut buffer = shell.read_buffer.borrow_mut();
            let room = turns.bytes().min(buffer.len());
            connection.read(&mut buffer[..room], |text| shell.feed(Event::ClientMessage(client, text)))
        };
        turns.set_has_more(read == Ok(Read::More));
        match read {
            Ok(Read::All) => {}
            Ok(Read::More) => tokio::task::yield_now().await,
            Err(end) => return Some(end),
        }
    }
}

fn close(shell: &Rc<ShellContext>, client: ClientId, connection: &Rc<WsConnection>, end: Option<End>) {
    match end {
        Some(End::Full(overflow)) => return close_slow_client(shell, client, overflow),
        Some(End::Faulty(fault)) => {
            connection.cut(fault.code, fault.reason);
            shell.host_commands.log(event_log::client_cut(client, fault.reason));
        }
        Some(End::Closed) => connection.close(close_code::NORMAL, ""),
        Some(End::Gone) | None => {}
    }
    if shell.clients.remove(client).is_some() {
        disconnected(shell, client);
    }
}

async fn finish_closing(connection: &Rc<WsConnection>, end: Option<End>) {
    let closing = async {
        connection.flushed().await;
        // If a socket is closed with unread input, the kernel resets the connection and the peer may lose the close frame.
        if end != Some(End::Closed) {
            connection.wait_for_hangup().await;
        }
    };
    if end != Some(End::Gone) && !connection.is_broken() {
        let _ = timeout(Duration::from_millis(CLOSE_TIMEOUT_MS), closing).await;
    }
    connection.abandon();
}
