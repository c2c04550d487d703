//! `codexd reload`: as restart, but running turns have all the time they need.

use codexd_core::contract::Failure;
use codexd_core::launch_spec::{DrainSignal, StopPolicy};

use super::lifecycle::{self, Reply};
use super::restart;
use crate::context::Context;
use crate::drive::{self, Handover};

/// Runs the command. SIGHUP drains and never forces, however often it is sent.
///
/// # Errors
/// Why no fresh server answers.
pub fn run(context: &Context) -> Result<Reply, Failure> {
    let _lock = context.lock("reload")?;
    let settings = context.settings()?;
    let policy = StopPolicy { signal: DrainSignal::Hangup, grace_ms: None };
    let outcome = restart::replace(context, &settings, policy, Handover::Completed)?;
    drive::log_outcome(context, "reload", &outcome);
    Ok(lifecycle::reply(context, &settings, &outcome))
}
