//! The gateway: the only thing that listens, in front of app-servers that come and go.
//!
//! [`host`] is the seam to whoever runs it: what it is handed, what it is told, what it asks for. It does not know which
//! service manager that is. [`hub`] decides, `shell` has the sockets, [`routes`] is data.

pub mod host;
pub mod hub;
mod limits;
pub mod routes;
mod shell;
pub mod state_writer;

use std::io;

use tokio::sync::mpsc;

use codexd_core::settings::SubagentApprovals;
use host::{HostCommand, HostEvent, Listeners, StateStore};
use state_writer::StateWriter;

/// Serves clients until [`HostEvent::Leave`], or until nobody can tell it anything any more. It wants a runtime of one
/// thread.
///
/// # Errors
/// The system's, when a door cannot be opened.
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
