//! `codexd uninstall`: stops the server, and removes the services and the state of a home. Codex, its configuration and the threads stay.

mod state_files;

use std::path::PathBuf;
use std::time::Duration;

use codexd_core::config::Config;
use codexd_core::contract::{ErrorCode, Failure, LifecycleStatus, UninstallReply};
use codexd_core::lifecycle::Command;
use codexd_core::limits::{SUPERVISOR_END_TIMEOUT_MS, SYSTEMCTL_TIMEOUT_MS};
use codexd_host::service::backend;
use codexd_host::service::supervisor;
use codexd_host::service::systemd::{ActiveState, Systemctl, UnitNames, installed};
use serde::Serialize;

use super::lifecycle;
use crate::cli::GraceArgs;
use crate::context::{Context, VERSION};
use crate::drive::{self, Handover, Request};
use crate::failures;
use crate::launch_specs::LaunchRequest;
use crate::output::Answer;
use crate::steps::{self, Procedure};
use crate::style::Text;

/// The answer.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Reply(UninstallReply);

impl Answer for Reply {
    fn text(&self) -> Text {
        let count = self.0.removed.len();
        let files = codexd_core::plural::counted(count, "file");
        let mut text = Text::from(format!("codexd uninstalled: no service is left; removed {files}"));
        for path in &self.0.kept {
            text.push_line(format!("kept: {}", path.display()));
        }
        text
    }
}

/// One step.
#[derive(Clone, Copy, Debug)]
enum Step {
    StopServer,
    DisableUnits,
    StopUnits,
    RemoveUnits,
    ForgetBackend,
    RemoveState,
}

const STEPS: [Step; 6] = [
    Step::StopServer,
    Step::DisableUnits,
    Step::StopUnits,
    Step::RemoveUnits,
    Step::ForgetBackend,
    Step::RemoveState,
];

struct Removal<'a> {
    context: &'a Context,
    config: Config,
    grace: Option<u64>,
    names: UnitNames,
    folder: Option<PathBuf>,
    systemctl: Systemctl,
    removed: Vec<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// Why a server still runs, or a file cannot be removed. Nothing is undone: the command may be run again.
pub fn run(context: &Context, args: &GraceArgs) -> Result<Reply, Failure> {
    let _lock = context.lock("uninstall")?;
    let config = context.config_to_stop()?;
    let mut removal = Removal {
        context,
        config,
        grace: args.grace,
        names: UnitNames::of(&context.home),
        folder: installed::folder(),
        systemctl: Systemctl::new(),
        removed: Vec::new(),
    };
    steps::run_forward(&mut removal, &STEPS)?;
    Ok(Reply(UninstallReply {
        status: LifecycleStatus::Uninstalled,
        removed: removal.removed,
        kept: state_files::kept(&context.home),
        codexd_version: VERSION,
        repairs: context.repairs(),
    }))
}

