//! Whether a home is served from another pid namespace or another host. Then no process may be signalled from here.
//!
//! Evidence is what both sides share: sockets, whose peer the kernel names, and the supervisor's lock; not pids in files.

use std::io::ErrorKind;
use std::path::PathBuf;

use codexd_protocol::unix;

use crate::home::Home;
use crate::pid_namespace::{self, Whereabouts};
use crate::service::supervisor::{self, SupervisorState, former_names};
use crate::{lock, orphans, process};

/// Where a home is served.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Place {
    /// In another pid namespace of this host: in a container, or on the host of this process's container.
    PidNamespace,
    /// On another host, which shares the home over the network.
    Host,
    /// By a process that cannot be identified.
    Unidentified,
}

/// A home that is served from elsewhere.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Elsewhere {
    /// The kind of place.
    pub place: Place,
    /// The host name there, if its supervisor has recorded it.
    pub host_name: Option<String>,
    /// Whether a supervisor runs there.
    pub has_supervisor: bool,
}

/// Where a home is served; `None` if it is served here or nowhere.
pub fn find(home: &Home) -> Option<Elsewhere> {
    let state = supervisor::read_state_of_any_namespace(home);
    let here = state.as_ref().filter(|state| state.is_from_here()).map(|state| &state.supervisor);
    if here
        .is_some_and(|supervisor| process::is_alive(supervisor) && supervisor::is_one(supervisor.pid, home))
    {
        return None;
    }
    let place = match by_sockets(home, state.as_ref()) {
        Some(Listener::Elsewhere(place)) => place,
        // The lock is that of this supervisor, which may not have written its own state yet.
        Some(Listener::SupervisorHere) => by_state(state.as_ref(), false)?,
        None => by_state(state.as_ref(), is_locked(home))?,
    };
    let written_there = state.filter(|state| !state.is_from_here());
    let host_name = written_there.and_then(|state| state.host_name);
    Some(Elsewhere { place, host_name, has_supervisor: is_locked(home) })
}

/// A process that listens on a socket of the home.
enum Listener {
    SupervisorHere,
    Elsewhere(Place),
}

/// Finds the processes that listen on the sockets of the home. A supervisor in this namespace takes precedence.
fn by_sockets(home: &Home, state: Option<&SupervisorState>) -> Option<Listener> {
    let servers = state
        .into_iter()
        .flat_map(|state| state.program.iter().chain(state.others.iter().map(|other| &other.program)));
    let own: Vec<PathBuf> = servers.filter_map(|program| program.socket.clone()).collect();
    let supervisors = [home.supervisor_socket(), former_names::socket(home)];
    for socket in supervisors.iter().chain([&home.control_socket()]).chain(&own) {
        let Ok(stream) = unix::connect(socket) else { continue };
        match pid_namespace::of_peer(&stream) {
            Whereabouts::Here if supervisors.contains(socket) => return Some(Listener::SupervisorHere),
            Whereabouts::Here => {}
            Whereabouts::OtherNamespace => return Some(Listener::Elsewhere(Place::PidNamespace)),
            Whereabouts::Hidden => return Some(Listener::Elsewhere(Place::Unidentified)),
        }
    }
    None
}

/// Where the supervisor of the state file runs, if that is not here: `is_locked` says that a supervisor runs. Without one, app-servers may
/// be starting there.
fn by_state(state: Option<&SupervisorState>, is_locked: bool) -> Option<Place> {
    let state = state.filter(|state| !state.is_from_here() || !state.is_from_this_boot())?;
    let place = if state.is_from_this_boot() { Place::PidNamespace } else { Place::Host };
    let lives = || {
        let generation = state.generation.as_deref().filter(|_| place == Place::PidNamespace);
        generation.is_some_and(|generation| !orphans::of_generation(generation).is_empty())
    };
    (is_locked || lives()).then_some(place)
}

/// Whether a supervisor runs, here or elsewhere. A supervisor of codexd 0.1.0 holds another lock.
fn is_locked(home: &Home) -> bool {
    [home.supervisor_lock(), former_names::lock_file(home)].iter().any(|path| {
        path.exists()
            && match lock::try_supervisor_lock(path) {
                Ok(taken) => taken.is_none(),
                // The lock cannot be checked; taking it will fail then.
                Err(error) => error.kind() == ErrorKind::WouldBlock,
            }
    })
}
