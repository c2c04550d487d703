//! `codexd start`: starts a server if none runs.

use codexd_core::contract::Failure;
use codexd_core::lifecycle::Command;

use super::lifecycle::{self, Reply};
use crate::cli::StartArgs;
use crate::context::Context;
use crate::drive::{self, Handover, Request};
use crate::launch_specs::{self, LaunchRequest};

/// Runs the command.
///
/// # Errors
/// Why no server answers.
pub fn run(context: &Context, args: &StartArgs) -> Result<Reply, Failure> {
    let _lock = context.lock("start")?;
    let config = context.config()?;
    let embedded = |launch: &LaunchRequest| launch_specs::embedded(context, &config, launch.socket.clone());
    let real = |launch: &LaunchRequest| lifecycle::program(context, &config, launch);
    let outcome = drive::drive(
        context,
        &Request {
            command: Command::Start { adopt: args.adopt },
            program: if args.embedded { &embedded } else { &real },
            policy: lifecycle::within_grace(&config, None),
            gateway: config.gateway(),
            handover: Handover::Never,
        },
    )?;
    drive::log_outcome(context, "start", &outcome);
    Ok(lifecycle::reply(context, &config, &outcome))
}
