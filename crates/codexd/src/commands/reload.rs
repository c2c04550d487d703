//! `codexd reload`: like `restart`, but without a limit for running turns.

use codexd_core::contract::Failure;
use codexd_core::launch_spec::{DrainSignal, StopPolicy};

use super::lifecycle::{self, Reply};
use super::restart;
use crate::context::Context;
use crate::drive::{self, Handover};

/// Runs the command. SIGHUP drains a server and never forces its exit, however often it is sent.
///
/// # Errors
/// Why no new server answers.
pub fn run(context: &Context) -> Result<Reply, Failure> {
    let _lock = context.lock("reload")?;
    let config = context.config()?;
    let policy = StopPolicy { signal: DrainSignal::Hangup, grace_ms: None };
    let outcome = restart::replace(context, &config, policy, Handover::Completed)?;
    drive::log_outcome(context, "reload", &outcome);
    Ok(lifecycle::reply(context, &config, &outcome))
}
