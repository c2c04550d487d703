//! What stands in front of the app-server: the gateway as a program, and the sockets behind it.

use std::path::{Path, PathBuf};

use codexd_core::contract::Failure;
use codexd_core::identity::Pid;
use codexd_core::launch_spec::LaunchSpec;
use codexd_core::os_text::OsText;
use codexd_core::settings::{Gateway, SubagentApprovals};
use codexd_host::service::supervisor::{self, Generation};
use codexd_host::{Home, gateway_process, process};

use crate::context::Context;
use crate::launch;

/// The option by which the gateway is told where to listen besides.
pub const LISTEN: &str = "--listen";
/// The option by which the gateway is told which clients decide what a sub-agent asks.
pub const SUBAGENT_APPROVALS: &str = "--subagent-approvals";

/// How the gateway's memory is given back: what a large message took at once, and what many small ones took as soon as it is
/// free. By default the allocator learns from the first large message to keep the next ones.
const MEMORY: [(&str, &str); 3] =
    [("MALLOC_MMAP_THRESHOLD_", "131072"), ("MALLOC_TRIM_THRESHOLD_", "1048576"), ("MALLOC_ARENA_MAX", "1")];

/// What is to be started: whether the embedded server runs now, and which socket the new one gets; none makes it the control
/// socket.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The server that runs now is the embedded one.
    pub embedded_runs: bool,
    /// The socket of its own, behind a gateway.
    pub socket: Option<PathBuf>,
}

/// The gateway as a program; `None` where there is to be none.
///
/// # Errors
/// If this very binary cannot be told.
pub fn program(context: &Context, gateway: Gateway) -> Result<Option<LaunchSpec>, Failure> {
    if !gateway.is_on() {
        return Ok(None);
    }
    let mut args: Vec<OsText> = gateway_process::ARGUMENTS.iter().copied().map(OsText::from).collect();
    args.push(OsText::from(context.home.root()));
    if let Some(listen) = gateway.listen() {
        args.extend([OsText::from(LISTEN), OsText::from(listen.to_string())]);
    }
    let approvals = gateway.subagent_approvals();
    if approvals != SubagentApprovals::default() {
        args.extend([OsText::from(SUBAGENT_APPROVALS), OsText::from(approvals.as_str())]);
    }
    let caller = context.caller();
    let mut env: Vec<(OsText, OsText)> = supervisor::VARIABLES
        .iter()
        .filter_map(|&name| Some((OsText::from(name), OsText(caller.variable(name)?))))
        .collect();
    env.push((OsText::from("CODEX_HOME"), OsText::from(context.home.root())));
    env.extend(MEMORY.map(|(name, value)| (OsText::from(name), OsText::from(value))));
    Ok(Some(LaunchSpec {
        executable: launch::myself()?,
        args,
        env,
        cwd: PathBuf::from("/"),
        embedded: false,
        socket: None,
        named: None,
        version: None,
    }))
}

/// A socket behind the gateway that no living server has.
pub fn free_socket(home: &Home, generations: &[Generation], recorded: Option<&Path>) -> PathBuf {
    let before = supervisor::read_state(home);
    let others = before.iter().flat_map(|state| {
        let other = state.others.iter().filter(|other| other.process.as_ref().is_some_and(process::is_alive));
        other.filter_map(|other| other.program.socket.as_deref())
    });
    let taken: Vec<&Path> = generations
        .iter()
        .filter_map(|generation| generation.socket.as_deref())
        .chain(recorded)
        .chain(others)
        .collect();
    (1..)
        .map(|nth| home.generation_socket(nth))
        .find(|socket| !taken.contains(&socket.as_path()))
        .unwrap_or_else(|| home.generation_socket(0))
}

/// Whether the process that holds the control socket does so for codexd: the gateway, or the supervisor while there is none. One
/// that is about to end, or has just ended, is known by what its supervisor wrote.
pub fn is_ours(listener: Pid, home: &Home) -> bool {
    if gateway_process::is_one(listener, home) || supervisor::is_one(listener, home) {
        return true;
    }
    let named = || {
        let state = supervisor::read_state(home)?;
        let mut known =
            state.gateway.and_then(|gateway| gateway.process).into_iter().chain([state.supervisor]);
        known.find(|known| known.pid == listener)
    };
    process::is_exiting(listener)
        && named().is_some_and(|known| {
            process::stat(listener).is_none_or(|stat| stat.start_ticks == known.identity.start_ticks)
        })
}

#[cfg(test)]
mod tests {
    use super::is_ours;
    use codexd_core::identity::Process;
    use codexd_host::service::supervisor::{GatewayState, SupervisorState};
    use codexd_host::{Home, process};
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
    fn a_gateway_that_has_just_ended_is_known_by_what_its_supervisor_wrote() {
        let folder = tempfile::tempdir().expect("a folder");
        let home = Home::new(folder.path());
        home.create_state().expect("made");
        let mut gateway = std::process::Command::new("sleep").arg("1000").spawn().expect("started");
        let pid = Pid::from_child(&gateway);
        let known = process::identify(codexd_core::identity::Pid(gateway.id())).expect("it lives");
        write_state(&home, known.clone());
        let until = Instant::now() + Duration::from_secs(20);
        while process::is_exiting(known.pid) && Instant::now() < until {}
        assert!(!is_ours(known.pid, &home), "it lives, and is something else");
        gateway.kill().expect("killed");
        let leftovers = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        rustix::process::waitid(WaitId::Pid(pid), leftovers).expect("ended, not reaped");
        assert!(is_ours(known.pid, &home));
        let mut another = known.clone();
        another.identity.start_ticks += 1;
        write_state(&home, another);
        assert!(!is_ours(known.pid, &home), "the number was given to another one");
        write_state(&home, known.clone());
        gateway.wait().expect("reaped");
        assert!(is_ours(known.pid, &home));
    }
}
