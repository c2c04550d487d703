//! The sockets, the clock and the host around the hub. Everything runs on one thread and shares its state without locks.
//!
//! A text on its way from a client to an app-server: the client's task (`clients`) reads it, [`event_loop::HubDriver::feed`] asks
//! the hub, which says it to a link: it is in the link's outbox when `feed` returns. The writer task (`writer`) writes it. The
//! way back is the same.
//!
//! - Nobody waits for whoever reads slowly: outboxes are bounded, and whoever lets one fill is cut.
//! - The hub is never asked while it is being asked, nor while what it said is being done.
//! - The hub should_read of every client that came that it left, and of every link that it wanted that it is up, refused or lost.

mod clients;
mod connection;
mod control_listener;
mod event_loop;
mod host_commands;
mod logic;
mod outbox;
mod oversized;
mod peer;
mod read_coalescing;
mod read_turns;
mod servers;
mod state_store;
mod stream;
mod tcp_auth;
mod tcp_listener;
#[cfg(test)]
mod tests;
mod trace;
mod uninitialized;
mod upstream_connections;
mod upstream_handshake;
mod writer;

use std::io;
use std::rc::Rc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::timeout;

pub(crate) use logic::Logic;

use crate::host::{HostCommand, HostEvent, Listeners, StateStore};
use crate::limits::LEAVE_TIMEOUT_MS;
use crate::state_writer::StateWriter;
use event_loop::HubDriver;

/// Serves clients as `logic` decides, until the host says [`HostEvent::Leave`] or is gone.
///
/// # Errors
/// The system's, when a door cannot be opened.
pub(crate) async fn run(
    logic: Box<dyn Logic>,
    listeners: Listeners,
    store: Box<dyn StateStore>,
    state_writer: StateWriter,
    host_events: mpsc::Receiver<HostEvent>,
    host_commands: mpsc::Sender<HostCommand>,
) -> io::Result<()> {
    let driver = HubDriver::new(logic, store, state_writer);
    LocalSet::new()
        .run_until(serve(driver, listeners, host_events, host_commands, control_listener::is_allowed_user))
        .await
}

async fn serve(
    driver: Rc<HubDriver>,
    listeners: Listeners,
    mut host_events: mpsc::Receiver<HostEvent>,
    host_commands: mpsc::Sender<HostCommand>,
    is_allowed_user: control_listener::IsAllowedUser,
) -> io::Result<()> {
    driver.uninitialized.descriptors_max.set(allow_many_descriptors());
    driver.load_persisted();
    listeners.control.set_nonblocking(true)?;
    let control = UnixListener::from_std(listeners.control)?;
    let writing = Rc::clone(&driver.writer);
    spawn_local(async move { writing.run().await });
    let storing = Rc::clone(&driver);
    spawn_local(async move { storing.take_outcomes().await });
    let ordering = Rc::clone(&driver);
    spawn_local(async move { ordering.host_commands.run(host_commands).await });
    let timing = Rc::clone(&driver);
    spawn_local(async move { timing.run_timer().await });
    let accepting = spawn_local(control_listener::run(Rc::clone(&driver), control, is_allowed_user));
    let mut network = tcp_listener::Listener::default();
    if let Some(door) = listeners.tcp {
        network.configure(&driver, Some(door));
    }
    loop {
        match host_events.recv().await {
            Some(HostEvent::Generations(generations)) => driver.generations_changed(generations),
            Some(HostEvent::ThreadSettings(stored)) => driver.thread_settings_stored(stored),
            Some(HostEvent::ThreadSettingsLost) => driver.feed(crate::hub::Event::ThreadSettingsLost),
            Some(HostEvent::CurrentDrains) => driver.current_drains(),
            Some(HostEvent::Configure { tcp, subagent_approvals }) => {
                driver.feed(crate::hub::Event::SubagentApprovals(subagent_approvals));
                network.configure(&driver, tcp);
            }
            Some(HostEvent::SocketsChanged) => driver.sockets_changed.notify_waiters(),
            Some(HostEvent::Leave) | None => break,
        }
    }
    accepting.abort();
    let connections = driver.close_all();
    network.stop();
    let _ = timeout(Duration::from_millis(LEAVE_TIMEOUT_MS), driver.writer.all_ended(&connections)).await;
    Ok(())
}

/// A client takes two descriptors, its own and that of its link. What the system allows at most is allowed to us; if it does
/// not let us, the listeners close for a moment when there is none left. Answers how many there are.
fn allow_many_descriptors() -> usize {
    let allowed = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: allowed.maximum, ..allowed });
    let most = getrlimit(Resource::Nofile).current;
    most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX)
}
