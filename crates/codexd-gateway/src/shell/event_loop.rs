//! The event loop: passes events to the hub and performs its actions.
//!
//! An action never calls the hub. What an action causes at once (a slow client is closed, a connection cannot be opened)
//! is queued as an event. Nothing here waits.

use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::shell_context::ShellContext;
use super::{generations, persist, serve_client, serve_upstream, slow_client, trace};
use crate::host::{HostCommand, ThreadSettings};
use crate::hub::{Action, Event};

/// Passes all queued events to the hub, in order.
pub(super) fn drain(shell: &Rc<ShellContext>) {
    let mut actions = shell.actions.take();
    shell.logic.borrow_mut().set_unix_time(unix_ms());
    loop {
        let Some(event) = shell.events.borrow_mut().pop_front() else { break };
        trace::event(&event);
        shell.logic.borrow_mut().step(event, shell.timer.now(), &mut actions);
        for action in actions.drain(..) {
            trace::action(&action);
            perform(shell, action);
        }
        shell.thread_states.log_changes(&**shell.logic.borrow());
    }
    shell.actions.replace(actions);
    wake_readable(shell);
    shell.timer.arm(shell.logic.borrow().deadline());
}

/// Feeds [`Event::DeadlineReached`] whenever the hub's deadline has come.
pub(super) async fn run_timer(shell: &Rc<ShellContext>) {
    loop {
        shell.timer.reached(|| shell.logic.borrow().deadline()).await;
        shell.feed(Event::DeadlineReached);
        // A deadline that does not move must not keep the other tasks from running.
        tokio::task::yield_now().await;
    }
}

/// Feeds the thread settings that the previous gateway stored.
pub(super) fn restore_thread_settings(shell: &Rc<ShellContext>, stored: Vec<ThreadSettings>) {
    for ThreadSettings { thread, settings } in stored {
        if let Some(settings) = settings {
            shell.feed(Event::ThreadSettingsRestored { thread, settings: settings.into() });
        }
    }
}

fn wake_readable(shell: &ShellContext) {
    let mut readable = shell.readable.borrow_mut();
    shell.logic.borrow_mut().take_readable(&mut readable);
    for client in readable.drain(..) {
        shell.clients.wake(client);
    }
}

fn perform(shell: &Rc<ShellContext>, action: Action) {
    match action {
        Action::SendToClient(client, text) => slow_client::send_to_client(shell, client, text),
        Action::Admit(client) => serve_client::admit(shell, client),
        Action::SendUpstream(connection, text) => serve_upstream::send_upstream(shell, connection, text),
        Action::Connect(connection, initialize) => serve_upstream::connect(shell, connection, initialize),
        Action::Close(connection) => shell.upstream.close(connection),
        Action::Probe(server) => generations::probe_readiness(shell, server),
        Action::CheckRollout { thread, path } => persist::check_rollout(shell, thread, path),
        Action::Retire(server) => generations::retire(shell, server),
        Action::PersistGoals { number, goals } => shell.persistence.persist_goals(number, goals),
        Action::PersistClientIdentity(identity) => persist::set_client_identity(shell, identity),
        Action::StoreThreadSettings { thread, settings } => {
            let settings = settings.map(|settings| settings.to_string());
            shell.host_commands.push(HostCommand::StoreThreadSettings(ThreadSettings { thread, settings }));
        }
        Action::Report(report) => shell.host_commands.report(&report, &shell.servers.borrow()),
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
