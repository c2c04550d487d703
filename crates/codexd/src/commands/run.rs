//! `codexd run`: the supervisor in the foreground, as systemd runs it.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;

use codexd_core::contract::ErrorCode;
use codexd_host::Home;
use codexd_host::service::supervisor::{self, RunBy, ServiceOptions};
use codexd_host::service::systemd::Notifier;
use listenfd::ListenFd;

use crate::context::VERSION;
use crate::output;
use crate::own_binary::own_binary;

/// The home, if these are the arguments in the unit of the supervisor: `codexd run --codex-home PATH --service systemd` to the letter. As in
/// [`super::supervisor`], parsing nothing else keeps the process small.
pub fn home_of_service(arguments: impl IntoIterator<Item = OsString>) -> Option<Home> {
    let arguments: Vec<OsString> = arguments.into_iter().skip(1).collect();
    match arguments.as_slice() {
        [command, option, home, service, systemd]
            if command == "run"
                && option == "--codex-home"
                && service == "--service"
                && systemd == "systemd" =>
        {
            Some(Home::new(PathBuf::from(home)))
        }
        _ => None,
    }
}

/// Runs until systemd, or a command, ends it.
pub fn under_systemd(home: Home) -> ExitCode {
    crate::diagnostics::log_to_stderr();
    let codexd = match own_binary() {
        Ok(codexd) => codexd,
        Err(failure) => {
            output::say(&failure.message);
            return ExitCode::from(failure.code.exit_code());
        }
    };
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

#[cfg(test)]
mod tests {
    use super::home_of_service;

    #[test]
    fn only_the_arguments_of_the_unit_make_a_service() {
        let read = |words: &[&str]| home_of_service(words.iter().map(Into::into));
        assert!(read(&["codexd", "run", "--codex-home", "/h", "--service", "systemd"]).is_some());
        for other in
            [&["codexd", "run"][..], &["codexd", "run", "--codex-home", "/h"], &["codexd", "supervisor"]]
        {
            assert!(read(other).is_none(), "{other:?}");
        }
    }
}
