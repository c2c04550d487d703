//! `codexd stop`: ends the server and all its processes.

use codexd_core::contract::Failure;
use codexd_core::lifecycle::Command;
use codexd_host::service::supervisor;

use super::lifecycle::{self, Reply};
use crate::cli::GraceArgs;
use crate::context::Context;
use crate::drive::{self, Handover, Request};

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
    // If the write fails, `status` shows an older state.
    let _ = supervisor::settle(&context.home);
    drive::log_outcome(context, "stop", &outcome);
    Ok(lifecycle::reply(context, &config, &outcome))
}
