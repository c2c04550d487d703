//! `codexd supervisor`: the parent of the app-server. Internal: commands start it, with a connection as its standard input.

use std::fs::OpenOptions;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use codexd_core::contract::ErrorCode;
use codexd_host::Home;
use codexd_host::service::supervisor::{self, RunBy};

use crate::context::VERSION;
use crate::output;

/// Runs until no process is left to manage.
pub fn run(home: Home) -> ExitCode {
    // Leaves the terminal of the command that started it.
    let _ = rustix::process::setsid();
    crate::diagnostics::log_to_stderr();
    match supervisor::run(home, VERSION, RunBy::Command(take_stdin())) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            output::say(&error.to_string());
            ExitCode::from(ErrorCode::SupervisorFailed.exit_code())
        }
    }
}

/// Takes the connection on standard input, if there is one, and replaces standard input by `/dev/null`.
fn take_stdin() -> Option<UnixStream> {
    let stdin = std::io::stdin();
    rustix::net::sockopt::socket_type(stdin.as_fd()).ok()?;
    let stream = UnixStream::from(stdin.as_fd().try_clone_to_owned().ok()?);
    let nothing = OpenOptions::new().read(true).open("/dev/null").ok()?;
    rustix::stdio::dup2_stdin(nothing).ok()?;
    Some(stream)
}