impl Removal<'_> {
    fn call(&self, arguments: &[&str]) -> Result<(), Failure> {
        let timeout = Duration::from_millis(SYSTEMCTL_TIMEOUT_MS);
        self.systemctl.run(arguments, timeout).map(drop).map_err(|error| failures::service_manager(&error))
    }

    fn has_units(&self) -> Result<bool, Failure> {
        let Some(folder) = &self.folder else { return Ok(false) };
        let found = installed::read(folder, &self.names)
            .map_err(|error| failures::state("read the unit files in", folder, &error))?;
        Ok(!found.is_empty())
    }

    fn stop_server(&self) -> Result<(), Failure> {
        let program = |launch: &LaunchRequest| lifecycle::program(self.context, &self.config, launch);
        let request = Request {
            command: Command::Stop,
            program: &program,
            policy: lifecycle::within_grace(&self.config, self.grace),
            gateway: self.config.gateway(),
            handover: Handover::Never,
        };
        let outcome = drive::drive(self.context, &request)?;
        if outcome.status == LifecycleStatus::Stopping {
            let message = "this command runs inside the app-server, which stops when the turn ends; nothing else was removed";
            return Err(Failure::new(ErrorCode::StopTimeout, message)
                .hint("run `codexd uninstall` again, outside of the app-server"));
        }
        Ok(())
    }

    /// Stops every unit of the home, and lets systemd forget how units have ended.
    fn stop_units(&self) -> Result<(), Failure> {
        let names = &self.names;
        let timeout = Duration::from_millis(SYSTEMCTL_TIMEOUT_MS);
        let units = [names.supervisor(), names.socket(), names.commands(), names.gateway()];
        // This is a pattern: where no unit fits, nothing happens.
        let app_servers = names.app_servers();
        let mut stop = vec!["stop", "--", &app_servers];
        for unit in &units {
            let state = self.systemctl.active_state(unit, timeout);
            if state.map_err(|error| failures::service_manager(&error))? == ActiveState::Up {
                stop.push(unit);
            }
        }
        self.call(&stop)?;
        let all = units.iter().chain([&app_servers]).map(String::as_str);
        // A unit that has not failed is an error here.
        let _ = self.call(&["reset-failed", "--"].into_iter().chain(all).collect::<Vec<&str>>());
        Ok(())
    }

    fn remove_units(&mut self) -> Result<(), Failure> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let failed = |error| failures::state("remove the unit files in", folder, &error);
        let found = installed::read(folder, &self.names).map_err(failed)?;
        installed::write(folder, &self.names, &[]).map_err(failed)?;
        self.removed.extend(found.into_iter().map(|unit| folder.join(unit.name)));
        if self.systemctl.is_there() { self.call(&["daemon-reload"]) } else { Ok(()) }
    }

    /// The supervisor writes its files until it has exited.
    fn remove_state(&mut self) -> Result<(), Failure> {
        let home = &self.context.home;
        let timeout = Duration::from_millis(SUPERVISOR_END_TIMEOUT_MS);
        let is_free = supervisor::await_free_lock(home, timeout)
            .map_err(|error| failures::state("lock", &home.supervisor_lock(), &error))?;
        if !is_free {
            return Err(Failure::new(ErrorCode::SupervisorFailed, "the supervisor does not exit")
                .hint("run the command again"));
        }
        let removed =
            state_files::remove(home).map_err(|(path, error)| failures::state("remove", &path, &error))?;
        let links = state_files::remove_record(home, self.config.folders())
            .map_err(|(path, error)| failures::state("remove", &path, &error))?;
        self.removed.extend(removed.into_iter().chain(links));
        Ok(())
    }
}

impl Procedure for Removal<'_> {
    type Step = Step;

    fn is_done(&mut self, step: Step) -> Result<bool, Failure> {
        Ok(match step {
            Step::DisableUnits => {
                self.folder.as_ref().is_none_or(|folder| installed::links(folder, &self.names).is_empty())
            }
            Step::StopUnits => !self.systemctl.is_there(),
            // A command that was killed may have removed the files before systemd has read that.
            Step::RemoveUnits => !self.has_units()? && !self.systemctl.is_there(),
            Step::ForgetBackend => backend::recorded(&self.context.home).is_none(),
            Step::StopServer | Step::RemoveState => false,
        })
    }

    fn apply(&mut self, step: Step) -> Result<(), Failure> {
        match step {
            Step::StopServer => self.stop_server(),
            Step::DisableUnits => {
                let Some(folder) = &self.folder else { return Ok(()) };
                installed::remove_links(folder, &self.names)
                    .map_err(|error| failures::state("remove the links of the units in", folder, &error))
            }
            Step::StopUnits => self.stop_units(),
            Step::RemoveUnits => self.remove_units(),
            Step::ForgetBackend => {
                let home = &self.context.home;
                backend::record(home, None)
                    .map_err(|error| failures::state("remove", &home.backend(), &error))
            }
            Step::RemoveState => self.remove_state(),
        }
    }

    fn undo(&mut self, _: Step) -> Result<(), Failure> {
        Ok(())
    }
}
