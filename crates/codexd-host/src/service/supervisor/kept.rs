//! The table of what a supervisor keeps: for each generation and for the gateway what to run, and the process that runs it.

use codexd_core::generations::{Name, Role};
use codexd_core::identity::{Pid, Process};
use codexd_core::program::Program;

use super::clients::ClientId;
use super::run::Supervisor;
use super::server::Server;
use super::wire::Generation;
use crate::strays::{Spared, Ties};

/// One row.
#[derive(Debug)]
pub struct Kept {
    /// Whose.
    pub name: Name,
    /// What to run at the next start.
    pub program: Program,
    /// The mark of the process that lives, or is about to, or was the last; the gateway has none.
    pub mark: Option<String>,
    /// The process, if one lives.
    pub server: Option<Server>,
    /// What it had started, looked up when it was signalled: where that cannot be told any more when it is dead.
    pub descendants: Vec<Process>,
    /// What leads to what the process that died last has left.
    pub dead: Option<Ties>,
    /// The process that died last, if it was not the current one: it counts as living until nothing of it is left.
    pub ended: Option<Generation>,
    /// The file of its program was missing at the last attempt to start it.
    pub is_program_missing: bool,
    /// Who wants it, while it is not promoted.
    pub wanted_by: Option<ClientId>,
    /// What it was for when it was last looked at.
    pub role: Option<Role>,
}

impl Kept {
    /// A row without a process.
    pub fn new(name: Name, program: Program) -> Self {
        Self {
            name,
            program,
            mark: None,
            server: None,
            descendants: Vec::new(),
            dead: None,
            ended: None,
            is_program_missing: false,
            wanted_by: None,
            role: None,
        }
    }

    /// A row of a living process.
    pub fn of(name: Name, program: Program, server: Server) -> Self {
        Self { mark: server.generation.clone(), server: Some(server), ..Self::new(name, program) }
    }
}

impl Supervisor {
    pub(super) fn kept(&self, name: Name) -> Option<&Kept> {
        self.table.iter().find(|kept| kept.name == name)
    }

    pub(super) fn kept_mut(&mut self, name: Name) -> Option<&mut Kept> {
        self.table.iter_mut().find(|kept| kept.name == name)
    }

    /// Puts down what to run at the next start.
    pub(super) fn set_program(&mut self, name: Name, program: Program) {
        match self.kept_mut(name) {
            Some(kept) => kept.program = program,
            None => self.table.push(Kept::new(name, program)),
        }
    }

    pub(super) fn server(&self, name: Name) -> Option<&Server> {
        self.kept(name).and_then(|kept| kept.server.as_ref())
    }

    /// The process of the current generation, if one lives.
    pub(super) fn current_server(&self) -> Option<&Server> {
        self.server(self.machine.current())
    }

    /// Whose process this is.
    pub(super) fn name_of(&self, process: &Process) -> Option<Name> {
        let has = |kept: &&Kept| kept.server.as_ref().is_some_and(|server| server.process == *process);
        self.table.iter().find(has).map(|kept| kept.name)
    }

    /// Who carries the mark.
    pub(super) fn marked(&self, mark: &str) -> Option<Name> {
        self.table.iter().find(|kept| kept.mark.as_deref() == Some(mark)).map(|kept| kept.name)
    }

    /// The processes of every generation that lives, but for this one's.
    pub(super) fn servers_but(&self, name: Name) -> Vec<Pid> {
        let others = self.table.iter().filter(|kept| kept.name != Name::Gateway && kept.name != name);
        others.filter_map(|kept| Some(kept.server.as_ref()?.process.pid)).collect()
    }

    /// Those whom nobody sweeps: whoever is connected, and every process that is kept.
    pub(super) fn with_spared<T>(&self, look: impl FnOnce(Spared<'_>) -> T) -> T {
        let mut pids = self.clients.pids();
        pids.extend(self.server(Name::Gateway).map(|gateway| gateway.process.pid));
        let servers: Vec<Pid> = self
            .table
            .iter()
            .filter(|kept| kept.name != Name::Gateway)
            .filter_map(|kept| kept.server.as_ref())
            .flat_map(Server::pids)
            .collect();
        look(Spared { pids: &pids, servers: &servers })
    }
}
