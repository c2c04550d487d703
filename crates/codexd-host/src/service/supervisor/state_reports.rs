//! Reports the state to the connected clients, and writes it for later ones.

use std::io;

use codexd_core::generations::{Name, Role, Standing};
use codexd_core::identity::Pid;
use codexd_core::supervise::Phase;

use super::Supervisor;
use super::managed_process::ManagedProcess;
use super::state::{self, GatewayState, OtherState, StatePhase};
use super::wire::{self, Generation, Report};
use crate::clock;

/// The state as it was last reported.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PublishedState {
    standing: Option<(StatePhase, Option<Pid>)>,
    generations: Vec<Generation>,
    gateway_pid: Option<Pid>,
    gateway_moves: bool,
}

impl Supervisor {
    pub(super) fn phase(&self) -> StatePhase {
        match self.machine.standing() {
            Standing::Idle => StatePhase::Idle,
            Standing::Running => StatePhase::Running,
            Standing::Launching => StatePhase::Spawning,
            Standing::Waiting => StatePhase::Waiting,
            Standing::Stopping(then) => StatePhase::Stopping { then },
        }
    }

    pub(super) fn gateway_pid(&self) -> Option<Pid> {
        self.server(Name::Gateway).map(|gateway| gateway.process.pid)
    }

    pub(super) fn standing(&self) -> Report {
        Report::State {
            protocol: wire::PROTOCOL,
            supervisor_pid: Some(self.state.supervisor.pid),
            former_supervisor_pid: Some(self.state.supervisor.pid),
            phase: self.phase(),
            pid: self.current_server().map(|server| server.process.pid),
            stores_thread_settings: true,
        }
    }

    /// The first reports on a connection.
    pub(super) fn greeting(&self) -> [Report; 2] {
        [self.standing(), report(self.current_state())]
    }

    /// Reports the state to all clients, if it has changed.
    pub(super) fn publish_changes(&mut self) {
        self.report_status();
        let now = self.current_state();
        if now.standing != self.published.standing {
            self.published.standing = now.standing;
            let standing = self.standing();
            self.clients.broadcast(&standing);
        }
        if now != self.published {
            self.published = now.clone();
            self.clients.broadcast(&report(now));
        }
    }

    fn current_state(&self) -> PublishedState {
        let mut generations: Vec<Generation> = self
            .table
            .iter()
            .filter_map(|managed| match (&managed.server, self.machine.role(managed.name)) {
                (Some(server), Some(role)) => Some(server.as_generation(role)),
                _ => managed.ended.clone(),
            })
            .collect();
        generations.sort_by_key(|generation| generation.role != Role::Current);
        let standing = Some((self.phase(), self.current_server().map(|server| server.process.pid)));
        PublishedState {
            standing,
            generations,
            gateway_pid: self.gateway_pid(),
            gateway_moves: self.clients.gateway_moves(),
        }
    }

    /// Writes `supervisor.json`. Where no order depends on it, a full disk only leaves the file out of date.
    pub(super) fn write_state(&mut self, phase: StatePhase) -> io::Result<()> {
        let current = self.machine.current();
        self.state.phase = phase;
        self.state.server = self.current_server().map(|server| server.process.clone());
        if let Some(managed) = self.managed(current) {
            let program = managed.server.as_ref().map(|server| server.program.clone());
            let (generation_id, program) =
                (managed.generation_id.clone(), program.unwrap_or_else(|| managed.program.without_env()));
            (self.state.generation, self.state.program) = (generation_id, Some(program));
        }
        self.state.others = self.others();
        self.state.gateway = self.gateway_state();
        if let Some(supervision) = self.machine.supervision(current) {
            self.state.restarts = supervision.restarts();
            self.state.crash_looping = supervision.crash_looping();
            self.state.next_attempt_at = match supervision.phase() {
                Phase::Waiting { until } if phase != StatePhase::Spawning => {
                    Some(clock::in_ms(until.since_ms(clock::monotonic())))
                }
                _ => None,
            };
        }
        state::write(&self.home, &self.state)
    }

    fn others(&self) -> Vec<OtherState> {
        let other = |managed: &ManagedProcess| {
            let role = self.machine.role(managed.name).or(managed.ended.as_ref().map(|ended| ended.role));
            let role = role.filter(|_| managed.name != self.machine.current())?;
            let phase = self.machine.supervision(managed.name).map(|supervision| supervision.phase());
            Some(OtherState {
                role,
                process: managed.server.as_ref().map(|server| server.process.clone()),
                generation: managed.generation_id.clone(),
                program: managed.program.without_env(),
                stopping: matches!(phase, Some(Phase::Stopping { .. })),
            })
        };
        self.table.iter().filter_map(other).collect()
    }

    fn gateway_state(&self) -> Option<GatewayState> {
        let process = self.server(Name::Gateway).map(|gateway| gateway.process.clone());
        if process.is_none() && !self.machine.gateway_wanted() {
            return None;
        }
        let restarts = self.machine.supervision(Name::Gateway).map(|supervision| supervision.restarts());
        Some(GatewayState { process, restarts: restarts.unwrap_or_default() })
    }
}

fn report(published: PublishedState) -> Report {
    let PublishedState { generations, gateway_pid, gateway_moves, .. } = published;
    Report::Generations { generations, gateway_pid, gateway_moves }
}
