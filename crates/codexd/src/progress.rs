//! Progress lines on stderr while a command waits.

use std::time::Instant;

use crate::limits::{PROGRESS_FIRST_AFTER, PROGRESS_INTERVAL};
use crate::output;

/// Prints what a command waits for: first after 2 s, then every 10 s.
#[derive(Debug)]
pub struct ProgressReporter {
    began: Instant,
    next: Instant,
}

impl ProgressReporter {
    /// Starts the clock.
    pub fn start() -> Self {
        let began = Instant::now();
        Self { began, next: began + PROGRESS_FIRST_AFTER }
    }

    /// When the next line is due.
    pub fn next_due(&self) -> Instant {
        self.next
    }

    /// Prints `what`, with the seconds since the start, if a line is due.
    pub fn report(&mut self, what: impl FnOnce() -> String) {
        let now = Instant::now();
        if now >= self.next {
            self.next = now + PROGRESS_INTERVAL;
            output::say(&format!("{} ({} s)", what(), now.duration_since(self.began).as_secs()));
        }
    }
}
