//! A home that is served from another pid namespace or host: what the server on the socket tells, and no number of a process.

use codexd_core::contract::State;
use codexd_core::contract::status::Problem;
use codexd_core::lifecycle::{ListenerSeen, Recorded};
use codexd_host::Home;
use codexd_host::elsewhere::Elsewhere;
use codexd_host::service::keeper::{StatePhase, read_state_of_any_place};

use super::keeper::Keeper;
use super::{Found, add};
use crate::failures;
use crate::observe::{self, Ours};

/// Looks at the socket alone.
pub(super) fn find(home: &Home, mut problems: Vec<Problem>, place: Elsewhere) -> Found {
    add(&mut problems, "running-elsewhere", failures::elsewhere_sentence(home, &place));
    let listening = observe::listener(home, Ours::default());
    let phase = read_state_of_any_place(home).map(|state| state.phase);
    let is_leaving = matches!(phase, Some(StatePhase::Stopping { .. }));
    if matches!(listening.seen, ListenerSeen::Mute { .. }) && !is_leaving {
        add(&mut problems, "mute-listener", "whoever listens on the control socket does not answer");
    }
    let recorded = Recorded::Absent;
    let keeper = Keeper { state: None, is_alive: false, is_suspended: false };
    Found { keeper, recorded, server: None, codexd: None, listening, problems, elsewhere: Some(place) }
}

/// Whether a keeper of codexd serves the home there.
pub(super) fn is_managed(found: &Found) -> bool {
    found.elsewhere.as_ref().is_some_and(|place| place.has_keeper)
}

pub(super) fn state(found: &Found) -> State {
    match found.listening.seen {
        ListenerSeen::Answering { .. } if is_managed(found) => State::Running,
        ListenerSeen::Answering { .. } => State::Unmanaged,
        _ => State::Failed,
    }
}
