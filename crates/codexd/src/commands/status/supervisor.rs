//! The supervisor as `supervisor.json` and `/proc` show it, without a connection.

use codexd_core::home_state::SupervisorFacts;
use codexd_host::service::supervisor::{StatePhase, SupervisorState, read_state};
use codexd_host::{Home, process};

/// What was observed.
pub(super) struct Supervisor {
    /// The contents of `supervisor.json`, whether or not the supervisor runs.
    pub(super) state: Option<SupervisorState>,
    /// Whether it runs. A supervisor that has stopped its server and is exiting does not count.
    pub(super) is_alive: bool,
    /// Whether it is stopped by a signal.
    pub(super) is_suspended: bool,
}

impl Supervisor {
    pub(super) fn observe(home: &Home) -> Self {
        let state = read_state(home);
        let supervisor = state.as_ref().map(|state| &state.supervisor);
        // It writes these phases right before it exits, which may take the kernel some milliseconds.
        let is_leaving = state
            .as_ref()
            .is_some_and(|state| matches!(state.phase, StatePhase::Stopped | StatePhase::Failed));
        let is_alive = !is_leaving && supervisor.is_some_and(process::is_alive);
        let stopped = |stat: process::Stat| stat.state == b'T';
        let is_suspended =
            is_alive && supervisor.and_then(|supervisor| process::stat(supervisor.pid)).is_some_and(stopped);
        Self { state, is_alive, is_suspended }
    }

    /// The facts that decide about the state of the home.
    pub(super) fn facts(&self) -> Option<SupervisorFacts> {
        self.state.as_ref().map(|state| SupervisorFacts {
            phase: state.phase,
            is_crash_looping: state.crash_looping,
            is_alive: self.is_alive,
            is_suspended: self.is_suspended,
        })
    }

    /// The contents of `supervisor.json`, if the supervisor runs.
    pub(super) fn living(&self) -> Option<&SupervisorState> {
        self.state.as_ref().filter(|_| self.is_alive)
    }

    /// The phase of a supervisor that runs and is not suspended.
    pub(super) fn acts(&self) -> Option<StatePhase> {
        self.living().filter(|_| !self.is_suspended).map(|state| state.phase)
    }

    /// Whether it is ending its server.
    pub(super) fn is_stopping(&self) -> bool {
        matches!(self.acts(), Some(StatePhase::Stopping { .. }))
    }

    /// Whether it has a server whose exit it has not handled yet.
    pub(super) fn keeps_a_server(&self) -> bool {
        self.is_stopping() || self.acts() == Some(StatePhase::Running)
    }
}

#[cfg(test)]
mod tests {
    use super::Supervisor;
    use codexd_host::service::supervisor::{StatePhase, SupervisorState};
    use codexd_host::{Home, process};

    #[test]
    fn a_supervisor_that_has_stopped_its_server_does_not_count_although_it_still_runs() {
        let folder = tempfile::tempdir().expect("a folder");
        let home = Home::new(folder.path());
        home.create_state().expect("created");
        for (phase, is_alive) in
            [(StatePhase::Running, true), (StatePhase::Stopped, false), (StatePhase::Failed, false)]
        {
            let state = SupervisorState {
                phase,
                ..SupervisorState::new(process::myself().expect("this process"), "9.9.9")
            };
            let state = serde_json::to_vec(&state).expect("JSON");
            std::fs::write(home.supervisor_state(), state).expect("written");
            assert_eq!(Supervisor::observe(&home).living().is_some(), is_alive, "{phase:?}");
        }
    }
}
