//! The I/O half: the sockets, the clock and the host around the hub. All tasks run on one thread and share
//! [`shell_context::ShellContext`] without locks.
//!
//! A message from a client to an app-server: the client's task ([`serve_client`]) reads it and feeds it to the hub
//! ([`shell_context`]); the event loop ([`event_loop`]) performs the hub's action, which puts the message into the outbox of an
//! upstream connection; the writer task ([`write_queue`]) writes it. The way back is the same.
//!
//! - Outboxes are bounded. A client that lets its outbox fill is disconnected.
//! - The hub is not called while it is deciding, nor while its actions are being performed.
//! - The hub gets one event for the end of each client, and for each connection that it requested one event that says whether it is
//!   open, refused or lost.

mod client_disconnect;
mod clients;
mod close_code;
mod connection;
mod control_listener;
mod event_log;
mod event_loop;
mod generations;
mod host_commands;
mod logic;
mod outbox;
mod oversized;
mod peer;
mod persist;
mod read_coalescing;
mod read_turns;
mod readiness_probe;
mod serve_client;
mod serve_upstream;
mod servers;
mod shell_context;
mod slow_client;
mod state_store;
mod stream;
mod tcp_auth;
mod tcp_listener;
#[cfg(test)]
mod tests;
mod timer;
mod trace;
mod uninitialized;
mod upstream_connections;
mod upstream_handshake;
mod write_queue;

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
use crate::hub::Event;
use crate::limits::SHUTDOWN_TIMEOUT_MS;
use crate::state_writer::StateWriter;
use shell_context::ShellContext;

/// Serves clients as `logic` decides, until [`HostEvent::Leave`] or until the host is gone.
///
/// # Errors
/// The control socket cannot be used.
pub(crate) async fn run(
    logic: Box<dyn Logic>,
    listeners: Listeners,
    store: Box<dyn StateStore>,
    state_writer: StateWriter,
    host_events: mpsc::Receiver<HostEvent>,
    host_commands: mpsc::Sender<HostCommand>,
) -> io::Result<()> {
    let shell = ShellContext::new(logic, event_loop::drain, store, state_writer);
    LocalSet::new()
        .run_until(serve(shell, listeners, host_events, host_commands, control_listener::is_allowed_user))
        .await
}

async fn serve(
    shell: Rc<ShellContext>,
    listeners: Listeners,
    mut host_events: mpsc::Receiver<HostEvent>,
    host_commands: mpsc::Sender<HostCommand>,
    is_allowed_user: control_listener::IsAllowedUser,
) -> io::Result<()> {
    shell.uninitialized.descriptors_max.set(raise_descriptor_limit());
    persist::restore_goals(&shell);
    listeners.control.set_nonblocking(true)?;
    let control = UnixListener::from_std(listeners.control)?;
    let accepting = spawn_tasks(&shell, control, is_allowed_user, host_commands);
    let mut network = tcp_listener::TcpListener::default();
    if let Some(config) = listeners.tcp {
        network.configure(&shell, Some(config));
    }
    loop {
        match host_events.recv().await {
            Some(HostEvent::Generations(generations)) => {
                generations::generations_changed(&shell, generations);
            }
            Some(HostEvent::ThreadSettings(stored)) => event_loop::restore_thread_settings(&shell, stored),
            Some(HostEvent::ThreadSettingsLost) => shell.feed(Event::ThreadSettingsLost),
            Some(HostEvent::CurrentDrains) => generations::current_drains(&shell),
            Some(HostEvent::Configure { tcp, subagent_approvals }) => {
                shell.feed(Event::SubagentApprovals(subagent_approvals));
                network.configure(&shell, tcp);
            }
            Some(HostEvent::SocketsChanged) => shell.sockets_changed.notify_waiters(),
            Some(HostEvent::Leave) | None => break,
        }
    }
    accepting.abort();
    let connections = serve_client::close_all(&shell);
    network.stop();
    let _ =
        timeout(Duration::from_millis(SHUTDOWN_TIMEOUT_MS), shell.write_queue.all_ended(&connections)).await;
    Ok(())
}

/// Starts the tasks that run as long as the gateway. Returns the one that accepts clients of the control socket.
fn spawn_tasks(
    shell: &Rc<ShellContext>,
    control: UnixListener,
    is_allowed_user: control_listener::IsAllowedUser,
    host_commands: mpsc::Sender<HostCommand>,
) -> tokio::task::JoinHandle<()> {
    let write_queue = Rc::clone(&shell.write_queue);
    spawn_local(async move { write_queue.run().await });
    let persisting = Rc::clone(shell);
    spawn_local(async move { persist::handle_outcomes(&persisting).await });
    let commanding = Rc::clone(shell);
    spawn_local(async move { commanding.host_commands.run(host_commands).await });
    let timing = Rc::clone(shell);
    spawn_local(async move { event_loop::run_timer(&timing).await });
    spawn_local(control_listener::run(Rc::clone(shell), control, is_allowed_user))
}

/// Raises the limit of descriptors as far as the system allows and returns it. A client takes two: its own and that of its
/// dedicated connection.
fn raise_descriptor_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    let current = getrlimit(Resource::Nofile).current;
    current.and_then(|current| usize::try_from(current).ok()).unwrap_or(usize::MAX)
}
