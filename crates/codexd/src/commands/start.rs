//! `codexd start`: a server that runs and answers.

use codexd_core::contract::Failure;
use codexd_core::lifecycle::Command;

use super::lifecycle::{self, Reply};
use crate::cli::StartArgs;
use crate::codex;
use crate::context::Context;
use crate::drive::{self, Handover, Wish};
use crate::front::Launch;

/// Runs the command.
///
/// # Errors
/// Why no server answers.
pub fn run(context: &Context, args: &StartArgs) -> Result<Reply, Failure> {
    let _lock = context.lock("start")?;
    let settings = context.settings()?;
    let embedded = |launch: &Launch| {
        codex::embedded_program(context, settings.remote_control_enabled, launch.socket.clone())
    };
    let real = |launch: &Launch| lifecycle::program(context, &settings, launch);
    let reached = drive::drive(
        context,
        &Wish {
            command: Command::Start { adopt: args.adopt },
            program: if args.embedded { &embedded } else { &real },
            policy: lifecycle::within_grace(&settings, None),
            gateway: settings.gateway,
            handover: Handover::Never,
        },
    )?;
    drive::note_outcome(context, "start", &reached);
    Ok(lifecycle::reply(context, &settings, &reached))
}
