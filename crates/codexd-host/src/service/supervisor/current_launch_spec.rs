//! The launch spec of the current server with its environment, which is in the memory of the supervisor only and in no file.

use std::time::{Duration, Instant};

use codexd_core::launch_spec::LaunchSpec;
use codexd_core::limits::SUPERVISOR_TIMEOUT_MS;

use super::wire::{Order, Report};
use crate::home::Home;

/// Asks the supervisor of a home for the launch spec of the current server. `None` without a supervisor, without a server, or from a
/// supervisor of a version that does not know the order.
pub fn current_launch_spec(home: &Home) -> Option<LaunchSpec> {
    let mut connection = super::observe(home).ok()?.connection?;
    connection.order(&Order::GetLaunchSpec).ok()?;
    let deadline = Instant::now() + Duration::from_millis(SUPERVISOR_TIMEOUT_MS);
    loop {
        if let Report::LaunchSpec { program } = connection.next_or_busy(deadline).ok()? {
            return program.map(|program| *program);
        }
    }
}
