//! The pause between two checks of a state that sends no event: a lock that another process holds, or `/proc`.

use std::time::Duration;

/// Waits for `interval`. Wait for an event with a deadline instead wherever there is one.
#[expect(clippy::disallowed_methods, reason = "the one pause of every loop that polls")]
pub fn pause(interval: Duration) {
    std::thread::sleep(interval);
}
