//! What follows when a client has disconnected.

use std::rc::Rc;
use std::time::Duration;

use super::shell_context::ShellContext;
use crate::host::HostCommand;
use crate::hub::{ClientId, Event};
use crate::limits::TRIM_AFTER_MS;

/// Informs the hub and, once for all clients that disconnect within a time, has free memory returned to the system.
pub(super) fn disconnected(shell: &Rc<ShellContext>, client: ClientId) {
    shell.feed(Event::ClientDisconnected(client));
    if !shell.trim_is_due.replace(true) {
        let shell = Rc::clone(shell);
        tokio::task::spawn_local(async move {
            tokio::time::sleep(Duration::from_millis(TRIM_AFTER_MS)).await;
            shell.trim_is_due.set(false);
            shell.host_commands.push(HostCommand::TrimMemory);
        });
    }
}
