//! One home while `bootstrap` works on it: what there was before, what is to be, and the parts of its steps.

use std::path::PathBuf;
use std::time::Duration;

use codexd_core::config::Config;
use codexd_core::contract::{Backend, ErrorCode, Failure, Repair};
use codexd_core::launch_spec::{DrainSignal, StopPolicy};
use codexd_core::lifecycle::Command;
use codexd_core::limits::SYSTEMCTL_TIMEOUT_MS;
use codexd_host::service::backend;
use codexd_host::service::systemd::{ActiveState, Systemctl, UnitFile, UnitNames, installed};
use serde_json::Value;

use super::placement;
use crate::commands::{lifecycle, restart};
use crate::context::Context;
use crate::drive::{self, Handover, Outcome, Request};
use crate::launch_specs::LaunchRequest;
use crate::{failures, service_settings};

/// What there was before the first step.
#[derive(Debug)]
pub(super) struct Before {
    pub(super) config: Config,
    pub(super) backend: Option<Backend>,
    pub(super) units: Vec<UnitFile>,
    pub(super) is_enabled: bool,
    pub(super) is_active: bool,
    pub(super) server_ran: bool,
}

/// The work on one home.
pub struct Installation<'a> {
    pub(super) context: &'a Context,
    /// The configuration as it is to be.
    pub config: Config,
    pub(super) backend: Backend,
    pub(super) names: UnitNames,
    pub(super) folder: PathBuf,
    pub(super) units: Vec<UnitFile>,
    /// The binary of codexd and the environment of the units.
    codexd: PathBuf,
    environment: Vec<(String, String)>,
    systemctl: Systemctl,
    pub(super) before: Before,
    pub(super) wrote_units: bool,
    /// The old supervisor has left for this command.
    pub(super) is_moving: bool,
    pub(super) outcome: Option<Outcome>,
}

impl<'a> Installation<'a> {
    /// Renders the units and looks at what there is. Changes nothing.
    ///
    /// # Errors
    /// A path cannot stand in a unit file; the file system's errors.
    pub fn new(context: &'a Context, config: Config, backend: Backend) -> Result<Self, Failure> {
        let settings = service_settings::units(context, &config)?;
        let units = match backend {
            Backend::Systemd => settings.render().map_err(|error| service_settings::unrenderable(&error))?,
            Backend::Pid => Vec::new(),
        };
        let folder = installed::folder().ok_or_else(|| {
            Failure::new(ErrorCode::HomeInvalid, "cannot determine the folder of unit files: HOME is not set")
                .hint("set HOME to the home folder of this user")
        })?;
        let (names, codexd, environment) = (settings.names, settings.codexd, settings.environment);
        let systemctl = Systemctl::new();
        let found = installed::read(&folder, &names)
            .map_err(|error| failures::state("read the unit files in", &folder, &error))?;
        let before = Before {
            config: context.config_as_found().config,
            backend: backend::recorded(&context.home),
            is_enabled: !installed::links(&folder, &names).is_empty(),
            is_active: is_active(&systemctl, &names.supervisor())?,
            server_ran: placement::server(context)?.is_some(),
            units: found,
        };
        let (wrote_units, is_moving, outcome) = (false, false, None);
        Ok(Self {
            context,
            config,
            backend,
            names,
            folder,
            units,
            codexd,
            environment,
            systemctl,
            before,
            wrote_units,
            is_moving,
            outcome,
        })
    }

    /// The version that the server reports.
    pub fn server_version(&self) -> Option<String> {
        self.outcome.as_ref()?.answer.as_ref()?.version().map(str::to_owned)
    }

    /// The repairs of the command, without the adoption that is part of a move.
    pub fn repairs(&self) -> Vec<Repair> {
        let mut repairs = self.context.repairs();
        repairs.retain(|repair| !(self.is_moving && repair.found == "lost-supervisor"));
        repairs
    }

    /// The last report about the handover.
    pub fn handover(&self) -> Option<Value> {
        self.outcome.as_ref()?.handover.clone()
    }

