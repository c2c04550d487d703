//! What stands in front of the app-server: the gateway as a program, and the sockets behind it.

use std::path::{Path, PathBuf};

use codexd_core::contract::Failure;
use codexd_core::identity::Pid;
use codexd_core::os_text::OsText;
use codexd_core::program::Program;
use codexd_core::settings::Gateway;
use codexd_host::service::keeper::{self, Generation};
use codexd_host::{Home, gateway_process, process};

use crate::codex;
use crate::context::Context;

/// The option by which the gateway is told where to listen besides.
pub const LISTEN: &str = "--listen";
/// What of the environment concerns the gateway. Everything else may hold secrets that it has no use for.
const VARIABLES: [&str; 11] = [
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "XDG_RUNTIME_DIR",
    "RUST_LOG",
    "RUST_BACKTRACE",
    "LLVM_PROFILE_FILE",
];

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
pub fn program(context: &Context, gateway: Gateway) -> Result<Option<Program>, Failure> {
    if !gateway.is_on() {
        return Ok(None);
    }
    let mut args: Vec<OsText> = gateway_process::ARGUMENTS.iter().copied().map(OsText::from).collect();
    args.push(OsText::from(context.home.root()));
    if let Some(listen) = gateway.listen() {
        args.extend([OsText::from(LISTEN), OsText::from(listen.to_string())]);
    }
    let mut env: Vec<(OsText, OsText)> = VARIABLES
        .iter()
        .filter_map(|&name| Some((OsText::from(name), OsText(std::env::var_os(name)?))))
        .collect();
    env.push((OsText::from("CODEX_HOME"), OsText::from(context.home.root())));
    Ok(Some(Program {
        executable: codex::myself()?,
        args,
        env,
        cwd: PathBuf::from("/"),
        embedded: false,
        socket: None,
        version: None,
    }))
}

/// A socket behind the gateway that no living server has.
pub fn free_socket(home: &Home, generations: &[Generation], recorded: Option<&Path>) -> PathBuf {
    let before = keeper::read_state(home);
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

/// Whether the process that holds the control socket does so for codexd: the gateway, or the keeper while there is none. One
/// that has just ended is known by what its keeper wrote.
pub fn is_ours(listener: Pid, home: &Home) -> bool {
    if gateway_process::is_one(listener, home) || keeper::is_one(listener, home) {
        return true;
    }
    let named = || keeper::read_state(home)?.gateway?.process;
    process::stat(listener).is_none() && named().is_some_and(|gateway| gateway.pid == listener)
}
