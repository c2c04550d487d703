//! What the current server is started with, as the supervisor has it in its memory: the environment is written nowhere.

use std::time::{Duration, Instant};

use codexd_core::launch_spec::LaunchSpec;
use codexd_core::limits::SUPERVISOR_TIMEOUT_MS;

use super::wire::{Order, Report};
use crate::home::Home;

/// Asks the supervisor of a home for the program of its current server, with its environment. `None` if there is no supervisor, if it has
/// no program, or if it is of a version that does not know the question.
pub fn launch_spec(home: &Home) -> Option<LaunchSpec> {
    let mut connection = super::observe(home).ok()?.connection?;
    connection.order(&Order::GetLaunchSpec).ok()?;
    let deadline = Instant::now() + Duration::from_millis(SUPERVISOR_TIMEOUT_MS);
    loop {
        if let Report::LaunchSpec { program } = connection.next_or_busy(deadline).ok()? {
            return program.map(|program| *program);
        }
    }
}
