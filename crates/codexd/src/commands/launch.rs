//! `codexd launch`: what the units of systemd run. Internal: only the unit files that codexd writes call it.
//!
//! `launch app-server` and `launch gateway` become the program that the supervisor gives them; `launch stop` stops the app-server when the
//! unit with the name of the app-server is stopped, and replaces it without interrupting a turn when that unit is restarted.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use codexd_core::contract::{Backend, ErrorCode};
use codexd_core::limits::SYSTEMCTL_TIMEOUT_MS;
use codexd_host::Home;
use codexd_host::service::backend;
use codexd_host::service::supervisor::launcher::{self, NotLaunched};
use codexd_host::service::supervisor::{self, LaunchedUnit, StatePhase};
use codexd_host::service::systemd::{Systemctl, UnitNames};

use crate::output;

/// What a unit runs.
#[derive(Debug)]
pub struct Arguments {
    home: Home,
    what: What,
}

#[derive(Debug)]
enum What {
    Program(LaunchedUnit),
    Stop,
}

/// Reads the arguments, if they are those in a unit file, to the letter.
pub fn arguments(arguments: impl IntoIterator<Item = OsString>) -> Option<Arguments> {
    let arguments: Vec<OsString> = arguments.into_iter().skip(1).collect();
    let ([launch, what, option, home], rest) = arguments.split_first_chunk()?;
    if launch != "launch" || option != "--codex-home" {
        return None;
    }
    let what = match (what.to_str()?, rest) {
        ("gateway", []) => What::Program(LaunchedUnit::Gateway),
        ("stop", []) => What::Stop,
        ("app-server", [option, instance]) if option == "--instance" => {
            What::Program(LaunchedUnit::AppServer(instance.to_str()?.parse().ok()?))
        }
        _ => return None,
    };
    Some(Arguments { home: Home::new(PathBuf::from(home)), what })
}

/// Becomes the program, or stops the app-server.
pub fn run(arguments: &Arguments) -> ExitCode {
    let Arguments { home, what } = arguments;
    let unit = match what {
        What::Program(unit) => *unit,
        What::Stop => return stop(home),
    };
    let not_launched = launcher::launch(home, unit);
    output::say(&not_launched.to_string());
    match not_launched {
        NotLaunched::Refused(_) => ExitCode::SUCCESS,
        NotLaunched::Failed(_) => ExitCode::from(ErrorCode::SpawnFailed.exit_code()),
    }
}

/// Runs the command that the job of the unit stands for.
fn stop(home: &Home) -> ExitCode {
    let (systemctl, timeout) = (Systemctl::new(), Duration::from_millis(SYSTEMCTL_TIMEOUT_MS));
    // The home moves to another backend, and the server goes on.
    if backend::read(home) != Backend::Systemd {
        return ExitCode::SUCCESS;
    }
    // The supervisor that is about to leave waits for this.
    let phase = supervisor::read_state(home).map(|state| state.phase);
    let is_stopped =
        matches!(phase, None | Some(StatePhase::Stopped | StatePhase::Failed | StatePhase::Idle));
    // When the machine shuts down, systemd asks the app-server itself to leave: a second signal would cut its turns.
    if is_stopped || systemctl.manager_state(timeout).is_ok_and(|state| state == "stopping") {
        return ExitCode::SUCCESS;
    }
    let job = systemctl.job(&UnitNames::of(home).commands(), timeout).ok().flatten();
    let command = if job.as_deref() == Some("restart") { "restart" } else { "stop" };
    let failure = match crate::own_binary::own_binary() {
        Ok(codexd) => {
            let error = Command::new(codexd).arg(command).arg("--codex-home").arg(home.root()).exec();
            error.to_string()
        }
        Err(failure) => failure.message,
    };
    output::say(&format!("failed to run `codexd {command}`: {failure}"));
    ExitCode::from(ErrorCode::Internal.exit_code())
}

#[cfg(test)]
mod tests {
    use super::{What, arguments};
    use codexd_host::service::supervisor::LaunchedUnit;

    #[test]
    fn only_the_arguments_of_unit_files_are_read() {
        let read = |words: &[&str]| arguments(words.iter().map(Into::into)).map(|read| read.what);
        let of = ["codexd", "launch", "app-server", "--codex-home", "/h", "--instance", "7"];
        assert!(matches!(read(&of), Some(What::Program(LaunchedUnit::AppServer(7)))));
        assert!(matches!(
            read(&["codexd", "launch", "gateway", "--codex-home", "/h"]),
            Some(What::Program(LaunchedUnit::Gateway))
        ));
        assert!(matches!(read(&["codexd", "launch", "stop", "--codex-home", "/h"]), Some(What::Stop)));
        for other in
            [&of[..5], &["codexd", "launch", "gateway"], &["codexd", "gateway", "--codex-home", "/h"]]
        {
            assert!(read(other).is_none(), "{other:?}");
        }
    }
}
