//! `codexd supervisor`: the parent of the app-server. Internal: commands start it, with a connection as its standard input.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;

use codexd_core::contract::ErrorCode;
use codexd_host::Home;
use codexd_host::service::supervisor;

use crate::context::VERSION;
use crate::output;

/// The home to keep, if these are the arguments of a supervisor: `codexd supervisor --codex-home PATH` to the letter. Only codexd
/// itself writes them, and parsing nothing else keeps a fifth of the binary out of the supervisor's memory.
pub fn home_of(arguments: impl IntoIterator<Item = OsString>) -> Option<Home> {
    let arguments: Vec<OsString> = arguments.into_iter().skip(1).collect();
    match arguments.as_slice() {
        [command, option, home] if command == "supervisor" && option == "--codex-home" => {
            Some(Home::new(PathBuf::from(home)))
        }
        _ => None,
    }
}

/// Runs until nothing is left to keep.
pub fn run(home: Home) -> ExitCode {
    // The terminal of whoever started it is not the supervisor's.
    let _ = rustix::process::setsid();
    crate::diagnostics::log_to_stderr();
    match supervisor::run(home, VERSION, take_stdin()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::say(&error.to_string());
            ExitCode::from(ErrorCode::SupervisorFailed.exit_code())
        }
    }
}

/// The connection that stands on standard input, if it is one; standard input is empty afterwards.
fn take_stdin() -> Option<UnixStream> {
    let stdin = std::io::stdin();
    rustix::net::sockopt::socket_type(stdin.as_fd()).ok()?;
    let stream = UnixStream::from(stdin.as_fd().try_clone_to_owned().ok()?);
    let nothing = OpenOptions::new().read(true).open("/dev/null").ok()?;
    rustix::stdio::dup2_stdin(nothing).ok()?;
    Some(stream)
}
