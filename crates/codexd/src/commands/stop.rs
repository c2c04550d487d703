//! `codexd stop`: ends the server and all its processes.

use std::time::Duration;

use codexd_core::contract::{Backend, Failure, LifecycleStatus};
use codexd_core::lifecycle::Command;
use codexd_core::limits::SYSTEMCTL_TIMEOUT_MS;
use codexd_host::service::supervisor;
use codexd_host::service::systemd::{Systemctl, UnitNames};

use super::lifecycle::{self, Reply};
use crate::cli::GraceArgs;
use crate::context::Context;
use crate::drive::{self, Handover, Request};

/// systemd starts no supervisor again that could not start a server, and none for a client that connects.
fn stop_units(context: &Context) {
    if context.backend() != Backend::Systemd {
        return;
    }
    let names = UnitNames::of(&context.home);
    let timeout = Duration::from_millis(SYSTEMCTL_TIMEOUT_MS);
    // Without a user manager there is nothing to stop.
    let _ = Systemctl::new().run(&["stop", "--", &names.socket(), &names.supervisor()], timeout);
}

/// Runs the command.
///
/// # Errors
/// Why a server still runs.
pub fn run(context: &Context, args: &GraceArgs) -> Result<Reply, Failure> {
    let _lock = context.lock("stop")?;
    let config = context.config_to_stop()?;
    let outcome = drive::drive(
        context,
        &Request {
            command: Command::Stop,
            program: &|launch| lifecycle::program(context, &config, launch),
            policy: lifecycle::within_grace(&config, args.grace),
            gateway: config.gateway(),
            handover: Handover::Never,
        },
    )?;
    // One that waits for the turn in which this command runs ends later.
    if outcome.status != LifecycleStatus::Stopping {
        stop_units(context);
    }
    // If the write fails, `status` shows an older state.
    let _ = supervisor::settle(&context.home);
    drive::log_outcome(context, "stop", &outcome);
    Ok(lifecycle::reply(context, &config, &outcome))
}
