//! Sends to a client, and closes a client that does not read.

use std::rc::Rc;

use super::client_disconnect::disconnected;
use super::close_code::TRY_AGAIN_LATER;
use super::event_log;
use super::outbox::Overflow;
use super::shell_context::ShellContext;
use crate::hub::{ClientId, Text};

/// Queues a message for a client. A client whose outbox is full is closed.
pub(super) fn send_to_client(shell: &Rc<ShellContext>, client: ClientId, text: Text) {
    // The client has disconnected, and the event is still queued.
    let Some(connection) = shell.clients.get(client) else { return };
    if let Err(overflow) = connection.push(text) {
        close_slow_client(shell, client, overflow);
    }
}

/// Drops the client's pending output and closes the connection with a reason.
pub(super) fn close_slow_client(shell: &Rc<ShellContext>, client: ClientId, overflow: Overflow) {
    let Some(connection) = shell.clients.remove(client) else { return };
    let Overflow { messages, bytes } = overflow;
    let (whole, tenth) = (bytes / 1_000_000, bytes % 1_000_000 / 100_000);
    let reason = format!(
        "slow reader: {messages} messages ({whole}.{tenth} MB) unread; reconnect and resume the thread"
    );
    connection.cut(TRY_AGAIN_LATER, &reason);
    shell.host_commands.log(event_log::client_cut(client, &reason));
    disconnected(shell, client);
}
