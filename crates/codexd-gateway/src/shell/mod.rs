//! The sockets, the clock and the host around the hub. Everything runs on one thread and shares its state without locks.
//!
//! A text on its way from a client to an app-server: the client's task (`clients`) reads it, [`driver::Driver::feed`] asks
//! the hub, which says it to a link: it is in the link's outbox when `feed` returns. The writer task (`writer`) writes it. The
//! way back is the same.
//!
//! - Nobody waits for whoever reads slowly: outboxes are bounded, and whoever lets one fill is cut.
//! - The hub is never asked while it is being asked, nor while what it said is being done.
//! - The hub hears of every client that came that it left, and of every link that it wanted that it is up, refused or lost.

mod accept;
mod brain;
mod clients;
mod driver;
mod line;
mod links;
mod open;
mod orders;
mod outbox;
mod oversized;
mod pace;
mod servers;
mod side;
mod state;
mod stream;
mod tcp;
#[cfg(test)]
mod tests;
mod token;
mod unintroduced;
mod writer;

use std::io;
use std::rc::Rc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::timeout;

pub(crate) use brain::Brain;

use crate::host::{Doors, HostEvent, HostOrder, Memory};
use crate::limits::LEAVE_TIMEOUT_MS;
use crate::state_writer::StateWriter;
use driver::Driver;

/// Serves clients as `brain` decides, until the host says [`HostEvent::Leave`] or is gone.
///
/// # Errors
/// The system's, when a door cannot be opened.
pub(crate) async fn run(
    brain: Box<dyn Brain>,
    doors: Doors,
    memory: Box<dyn Memory>,
    state_writer: StateWriter,
    host_events: mpsc::Receiver<HostEvent>,
    host_orders: mpsc::Sender<HostOrder>,
) -> io::Result<()> {
    let driver = Driver::new(brain, memory, state_writer);
    LocalSet::new().run_until(serve(driver, doors, host_events, host_orders, accept::may_enter)).await
}

async fn serve(
    driver: Rc<Driver>,
    doors: Doors,
    mut host_events: mpsc::Receiver<HostEvent>,
    host_orders: mpsc::Sender<HostOrder>,
    may_enter: accept::MayEnter,
) -> io::Result<()> {
    driver.unintroduced.descriptors_max.set(allow_many_descriptors());
    driver.remember();
    doors.control.set_nonblocking(true)?;
    let control = UnixListener::from_std(doors.control)?;
    let writing = Rc::clone(&driver.writer);
    spawn_local(async move { writing.run().await });
    let storing = Rc::clone(&driver);
    spawn_local(async move { storing.take_stored().await });
    let ordering = Rc::clone(&driver);
    spawn_local(async move { ordering.orders.run(host_orders).await });
    let timing = Rc::clone(&driver);
    spawn_local(async move { timing.run_timer().await });
    let accepting = spawn_local(accept::run(Rc::clone(&driver), control, may_enter));
    let mut network = tcp::Listener::default();
    if let Some(door) = doors.tcp {
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
    let lines = driver.send_all_away();
    network.stop();
    let _ = timeout(Duration::from_millis(LEAVE_TIMEOUT_MS), driver.writer.all_ended(&lines)).await;
    Ok(())
}

/// A client takes two descriptors, its own and that of its link. What the system allows at most is allowed to us; if it does
/// not let us, the doors close for a moment when there is none left. Answers how many there are.
fn allow_many_descriptors() -> usize {
    let allowed = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: allowed.maximum, ..allowed });
    let most = getrlimit(Resource::Nofile).current;
    most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX)
}
