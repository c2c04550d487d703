//! The app-servers: numbers for their generation_ids, and where each listens.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;

use tokio::task::AbortHandle;

use super::event_loop::HubDriver;
use super::upstream_connections;
use crate::host::{Generation, HostCommand, Role};
use crate::hub::{Event, ServerId};

/// Marks of app-servers that are gone and still have a name in reports.
const REMEMBERED_MAX: usize = 64;

/// The app-servers that live or lived.
#[derive(Debug, Default)]
pub(crate) struct Servers {
    known: BTreeMap<ServerId, Server>,
    count: u64,
    told: Option<(Option<ServerId>, Vec<ServerId>)>,
    /// Somebody lived: as whom it may know this gateway has been looked up.
    remembered: bool,
}

#[derive(Debug)]
struct Server {
    generation_id: String,
    pid: u32,
    socket: PathBuf,
    lives: bool,
    /// Being greeted.
    readiness_probe: Option<AbortHandle>,
}

impl Servers {
    /// Where a living app-server listens.
    pub(super) fn socket(&self, server: ServerId) -> Option<PathBuf> {
        self.known.get(&server).filter(|server| server.lives).map(|server| server.socket.clone())
    }

    /// The process, also of one that is gone.
    pub(super) fn pid(&self, server: Option<ServerId>) -> Option<u32> {
        self.known.get(&server?).map(|server| server.pid)
    }

    /// The generation_ids of those that live.
    pub(super) fn living(&self) -> Vec<String> {
        self.known.values().filter(|server| server.lives).map(|server| server.generation_id.clone()).collect()
    }

    fn number(&mut self, generation: Generation) -> ServerId {
        let Generation { id: generation_id, pid, socket, role: _ } = generation;
        let found =
            self.known.iter_mut().find(|(_, server)| server.lives && server.generation_id == generation_id);
        if let Some((&id, server)) = found {
            (server.pid, server.socket) = (pid, socket);
            return id;
        }
        self.count += 1;
        let id = ServerId(self.count);
        self.known.insert(id, Server { generation_id, pid, socket, lives: true, readiness_probe: None });
        id
    }

    /// Forgets the oldest of those that are gone.
    fn forget(&mut self) {
        let gone: Vec<ServerId> =
            self.known.iter().filter(|(_, server)| !server.lives).map(|(&id, _)| id).collect();
        for id in gone.iter().take(gone.len().saturating_sub(REMEMBERED_MAX)) {
            self.known.remove(id);
        }
    }
}

impl HubDriver {
    /// Takes the list of the host: first those that are gone lose their links, then the logic should_read of the change.
    pub(super) fn generations_changed(self: &Rc<Self>, generations: Vec<Generation>) {
        let (mut current, mut outgoing) = (None, Vec::new());
        let mut servers = self.servers.borrow_mut();
        for generation in generations {
            let role = generation.role;
            let id = servers.number(generation);
            match role {
                Role::Current => current = Some(id),
                Role::Outgoing => outgoing.push(id),
            }
        }
        let mut gone = Vec::new();
        for (&id, server) in servers.known.iter_mut().filter(|(_, server)| server.lives) {
            if current != Some(id) && !outgoing.contains(&id) {
                server.lives = false;
                server.readiness_probe.take().inspect(AbortHandle::abort);
                gone.push(id);
            }
        }
        servers.forget();
        let now = (current, outgoing.clone());
        let changed = servers.told.as_ref() != Some(&now);
        servers.told = Some(now);
        let living = servers.living();
        let is_first = !living.is_empty() && !std::mem::replace(&mut servers.remembered, true);
        drop(servers);
        if is_first {
            self.offer_client_identity(&living);
        }
        for server in gone {
            self.lose_connections_of(server);
        }
        if changed {
            self.persist_client_identity();
            self.feed(Event::Servers { current, outgoing });
        }
    }

    /// The current one was asked to leave.
    pub(super) fn current_drains(self: &Rc<Self>) {
        let current = self.servers.borrow().told.as_ref().and_then(|(current, _)| *current);
        if let Some(server) = current {
            self.feed(Event::ServerDraining(server));
        }
    }

    /// Asks an app-server for its first answer, until it comes or the app-server is gone.
    pub(super) fn probe_readiness(self: &Rc<Self>, id: ServerId) {
        let mut servers = self.servers.borrow_mut();
        let Some(server) = servers.known.get_mut(&id).filter(|server| server.lives) else { return };
        let task = tokio::task::spawn_local(upstream_connections::probe_readiness(Rc::clone(self), id));
        if let Some(before) = server.readiness_probe.replace(task.abort_handle()) {
            before.abort();
        }
    }

    pub(super) fn retire(&self, server: ServerId) {
        let generation_id =
            self.servers.borrow().known.get(&server).map(|server| server.generation_id.clone());
        if let Some(generation_id) = generation_id {
            self.host_commands.give(HostCommand::Retire { generation_id });
        }
    }
}
