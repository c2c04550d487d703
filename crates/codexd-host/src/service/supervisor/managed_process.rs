//! The table of managed processes: for each generation and for the gateway, its launch spec and its process.

use codexd_core::generations::{Name, Role};
use codexd_core::identity::{Pid, Process};
use codexd_core::launch_spec::LaunchSpec;

use super::Supervisor;
use super::clients::ClientId;
use super::server::Server;
use super::wire::Generation;
use crate::orphans::{Excluded, OwnershipEvidence};

/// One managed process.
#[derive(Debug)]
pub struct ManagedProcess {
    pub name: Name,
    /// The launch spec of the next start.
    pub program: LaunchSpec,
    /// The generation id of the process that runs, is being started, or was the last; `None` for the gateway.
    pub generation_id: Option<String>,
    /// The process, if it runs.
    pub server: Option<Server>,
    /// Its descendants, recorded when it was signalled, if they could not be identified after its exit.
    pub descendants: Vec<Process>,
    /// Evidence that identifies the orphans of the last process.
    pub dead: Option<OwnershipEvidence>,
    /// The last process, if it was not the current one: it is reported as running until its orphans have ended.
    pub ended: Option<Generation>,
    /// The file of its program was missing at the last attempt to start it.
    pub is_program_missing: bool,
    /// The client that ordered it, while it is a successor.
    pub wanted_by: Option<ClientId>,
    /// Its last role.
    pub role: Option<Role>,
}

impl ManagedProcess {
    /// An entry without a process.
    pub fn new(name: Name, program: LaunchSpec) -> Self {
        Self {
            name,
            program,
            generation_id: None,
            server: None,
            descendants: Vec::new(),
            dead: None,
            ended: None,
            is_program_missing: false,
            wanted_by: None,
            role: None,
        }
    }

    /// An entry of a running process.
    pub fn of(name: Name, program: LaunchSpec, server: Server) -> Self {
        Self { generation_id: server.generation.clone(), server: Some(server), ..Self::new(name, program) }
    }
}

impl Supervisor {
    pub(super) fn managed(&self, name: Name) -> Option<&ManagedProcess> {
        self.table.iter().find(|managed| managed.name == name)
    }

    pub(super) fn managed_mut(&mut self, name: Name) -> Option<&mut ManagedProcess> {
        self.table.iter_mut().find(|managed| managed.name == name)
    }

    /// Sets the launch spec of the next start.
    pub(super) fn set_launch_spec(&mut self, name: Name, program: LaunchSpec) {
        match self.managed_mut(name) {
            Some(managed) => managed.program = program,
            None => self.table.push(ManagedProcess::new(name, program)),
        }
    }

    pub(super) fn server(&self, name: Name) -> Option<&Server> {
        self.managed(name).and_then(|managed| managed.server.as_ref())
    }

    /// The process of the current generation, if it runs.
    pub(super) fn current_server(&self) -> Option<&Server> {
        self.server(self.machine.current())
    }

    /// The entry of a process.
    pub(super) fn name_of(&self, process: &Process) -> Option<Name> {
        let has = |managed: &&ManagedProcess| {
            managed.server.as_ref().is_some_and(|server| server.process == *process)
        };
        self.table.iter().find(has).map(|managed| managed.name)
    }

    /// The entry with this generation id.
    pub(super) fn name_of_generation(&self, generation_id: &str) -> Option<Name> {
        self.table
            .iter()
            .find(|managed| managed.generation_id.as_deref() == Some(generation_id))
            .map(|managed| managed.name)
    }

    /// The running processes of all other generations.
    pub(super) fn servers_except(&self, name: Name) -> Vec<Pid> {
        let others =
            self.table.iter().filter(|managed| managed.name != Name::Gateway && managed.name != name);
        others.filter_map(|managed| Some(managed.server.as_ref()?.process.pid)).collect()
    }

    /// The processes that no sweep signals: clients, and every managed process.
    pub(super) fn with_excluded<T>(&self, look: impl FnOnce(Excluded<'_>) -> T) -> T {
        let mut pids = self.clients.pids();
        pids.extend(self.server(Name::Gateway).map(|gateway| gateway.process.pid));
        let servers: Vec<Pid> = self
            .table
            .iter()
            .filter(|managed| managed.name != Name::Gateway)
            .filter_map(|managed| managed.server.as_ref())
            .flat_map(Server::pids)
            // With the programs that they run, such as `codex --version`.
            .chain(self.commands.pids())
            .collect();
        look(Excluded { pids: &pids, servers: &servers })
    }
}
