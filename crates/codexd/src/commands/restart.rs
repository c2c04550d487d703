//! `codexd restart`: a new server of the installed Codex, which is checked before the old one is touched.

use codexd_core::config::Config;
use codexd_core::contract::Failure;
use codexd_core::launch_spec::StopPolicy;
use codexd_core::lifecycle::Command;

use super::lifecycle::{self, Reply};
use crate::cli::RestartArgs;
use crate::context::Context;
use crate::drive::{self, Handover, Outcome, Request};
use crate::launch_specs::LaunchRequest;

/// Runs the command.
///
/// # Errors
/// Why no new server answers.
pub fn run(context: &Context, args: &RestartArgs) -> Result<Reply, Failure> {
    let _lock = context.lock("restart")?;
    let config = context.config()?;
    let policy = lifecycle::within_grace(&config, args.grace.grace);
    let handover = if args.now { Handover::Never } else { Handover::Begun };
    let outcome = replace(context, &config, policy, handover)?;
    drive::log_outcome(context, "restart", &outcome);
    Ok(lifecycle::reply(context, &config, &outcome))
}

/// Replaces the server, or starts one if none runs. The caller holds the operation lock.
///
/// # Errors
/// Why no new server answers.
pub fn replace(
    context: &Context,
    config: &Config,
    policy: StopPolicy,
    handover: Handover,
) -> Result<Outcome, Failure> {
    let program = |launch: &LaunchRequest| lifecycle::program(context, config, launch);
    let (command, gateway) = (Command::Restart, config.gateway());
    drive::drive(context, &Request { command, program: &program, policy, gateway, handover })
}