    fn call(&self, arguments: &[&str]) -> Result<String, Failure> {
        let timeout = Duration::from_millis(SYSTEMCTL_TIMEOUT_MS);
        self.systemctl.run(arguments, timeout).map_err(|error| failures::service_manager(&error))
    }

    /// The units that are enabled: those of the supervisor and of its socket. The supervisor starts and stops the others.
    fn enabled_units(&self) -> Vec<String> {
        units_to_enable(&self.names, &self.units)
    }

    /// Whether the units that are to be enabled are, and no other ones.
    pub(super) fn is_enabled(&self) -> bool {
        let links = installed::links(&self.folder, &self.names);
        let wanted = self.enabled_units();
        let is_linked = |unit: &String| links.iter().any(|link| link.ends_with(unit));
        links.len() == wanted.len() && wanted.iter().all(is_linked)
    }

    /// Enables the units of `files` and no other ones.
    pub(super) fn enable(&self, files: &[UnitFile]) -> Result<(), Failure> {
        self.disable()?;
        let units = units_to_enable(&self.names, files);
        let names: Vec<&str> = units.iter().map(String::as_str).collect();
        self.call(&[&["enable", "--"], names.as_slice()].concat()).map(drop)
    }

    pub(super) fn write_units(&self, units: &[UnitFile]) -> Result<(), Failure> {
        installed::write(&self.folder, &self.names, units)
            .map_err(|error| failures::state("write the unit files in", &self.folder, &error))
    }

    pub(super) fn record(&self, backend: Option<Backend>) -> Result<(), Failure> {
        backend::record(&self.context.home, backend)
            .map_err(|error| failures::state("write", &self.context.home.backend(), &error))
    }

    pub(super) fn disable(&self) -> Result<(), Failure> {
        installed::remove_links(&self.folder, &self.names)
            .map_err(|error| failures::state("remove the links of the units in", &self.folder, &error))
    }

    pub(super) fn reload(&self) -> Result<(), Failure> {
        if self.systemctl.is_there() { self.call(&["daemon-reload"]).map(drop) } else { Ok(()) }
    }

