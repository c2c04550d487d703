//! What the steps of `bootstrap` check, do and undo.
//!
//! A running server and its turns go on throughout: the supervisor of the old backend leaves without them, that of the new one adopts
//! them, and a live restart moves the server into the new backend.

use codexd_core::contract::{Backend, ErrorCode, Failure};
use codexd_host::service::backend;
use codexd_host::service::systemd::{UnitFile, installed};

use super::installation::Installation;
use super::placement;
use super::step::Step;
use crate::commands::remote_control;
use crate::steps::Procedure;

impl Procedure for Installation<'_> {
    type Step = Step;

    fn is_done(&mut self, step: Step) -> Result<bool, Failure> {
        Ok(match step {
            Step::WriteSetting => {
                let found = self.context.config_as_found().config;
                found.is_remote_control_enabled() == self.config.is_remote_control_enabled()
            }
            Step::PutBehindGateway => !self.has_socket() || !placement::is_without_gateway(self.context)?,
            Step::WriteUnits => same(&self.before.units, &self.units),
            Step::ReloadManager => !self.wrote_units && self.is_loaded()?,
            Step::LeaveSupervisor => {
                placement::supervisor_outside(self.context, &self.names)?.is_none()
                    && !self.lacks_socket()?
                    && !self.is_outdated()?
            }
            Step::RecordBackend => backend::recorded(&self.context.home) == Some(self.backend),
            Step::EnableUnits => self.is_enabled(),
            Step::DisableUnits => installed::links(&self.folder, &self.names).is_empty(),
            Step::StopUnits => self.units_up()?.is_empty(),
            // It has to be asked: only an answer counts.
            Step::Serve => false,
            Step::MoveGateway => {
                placement::misplaced_gateway(self.context, &self.names, self.backend)?.is_none()
            }
            Step::MoveServer => {
                let wanted = self.config.is_remote_control_enabled();
                placement::server(self.context)?.is_none_or(|server| {
                    placement::is_in(&self.names, server, self.backend)
                        && remote_control::follows(server, wanted)
                })
            }
            Step::RemoveUnits => self.before.units.is_empty() && !self.is_known()?,
        })
    }

    fn apply(&mut self, step: Step) -> Result<(), Failure> {
        match step {
            Step::WriteSetting => self.context.write_settings(&self.config),
            Step::WriteUnits => {
                self.wrote_units = true;
                self.write_units(&self.units)
            }
            Step::ReloadManager => {
                self.reload()?;
                if self.is_loaded()? {
                    return Ok(());
                }
                let message = format!(
                    "the systemd user manager does not read the unit files in {}",
                    self.folder.display()
                );
                Err(Failure::new(ErrorCode::ServiceManagerFailed, message)
                    .hint("run the command with the HOME and XDG_CONFIG_HOME of the user manager"))
            }
            Step::LeaveSupervisor => {
                self.is_moving = true;
                if self.lacks_socket()? || self.is_outdated()? {
                    self.stop_supervisor()?;
                }
                placement::end_supervisor_outside(self.context, &self.names)
            }
            Step::RecordBackend => self.record(Some(self.backend)),
            Step::EnableUnits => self.enable(&self.units),
            Step::DisableUnits => self.disable(),
            Step::StopUnits => {
                self.is_moving = true;
                self.stop_units()
            }
            Step::Serve => {
                self.outcome = Some(self.serve()?);
                Ok(())
            }
            Step::MoveGateway => {
                // It listens on another socket than the one that systemd has bound: the supervisor replaces it by itself.
                placement::move_gateway(self.context, &self.names, self.backend, self.has_socket())
            }
            Step::PutBehindGateway | Step::MoveServer => self.replace_server(),
            Step::RemoveUnits => {
                self.write_units(&[])?;
                self.reload()
            }
        }
    }

    fn undo(&mut self, step: Step) -> Result<(), Failure> {
        match step {
            Step::WriteSetting => self.context.write_settings(&self.before.config),
            Step::WriteUnits | Step::RemoveUnits => {
                self.write_units(&self.before.units)?;
                self.reload()
            }
            Step::EnableUnits if !self.before.is_enabled => self.disable(),
            Step::DisableUnits if self.before.is_enabled => self.enable(&self.before.units),
            Step::RecordBackend => {
                self.record(self.before.backend)?;
                // The supervisor of the units takes the server back.
                if self.backend == Backend::Pid && self.before.is_active {
                    self.serve_again()
                } else {
                    Ok(())
                }
            }
            Step::LeaveSupervisor => self.serve_again(),
            Step::Serve => {
                self.stop_started()?;
                match self.backend {
                    Backend::Systemd if !self.before.is_active => self.stop_units(),
                    Backend::Pid if self.before.is_active => {
                        placement::end_supervisor_outside(self.context, &self.names)
                    }
                    _ => Ok(()),
                }
            }
            // The supervisor that runs in the end restarts what it adopts where it runs.
            Step::PutBehindGateway
            | Step::ReloadManager
            | Step::EnableUnits
            | Step::DisableUnits
            | Step::StopUnits
            | Step::MoveGateway
            | Step::MoveServer => Ok(()),
        }
    }
}

fn same(one: &[UnitFile], other: &[UnitFile]) -> bool {
    one.len() == other.len() && one.iter().all(|file| other.contains(file))
}
