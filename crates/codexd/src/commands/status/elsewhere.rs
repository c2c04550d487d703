//! A home that is served from another pid namespace or host: what the server on the control socket answers, and no pid.

use std::io::ErrorKind;

use codexd_core::contract::State;
use codexd_core::contract::status::Problem;
use codexd_core::lifecycle::{ListenerSeen, Recorded};
use codexd_host::Home;
use codexd_host::elsewhere::Elsewhere;
use codexd_host::service::supervisor::{StatePhase, read_state_of_any_namespace};
use codexd_protocol::unix;

use super::Found;
use super::problems::{UNRESPONSIVE_LISTENER, add};
use super::supervisor::Supervisor;
use crate::failures;
use crate::observe::{self, OwnServer};

/// A home that is served elsewhere.
pub(super) struct Served {
    /// Whether a supervisor of codexd serves it.
    is_managed: bool,
    /// The phase in the state file of that supervisor.
    phase: Option<StatePhase>,
    /// Whether this process may connect to the control socket: the sandbox of a tool call forbids it.
    may_ask: bool,
}

/// Observes the control socket only.
pub(super) fn find(home: &Home, mut problems: Vec<Problem>, place: &Elsewhere) -> Found {
    add(&mut problems, "running-elsewhere", failures::elsewhere_sentence(home, place));
    let listening = observe::listener(home, OwnServer::default());
    let denied = unix::connect(&home.control_socket()).err();
    let denied = denied.filter(|error| error.kind() == ErrorKind::PermissionDenied);
    let served = Served {
        is_managed: place.has_supervisor,
        phase: read_state_of_any_namespace(home).map(|state| state.phase),
        may_ask: denied.is_none(),
    };
    if let Some(error) = denied {
        let message =
            format!("permission denied to connect to the control socket (as in a sandbox): {error}");
        add(&mut problems, "unresponsive-listener", message);
    } else if matches!(listening.seen, ListenerSeen::Unresponsive { .. }) && !served.is_leaving() {
        add(&mut problems, "unresponsive-listener", UNRESPONSIVE_LISTENER);
    }
    let recorded = Recorded::Absent;
    let supervisor = Supervisor { state: None, is_alive: false, is_suspended: false };
    Found {
        supervisor,
        recorded,
        server: None,
        codexd: None,
        listening,
        problems,
        gateway_settings: None,
        elsewhere: Some(served),
    }
}

/// Whether a supervisor of codexd serves the home there.
pub(super) fn is_managed(found: &Found) -> bool {
    found.elsewhere.as_ref().is_some_and(|served| served.is_managed)
}

impl Served {
    fn is_leaving(&self) -> bool {
        self.is_managed && matches!(self.phase, Some(StatePhase::Stopping { .. }))
    }

    pub(super) fn state(&self, seen: ListenerSeen) -> State {
        match (seen, self.phase) {
            (ListenerSeen::Answering { .. }, _) if !self.is_managed => State::Unmanaged,
            (ListenerSeen::Answering { .. }, _) => State::Running,
            _ if self.is_leaving() => State::Draining,
            // The supervisor runs, because its lock is held. Its state file is the only source.
            (_, Some(StatePhase::Running)) if self.is_managed && !self.may_ask => State::Running,
            _ => State::Failed,
        }
    }
}
