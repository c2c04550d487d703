//! Whether the process that holds the control socket belongs to codexd.

use std::path::Path;

use codexd_core::contract::Backend;
use codexd_core::identity::Pid;

use super::{observe, state};
use crate::home::Home;
use crate::launch::gateway;
use crate::process;
use crate::service::backend;

/// Whether the process that holds the control socket holds it for codexd: the gateway, or the supervisor while there is no gateway, or
/// systemd while there is neither.
/// A process that is exiting, or has just exited, is identified from `supervisor.json`.
pub fn holds_control_socket(listener: Pid, home: &Home) -> bool {
    if gateway::is_one(listener, home) || observe::is_one(listener, home) {
        return true;
    }
    if backend::read(home) == Backend::Systemd && is_user_manager(listener) {
        return true;
    }
    let recorded = || {
        let state = state::read(home)?;
        let gateway = state.gateway.and_then(|gateway| gateway.process);
        gateway.into_iter().chain([state.supervisor]).find(|recorded| recorded.pid == listener)
    };
    process::is_exiting(listener)
        && recorded().is_some_and(|recorded| {
            process::stat(listener).is_none_or(|stat| stat.start_ticks == recorded.identity.start_ticks)
        })
}

/// Whether this is a user manager of systemd.
fn is_user_manager(pid: Pid) -> bool {
    let arguments = process::arguments(pid);
    let name = arguments.first().and_then(|path| Path::new(path).file_name());
    name.is_some_and(|name| name == "systemd") && arguments.get(1).is_some_and(|option| option == "--user")
}

#[cfg(test)]
mod tests {
    use super::holds_control_socket;
    use crate::home::Home;
    use crate::process;
    use crate::service::supervisor::{GatewayState, SupervisorState};
    use codexd_core::identity::Process;
    use rustix::process::{Pid, WaitId, WaitIdOptions};
    use std::time::{Duration, Instant};

    fn write_state(home: &Home, gateway: Process) {
        let supervisor = process::myself().expect("me");
        let mut state = SupervisorState::new(supervisor, "9.9.9");
        state.gateway = Some(GatewayState { process: Some(gateway), restarts: 0 });
        let text = serde_json::to_vec(&state).expect("JSON");
        std::fs::write(home.supervisor_state(), text).expect("written");
    }

    #[test]
    fn a_gateway_that_has_just_exited_is_identified_from_supervisor_json() {
        let folder = tempfile::tempdir().expect("a folder");
        let home = Home::new(folder.path());
        home.create_state().expect("made");
        let mut gateway = std::process::Command::new("sleep").arg("1000").spawn().expect("started");
        let pid = Pid::from_child(&gateway);
        let known = process::identify(codexd_core::identity::Pid(gateway.id())).expect("it lives");
        write_state(&home, known.clone());
        let until = Instant::now() + Duration::from_secs(20);
        while process::is_exiting(known.pid) && Instant::now() < until {}
        assert!(!holds_control_socket(known.pid, &home), "it lives, and is something else");
        gateway.kill().expect("killed");
        let leftovers = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        rustix::process::waitid(WaitId::Pid(pid), leftovers).expect("ended, not reaped");
        assert!(holds_control_socket(known.pid, &home));
        let mut another = known.clone();
        another.identity.start_ticks += 1;
        write_state(&home, another);
        assert!(!holds_control_socket(known.pid, &home), "the number was given to another one");
        write_state(&home, known.clone());
        gateway.wait().expect("reaped");
        assert!(holds_control_socket(known.pid, &home));
    }
}
