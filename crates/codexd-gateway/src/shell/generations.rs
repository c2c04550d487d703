//! Takes the host's list of generations, and asks the host to retire one.

use std::rc::Rc;

use super::shell_context::ShellContext;
use super::{persist, readiness_probe, serve_upstream};
use crate::host::{Generation, HostCommand};
use crate::hub::{Event, ServerId};

/// Takes a new list. The connections to app-servers that have exited are closed before the hub gets the list.
pub(super) fn generations_changed(shell: &Rc<ShellContext>, generations: Vec<Generation>) {
    let change = shell.servers.borrow_mut().update(generations);
    if let Some(running) = change.first_seen {
        persist::restore_client_identity(shell, &running);
    }
    for server in change.exited {
        serve_upstream::lose_connections_of(shell, server);
    }
    if change.is_news {
        persist::persist_client_identity(shell);
        shell.feed(Event::Servers { current: change.current, outgoing: change.outgoing });
    }
}

/// The current app-server was asked to exit when its turns have ended.
pub(super) fn current_drains(shell: &Rc<ShellContext>) {
    let current = shell.servers.borrow().current();
    if let Some(server) = current {
        shell.feed(Event::ServerDraining(server));
    }
}

/// Probes an app-server until it answers or has exited.
pub(super) fn probe_readiness(shell: &Rc<ShellContext>, server: ServerId) {
    let task = tokio::task::spawn_local(readiness_probe::run(Rc::clone(shell), server));
    shell.servers.borrow_mut().set_readiness_probe(server, task.abort_handle());
}

pub(super) fn retire(shell: &ShellContext, server: ServerId) {
    let generation_id = shell.servers.borrow().generation_id(server);
    if let Some(generation_id) = generation_id {
        shell.host_commands.push(HostCommand::Retire { generation_id });
    }
}
