//! `codexd restart`: a fresh server of the installed Codex, which is proven before the old one is touched.

use codexd_core::contract::Failure;
use codexd_core::lifecycle::Command;
use codexd_core::program::StopPolicy;
use codexd_core::settings::Settings;

use super::lifecycle::{self, Reply};
use crate::cli::GraceArgs;
use crate::context::Context;
use crate::drive::{self, Reached, Wish};

/// Runs the verb.
///
/// # Errors
/// Why no fresh server answers.
pub fn run(context: &Context, args: &GraceArgs) -> Result<Reply, Failure> {
    let _lock = context.lock("restart")?;
    let settings = context.settings()?;
    let policy = lifecycle::within_grace(&settings, args.grace);
    let reached = replace(context, &settings, policy)?;
    drive::note_outcome(context, "restart", &reached);
    Ok(lifecycle::reply(context, &settings, &reached))
}

/// Replaces the server, or starts one where none runs. The operation lock is held.
///
/// # Errors
/// Why no fresh server answers.
pub fn replace(context: &Context, settings: &Settings, policy: StopPolicy) -> Result<Reached, Failure> {
    let program = |runs| lifecycle::program(context, settings, runs);
    drive::drive(context, &Wish { command: Command::Restart, program: &program, policy })
}
