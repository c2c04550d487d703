//! The gateway: accepts all clients and connects them to app-servers, which may be replaced meanwhile.
//!
//! [`host`] is the interface to the process that runs it; the gateway does not know which service manager that is. [`hub`]
//! decides, `shell` owns the sockets, [`routes`] is data.

pub mod host;
pub mod hub;
mod limits;
pub mod routes;
mod shell;
pub mod state_writer;

use std::io;

use tokio::sync::mpsc;

use codexd_core::config::SubagentApprovals;
use host::{HostCommand, HostEvent, Listeners, StateStore};
use state_writer::StateWriter;

/// Serves clients until [`HostEvent::Leave`] or until the sender of `host_events` is dropped. Needs a runtime of one thread.
///
/// # Errors
/// The control socket cannot be used.
pub async fn run(
    listeners: Listeners,
    subagent_approvals: SubagentApprovals,
    store: Box<dyn StateStore>,
    state_writer: StateWriter,
    host_events: mpsc::Receiver<HostEvent>,
    host_commands: mpsc::Sender<HostCommand>,
) -> io::Result<()> {
    let hub = Box::new(hub::Hub::new(subagent_approvals));
    shell::run(hub, listeners, store, state_writer, host_events, host_commands).await
}
