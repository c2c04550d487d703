//! The app-servers that the host has named: their ids in the hub, generation ids, processes and sockets.

use std::collections::BTreeMap;
use std::path::PathBuf;

use tokio::task::AbortHandle;

use crate::host::{Generation, Role};
use crate::hub::ServerId;
use crate::limits::EXITED_SERVERS_REMEMBERED_MAX;

/// The app-servers that run, and the last ones that have exited: reports still name their pids.
#[derive(Debug, Default)]
pub(crate) struct Servers {
    known: BTreeMap<ServerId, Server>,
    count: u64,
    /// The current app-server and the outgoing ones, as they were last reported to the hub.
    reported: Option<(Option<ServerId>, Vec<ServerId>)>,
    /// An app-server has been seen, and the client identity of the previous gateway was offered.
    identity_was_offered: bool,
}

#[derive(Debug)]
struct Server {
    generation_id: String,
    pid: u32,
    socket: PathBuf,
    is_running: bool,
    readiness_probe: Option<AbortHandle>,
}

/// What a new list of generations changes.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) current: Option<ServerId>,
    pub(super) outgoing: Vec<ServerId>,
    pub(super) exited: Vec<ServerId>,
    /// The list differs from the one before.
    pub(super) is_news: bool,
    /// Set to the generation ids with the first list that is not empty.
    pub(super) first_seen: Option<Vec<String>>,
}

impl Servers {
    /// The socket of an app-server that runs.
    pub(super) fn socket(&self, server: ServerId) -> Option<PathBuf> {
        self.known.get(&server).filter(|server| server.is_running).map(|server| server.socket.clone())
    }

    /// The process, also after its exit.
    pub(super) fn pid(&self, server: Option<ServerId>) -> Option<u32> {
        self.known.get(&server?).map(|server| server.pid)
    }

    pub(super) fn generation_id(&self, server: ServerId) -> Option<String> {
        self.known.get(&server).map(|server| server.generation_id.clone())
    }

    /// The generation ids of the app-servers that run.
    pub(super) fn running(&self) -> Vec<String> {
        let running = self.known.values().filter(|server| server.is_running);
        running.map(|server| server.generation_id.clone()).collect()
    }

    pub(super) fn current(&self) -> Option<ServerId> {
        self.reported.as_ref().and_then(|(current, _)| *current)
    }

    /// Keeps the task that probes an app-server, in place of the one before. Aborts the task if the app-server has exited.
    pub(super) fn set_readiness_probe(&mut self, id: ServerId, task: AbortHandle) {
        match self.known.get_mut(&id).filter(|server| server.is_running) {
            Some(server) => drop(server.readiness_probe.replace(task).inspect(AbortHandle::abort)),
            None => task.abort(),
        }
    }

    /// Takes the host's list of generations.
    pub(super) fn update(&mut self, generations: Vec<Generation>) -> Change {
        let (mut current, mut outgoing) = (None, Vec::new());
        for generation in generations {
            let role = generation.role;
            let id = self.id_of(generation);
            match role {
                Role::Current => current = Some(id),
                Role::Outgoing => outgoing.push(id),
            }
        }
        let mut exited = Vec::new();
        for (&id, server) in self.known.iter_mut().filter(|(_, server)| server.is_running) {
            if current != Some(id) && !outgoing.contains(&id) {
                server.is_running = false;
                server.readiness_probe.take().inspect(AbortHandle::abort);
                exited.push(id);
            }
        }
        self.forget_oldest();
        let now = (current, outgoing.clone());
        let is_news = self.reported.as_ref() != Some(&now);
        self.reported = Some(now);
        let running = self.running();
        let is_first = !running.is_empty() && !std::mem::replace(&mut self.identity_was_offered, true);
        Change { current, outgoing, exited, is_news, first_seen: is_first.then_some(running) }
    }

    fn id_of(&mut self, generation: Generation) -> ServerId {
        let Generation { id: generation_id, pid, socket, role: _ } = generation;
        let is_it = |server: &Server| server.is_running && server.generation_id == generation_id;
        if let Some((&id, server)) = self.known.iter_mut().find(|(_, server)| is_it(server)) {
            (server.pid, server.socket) = (pid, socket);
            return id;
        }
        self.count += 1;
        let id = ServerId(self.count);
        let server = Server { generation_id, pid, socket, is_running: true, readiness_probe: None };
        self.known.insert(id, server);
        id
    }

    fn forget_oldest(&mut self) {
        let exited: Vec<ServerId> =
            self.known.iter().filter(|(_, server)| !server.is_running).map(|(&id, _)| id).collect();
        let surplus = exited.len().saturating_sub(EXITED_SERVERS_REMEMBERED_MAX);
        for id in exited.iter().take(surplus) {
            self.known.remove(id);
        }
    }
}
