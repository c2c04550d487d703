//! The state of a home that `status` shows, from what was observed.

use serde::{Deserialize, Serialize};

use crate::contract::State;
use crate::lifecycle::ListenerSeen;
use crate::supervise::Then;

/// What the supervisor last wrote about the current server.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", tag = "is")]
pub enum StatePhase {
    /// Nothing runs and nothing is due.
    Idle,
    /// A server is about to be started, or was started and is not recorded yet.
    Spawning,
    /// A server runs.
    Running,
    /// The next attempt is due later.
    Waiting,
    /// The server was asked to exit.
    Stopping {
        /// What comes after.
        then: Then,
    },
    /// The server was stopped on purpose.
    Stopped,
    /// The server never became ready and was given up.
    Failed,
}

/// What `supervisor.json` and `/proc` show about the supervisor.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SupervisorFacts {
    /// What it last wrote, whether or not it still runs.
    pub phase: StatePhase,
    /// Whether its server crashes again and again, as it last wrote.
    pub is_crash_looping: bool,
    /// Whether it runs.
    pub is_alive: bool,
    /// Whether it is stopped by a signal.
    pub is_suspended: bool,
}

impl SupervisorFacts {
    fn is_stopping(&self) -> bool {
        matches!(self.phase, StatePhase::Stopping { .. })
    }
}

/// What was observed of a home.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct HomeFacts {
    /// The process on the control socket.
    pub listener: ListenerSeen,
    /// Whether the recorded server runs.
    pub server_is_alive: bool,
    /// Whether a server that does not answer yet still has time to do so.
    pub may_become_ready: bool,
    /// The supervisor; `None` if no state of one can be read.
    pub supervisor: Option<SupervisorFacts>,
}

/// The state to show.
pub fn home_state(facts: &HomeFacts) -> State {
    let alive = facts.supervisor.filter(|supervisor| supervisor.is_alive);
    let acting = alive.filter(|supervisor| !supervisor.is_suspended);
    let answers = matches!(facts.listener, ListenerSeen::Answering { .. });
    if matches!(facts.listener, ListenerSeen::Answering { ours: false, .. }) {
        return State::Unmanaged;
    }
    if facts.server_is_alive && alive.is_some_and(|supervisor| supervisor.is_stopping()) {
        return State::Draining;
    }
    if facts.server_is_alive && answers {
        return State::Running;
    }
    if alive.is_some_and(|supervisor| supervisor.is_crash_looping) {
        return State::CrashLooping;
    }
    if facts.server_is_alive {
        return if facts.may_become_ready { State::Starting } else { State::Failed };
    }
    match acting.map(|supervisor| supervisor.phase) {
        Some(StatePhase::Stopping { .. }) => return State::Draining,
        Some(StatePhase::Running | StatePhase::Waiting | StatePhase::Spawning) => return State::Starting,
        _ => {}
    }
    match facts.supervisor.map(|supervisor| supervisor.phase) {
        None | Some(StatePhase::Stopped | StatePhase::Idle) => State::Stopped,
        // A server was wanted, and no supervisor starts it.
        Some(_) => State::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::{HomeFacts, StatePhase, SupervisorFacts, home_state};
    use crate::contract::State;
    use crate::lifecycle::ListenerSeen;
    use crate::supervise::Then;

    const ANSWERS: ListenerSeen = ListenerSeen::Answering { pid: None, ours: true };

    fn supervised(phase: StatePhase) -> HomeFacts {
        let supervisor =
            SupervisorFacts { phase, is_crash_looping: false, is_alive: true, is_suspended: false };
        HomeFacts {
            listener: ListenerSeen::Nothing,
            server_is_alive: false,
            may_become_ready: false,
            supervisor: Some(supervisor),
        }
    }

    fn with(facts: HomeFacts, change: impl FnOnce(&mut SupervisorFacts)) -> HomeFacts {
        let mut supervisor = facts.supervisor.expect("a supervisor");
        change(&mut supervisor);
        HomeFacts { supervisor: Some(supervisor), ..facts }
    }

    #[test]
    fn a_server_that_runs_is_shown_by_what_it_answers_and_what_its_supervisor_does() {
        let running = HomeFacts { server_is_alive: true, ..supervised(StatePhase::Running) };
        let stopping = HomeFacts {
            server_is_alive: true,
            listener: ANSWERS,
            ..supervised(StatePhase::Stopping { then: Then::Leave })
        };
        let foreign = ListenerSeen::Answering { pid: None, ours: false };
        for (facts, state) in [
            (HomeFacts { listener: ANSWERS, ..running }, State::Running),
            (HomeFacts { listener: ANSWERS, supervisor: None, ..running }, State::Running),
            (HomeFacts { listener: foreign, ..running }, State::Unmanaged),
            (HomeFacts { may_become_ready: true, ..running }, State::Starting),
            (running, State::Failed),
            (with(running, |supervisor| supervisor.is_crash_looping = true), State::CrashLooping),
            (stopping, State::Draining),
            (with(stopping, |supervisor| supervisor.is_suspended = true), State::Draining),
            (with(stopping, |supervisor| supervisor.is_alive = false), State::Running),
        ] {
            assert_eq!(home_state(&facts), state, "{facts:?}");
        }
    }

    #[test]
    fn without_a_server_the_supervisor_tells_what_comes_next() {
        let stopping = StatePhase::Stopping { then: Then::Leave };
        for (phase, alive, dead) in [
            (StatePhase::Idle, State::Stopped, State::Stopped),
            (StatePhase::Stopped, State::Stopped, State::Stopped),
            (StatePhase::Failed, State::Failed, State::Failed),
            (StatePhase::Spawning, State::Starting, State::Failed),
            (StatePhase::Waiting, State::Starting, State::Failed),
            (StatePhase::Running, State::Starting, State::Failed),
            (stopping, State::Draining, State::Failed),
        ] {
            let facts = supervised(phase);
            assert_eq!(home_state(&facts), alive, "{facts:?}");
            assert_eq!(home_state(&with(facts, |supervisor| supervisor.is_alive = false)), dead);
            assert_eq!(home_state(&with(facts, |supervisor| supervisor.is_suspended = true)), dead);
        }
        assert_eq!(
            home_state(&HomeFacts { supervisor: None, ..supervised(StatePhase::Idle) }),
            State::Stopped
        );
    }
}