    /// Whether systemd has read the unit files.
    pub(super) fn is_loaded(&self) -> Result<bool, Failure> {
        let timeout = Duration::from_millis(SYSTEMCTL_TIMEOUT_MS);
        for unit in self.enabled_units() {
            let shown = self
                .systemctl
                .show(&unit, &["LoadState", "NeedDaemonReload"], timeout)
                .map_err(|error| failures::service_manager(&error))?;
            let is = |name: &str, value: &str| shown.get(name).is_some_and(|shown| shown == value);
            if !is("LoadState", "loaded") || !is("NeedDaemonReload", "no") {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether systemd knows the unit of the supervisor, also without its file.
    pub(super) fn is_known(&self) -> Result<bool, Failure> {
        let timeout = Duration::from_millis(SYSTEMCTL_TIMEOUT_MS);
        if !self.systemctl.is_there() {
            return Ok(false);
        }
        let shown = self.systemctl.show(&self.names.supervisor(), &["LoadState"], timeout);
        let shown = shown.map_err(|error| failures::service_manager(&error))?;
        Ok(shown.get("LoadState").is_some_and(|state| state == "loaded"))
    }

    pub(super) fn has_socket(&self) -> bool {
        self.units.iter().any(|unit| unit.name == self.names.socket())
    }

    /// Whether the service runs without its socket: systemd starts no socket whose service runs.
    pub(super) fn lacks_socket(&self) -> Result<bool, Failure> {
        Ok(self.has_socket()
            && is_active(&self.systemctl, &self.names.supervisor())?
            && !is_active(&self.systemctl, &self.names.socket())?)
    }

    pub(super) fn stop_supervisor(&self) -> Result<(), Failure> {
        self.call(&["stop", "--", &self.names.supervisor()]).map(drop)
    }

    /// Stops the units of the home but for those of the server and the gateway, which go on.
    pub(super) fn stop_units(&self) -> Result<(), Failure> {
        let units = self.units_up()?;
        let names: Vec<&str> = units.iter().map(String::as_str).collect();
        if names.is_empty() {
            return Ok(());
        }
        // In one call: the supervisor leaves before its socket is closed.
        self.call(&[&["stop", "--"], names.as_slice()].concat())?;
        // A unit that has not failed is an error here.
        let _ = self.call(&[&["reset-failed", "--"], names.as_slice()].concat());
        Ok(())
    }

    /// The units of the home that are up or have failed, but for those of the server and the gateway.
    pub(super) fn units_up(&self) -> Result<Vec<String>, Failure> {
        let mut up = Vec::new();
        if self.systemctl.is_there() {
            for unit in [self.names.supervisor(), self.names.socket(), self.names.commands()] {
                let state = active_state(&self.systemctl, &unit)?;
                if state != ActiveState::Inactive {
                    up.push(unit);
                }
            }
        }
        Ok(up)
    }

    /// Whether the supervisor of the unit is another binary than codexd now is, or has another environment than the unit file gives to it.
    pub(super) fn is_outdated(&self) -> Result<bool, Failure> {
        let supervisor = placement::supervisor_inside(self.context, &self.names)?;
        Ok(supervisor.is_some_and(|found| {
            !placement::is_of_binary(found.pid, &self.codexd)
                || !placement::has_environment(found.pid, &self.environment)
        }))
    }

    /// Starts the server, or adopts the one that runs.
    pub(super) fn serve(&self) -> Result<Outcome, Failure> {
        let program = |launch: &LaunchRequest| lifecycle::program(self.context, &self.config, launch);
        let request = Request {
            command: Command::Start { adopt: false },
            program: &program,
            policy: lifecycle::within_grace(&self.config, None),
            gateway: self.config.gateway(),
            handover: Handover::Never,
        };
        drive::drive(self.context, &request)
    }

    /// Replaces the server by one that the supervisor starts. Turns go on, or are waited for, however long they take.
    pub(super) fn replace_server(&mut self) -> Result<(), Failure> {
        let policy = StopPolicy { signal: DrainSignal::Hangup, grace_ms: None };
        let outcome = restart::replace(self.context, &self.config, policy, Handover::Begun)?;
        self.outcome = Some(outcome);
        Ok(())
    }

    /// Ends a server that this command has started, or tried to.
    pub(super) fn stop_started(&mut self) -> Result<(), Failure> {
        self.outcome = None;
        if self.before.server_ran {
            return Ok(());
        }
        let program = |launch: &LaunchRequest| lifecycle::program(self.context, &self.config, launch);
        let request = Request {
            command: Command::Stop,
            program: &program,
            policy: lifecycle::within_grace(&self.config, None),
            gateway: self.config.gateway(),
            handover: Handover::Never,
        };
        drive::drive(self.context, &request).map(drop)
    }

    /// The supervisor of the backend before this command takes the server back, and the gateway.
    pub(super) fn serve_again(&self) -> Result<(), Failure> {
        if !self.before.server_ran {
            return Ok(());
        }
        self.serve()?;
        let backend = self.before.backend.unwrap_or(Backend::Pid);
        placement::move_gateway(self.context, &self.names, backend, backend == Backend::Systemd)
    }
}

/// Whether a unit is up. Without a user manager none is.
fn is_active(systemctl: &Systemctl, unit: &str) -> Result<bool, Failure> {
    let is_up = || active_state(systemctl, unit).map(|state| state == ActiveState::Up);
    if systemctl.is_there() { is_up() } else { Ok(false) }
}

fn active_state(systemctl: &Systemctl, unit: &str) -> Result<ActiveState, Failure> {
    let timeout = Duration::from_millis(SYSTEMCTL_TIMEOUT_MS);
    systemctl.active_state(unit, timeout).map_err(|error| failures::service_manager(&error))
}

fn units_to_enable(names: &UnitNames, files: &[UnitFile]) -> Vec<String> {
    let units = [names.supervisor(), names.socket()];
    units.into_iter().filter(|unit| files.iter().any(|file| file.name == *unit)).collect()
}
