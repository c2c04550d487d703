//! `codexd keeper`: the parent of the app-server. Internal: verbs start it, with a connection as its standard input.

use std::fs::OpenOptions;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use codexd_core::contract::ErrorCode;
use codexd_host::service::keeper::{self, KeeperError};

use crate::cli::Global;
use crate::context::{Context, VERSION};
use crate::output;

/// Runs until nothing is left to keep.
pub fn run(global: Global) -> ExitCode {
    // The terminal of whoever started it is not the keeper's. It fails only for a leader of its group, which has none.
    let _ = rustix::process::setsid();
    let context = match Context::new(global) {
        Ok(context) => context,
        Err(failure) => {
            output::say(&failure.message);
            return ExitCode::from(failure.code.exit_code());
        }
    };
    match keeper::run(context.home, VERSION, take_stdin()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ KeeperError::AlreadyKept) => {
            output::say(&error.to_string());
            ExitCode::from(ErrorCode::KeeperFailed.exit_code())
        }
        Err(error) => {
            output::say(&error.to_string());
            ExitCode::from(ErrorCode::KeeperFailed.exit_code())
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
