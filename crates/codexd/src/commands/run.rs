//! `codexd run`: the supervisor in the foreground, for systemd, a container or a terminal.
//!
//! [`become_supervisor`] finds out what to run, and becomes a process with [`Arguments`] that say it to the letter. As in
//! [`super::supervisor`], parsing nothing else keeps that process small.

mod arguments;
mod prepare;

use std::os::fd::OwnedFd;
use std::process::ExitCode;

use codexd_core::contract::{ErrorCode, Failure};
use codexd_host::service::supervisor::{self, RunBy, ServiceOptions, SupervisorError};
use codexd_host::service::systemd::Notifier;
use listenfd::ListenFd;

use super::lifecycle::Reply;
use crate::context::VERSION;
use crate::failures;
use crate::output::{self, Mode};
use crate::own_binary::own_binary;

pub use arguments::Arguments;
pub use prepare::become_supervisor;

/// Runs until systemd, a signal or a command ends it.
pub fn supervise(arguments: Arguments) -> ExitCode {
    crate::diagnostics::log_to_stderr();
    let codexd = match own_binary() {
        Ok(codexd) => codexd,
        Err(failure) => {
            output::say(&failure.message);
            return ExitCode::from(failure.code.exit_code());
        }
    };
    match arguments {
        Arguments::Systemd { home } => {
            let control_socket = ListenFd::from_env().take_unix_listener(0).ok().flatten().map(OwnedFd::from);
            let service = ServiceOptions { codexd, control_socket, notifier: Notifier::from_env() };
            match supervisor::run(home, VERSION, RunBy::Systemd(service)) {
                Ok(code) => ExitCode::from(code),
                Err(error) => {
                    output::say(&error.to_string());
                    ExitCode::from(ErrorCode::SupervisorFailed.exit_code())
                }
            }
        }
        Arguments::Standalone(standalone) => {
            let (home, mode) = (standalone.home.clone(), standalone.mode);
            let outcome =
                supervisor::run(home.clone(), VERSION, RunBy::Standalone(standalone.options(codexd)));
            match outcome {
                Ok(code) => ExitCode::from(code),
                Err(SupervisorError::AlreadyManaged) => fail(mode, failures::already_managed(&home)),
                Err(error) => fail(mode, Failure::new(ErrorCode::SupervisorFailed, error.to_string())),
            }
        }
    }
}

fn fail(mode: Mode, failure: Failure) -> ExitCode {
    output::finish::<Reply>(mode, Err(failure))
}
