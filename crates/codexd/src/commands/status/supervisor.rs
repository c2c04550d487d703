//! The supervisor, as far as it can be told without asking it: what it last wrote, and whether it lives.

use codexd_core::home_state::SupervisorFacts;
use codexd_host::service::supervisor::{StatePhase, SupervisorState, read_state};
use codexd_host::{Home, process};

/// What a look found.
pub(super) struct Supervisor {
    /// What it last wrote, alive or dead.
    pub(super) state: Option<SupervisorState>,
    /// Whether it lives.
    pub(super) is_alive: bool,
    /// Whether somebody has suspended it.
    pub(super) is_suspended: bool,
}

impl Supervisor {
    pub(super) fn look(home: &Home) -> Self {
        let state = read_state(home);
        let supervisor = state.as_ref().map(|state| &state.supervisor);
        let is_alive = supervisor.is_some_and(process::is_alive);
        let stopped = |stat: process::Stat| stat.state == b'T';
        let is_suspended =
            is_alive && supervisor.and_then(|supervisor| process::stat(supervisor.pid)).is_some_and(stopped);
        Self { state, is_alive, is_suspended }
    }

    /// What decides about the state of the home.
    pub(super) fn facts(&self) -> Option<SupervisorFacts> {
        self.state.as_ref().map(|state| SupervisorFacts {
            phase: state.phase,
            is_crash_looping: state.crash_looping,
            is_alive: self.is_alive,
            is_suspended: self.is_suspended,
        })
    }

    /// What it last wrote, if it lives.
    pub(super) fn living(&self) -> Option<&SupervisorState> {
        self.state.as_ref().filter(|_| self.is_alive)
    }

    /// What it is at, if it lives and does it.
    pub(super) fn acts(&self) -> Option<StatePhase> {
        self.living().filter(|_| !self.is_suspended).map(|state| state.phase)
    }

    /// Whether it is ending its server.
    pub(super) fn is_stopping(&self) -> bool {
        matches!(self.acts(), Some(StatePhase::Stopping { .. }))
    }

    /// Whether the end of its server is news to it, which it is about to write down.
    pub(super) fn keeps_a_server(&self) -> bool {
        self.is_stopping() || self.acts() == Some(StatePhase::Running)
    }
}
