//! How things stand, for those who are connected and for those who come later.

use std::io;

use codexd_core::generations::{Name, Role, Standing};
use codexd_core::identity::Pid;
use codexd_core::supervise::Phase;

use super::run::Supervisor;
use super::state::{self, GatewayState, OtherState, StatePhase};
use super::wire::{self, Generation, Report};
use crate::clock;

/// What was last told about who lives.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Told {
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
            supervisor_pid: self.state.supervisor.pid,
            phase: self.phase(),
            pid: self.current_server().map(|server| server.process.pid),
            stores_thread_settings: true,
        }
    }

    /// What everybody is told first.
    pub(super) fn greeting(&self) -> [Report; 2] {
        [self.standing(), report(self.who_lives())]
    }

    /// Tells everybody where the server stands and who lives, if that has changed.
    pub(super) fn tell_changes(&mut self) {
        let now = self.who_lives();
        if now.standing != self.told.standing {
            self.told.standing = now.standing;
            let standing = self.standing();
            self.clients.tell(&standing);
        }
        if now != self.told {
            self.told = now.clone();
            self.clients.tell(&report(now));
        }
    }

    fn who_lives(&self) -> Told {
        let mut generations: Vec<Generation> = self
            .table
            .iter()
            .filter_map(|kept| match (&kept.server, self.machine.role(kept.name)) {
                (Some(server), Some(role)) => Some(server.as_generation(role)),
                _ => kept.ended.clone(),
            })
            .collect();
        generations.sort_by_key(|generation| generation.role != Role::Current);
        let standing = Some((self.phase(), self.current_server().map(|server| server.process.pid)));
        Told {
            standing,
            generations,
            gateway_pid: self.gateway_pid(),
            gateway_moves: self.clients.gateway_moves(),
        }
    }

    /// Writes `supervisor.json`. Where no order depends on it, a full disk costs what it would have told and nothing else.
    pub(super) fn write_down(&mut self, phase: StatePhase) -> io::Result<()> {
        let current = self.machine.current();
        self.state.phase = phase;
        self.state.server = self.current_server().map(|server| server.process.clone());
        if let Some(kept) = self.kept(current) {
            let program = kept.server.as_ref().map(|server| server.program.clone());
            let (mark, program) = (kept.mark.clone(), program.unwrap_or_else(|| kept.program.without_env()));
            (self.state.generation, self.state.program) = (mark, Some(program));
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
        let other = |kept: &super::kept::Kept| {
            let role = self.machine.role(kept.name).or(kept.ended.as_ref().map(|ended| ended.role));
            let role = role.filter(|_| kept.name != self.machine.current())?;
            let phase = self.machine.supervision(kept.name).map(|supervision| supervision.phase());
            Some(OtherState {
                role,
                process: kept.server.as_ref().map(|server| server.process.clone()),
                generation: kept.mark.clone(),
                program: kept.program.without_env(),
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

fn report(told: Told) -> Report {
    let Told { generations, gateway_pid, gateway_moves, .. } = told;
    Report::Generations { generations, gateway_pid, gateway_moves }
}
