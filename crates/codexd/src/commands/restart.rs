//! `codexd restart`: a fresh server of the installed Codex, which is proven before the old one is touched.

use codexd_core::contract::Failure;
use codexd_core::lifecycle::Command;
use codexd_core::program::StopPolicy;
use codexd_core::settings::Settings;

use super::lifecycle::{self, Reply};
use crate::cli::RestartArgs;
use crate::context::Context;
use crate::drive::{self, Handover, Reached, Wish};
use crate::front::Launch;

/// Runs the command.
///
/// # Errors
/// Why no fresh server answers.
pub fn run(context: &Context, args: &RestartArgs) -> Result<Reply, Failure> {
    let _lock = context.lock("restart")?;
    let settings = context.settings()?;
    let policy = lifecycle::within_grace(&settings, args.grace.grace);
    let handover = if args.now { Handover::Never } else { Handover::Begun };
    let reached = replace(context, &settings, policy, handover)?;
    drive::note_outcome(context, "restart", &reached);
    Ok(lifecycle::reply(context, &settings, &reached))
}

/// Replaces the server, or starts one where none runs. The operation lock is held.
///
/// # Errors
/// Why no fresh server answers.
pub fn replace(
    context: &Context,
    settings: &Settings,
    policy: StopPolicy,
    handover: Handover,
) -> Result<Reached, Failure> {
    let program = |launch: &Launch| lifecycle::program(context, settings, launch);
    let (command, gateway) = (Command::Restart, settings.gateway);
    drive::drive(context, &Wish { command, program: &program, policy, gateway, handover })
}
