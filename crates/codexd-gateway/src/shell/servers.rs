//! The app-servers: numbers for their marks, and where each listens.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;

use tokio::task::AbortHandle;

use super::driver::Driver;
use super::links;
use crate::host::{Generation, HostOrder, Role};
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
    mark: String,
    pid: u32,
    socket: PathBuf,
    lives: bool,
    /// Being greeted.
    greeting: Option<AbortHandle>,
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

    /// The marks of those that live.
    pub(super) fn living(&self) -> Vec<String> {
        self.known.values().filter(|server| server.lives).map(|server| server.mark.clone()).collect()
    }

    fn number(&mut self, generation: Generation) -> ServerId {
        let Generation { mark, pid, socket, role: _ } = generation;
        let found = self.known.iter_mut().find(|(_, server)| server.lives && server.mark == mark);
        if let Some((&id, server)) = found {
            (server.pid, server.socket) = (pid, socket);
            return id;
        }
        self.count += 1;
        let id = ServerId(self.count);
        self.known.insert(id, Server { mark, pid, socket, lives: true, greeting: None });
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

impl Driver {
    /// Takes the list of the host: first those that are gone lose their links, then the brain hears of the change.
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
                server.greeting.take().inspect(AbortHandle::abort);
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
            self.remember_persona(&living);
        }
        for server in gone {
            self.lose_links_of(server);
        }
        if changed {
            self.keep_persona();
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
    pub(super) fn greet(self: &Rc<Self>, id: ServerId) {
        let mut servers = self.servers.borrow_mut();
        let Some(server) = servers.known.get_mut(&id).filter(|server| server.lives) else { return };
        let task = tokio::task::spawn_local(links::greet(Rc::clone(self), id));
        if let Some(before) = server.greeting.replace(task.abort_handle()) {
            before.abort();
        }
    }

    pub(super) fn retire(&self, server: ServerId) {
        let mark = self.servers.borrow().known.get(&server).map(|server| server.mark.clone());
        if let Some(mark) = mark {
            self.orders.give(HostOrder::Retire { mark });
        }
    }
}
