//! Progress lines on stderr while a command waits.

use std::time::{Duration, Instant};

use crate::output;

/// A person wonders after so long why nothing happens.
const FIRST_MESSAGE_AFTER: Duration = Duration::from_secs(2);
const MESSAGE_INTERVAL: Duration = Duration::from_secs(10);

/// Prints what a command waits for: first after 2 s, then every 10 s.
#[derive(Debug)]
pub struct ProgressReporter {
    began: Instant,
    next: Instant,
}

impl ProgressReporter {
    /// The wait begins now.
    pub fn start() -> Self {
        let began = Instant::now();
        Self { began, next: began + FIRST_MESSAGE_AFTER }
    }

    /// When the next line is due.
    pub fn next_due(&self) -> Instant {
        self.next
    }

    /// Prints `what`, with the seconds since the start, if a line is due.
    pub fn report(&mut self, what: impl FnOnce() -> String) {
        let now = Instant::now();
        if now >= self.next {
            self.next = now + MESSAGE_INTERVAL;
            output::say(&format!("{} ({} s)", what(), now.duration_since(self.began).as_secs()));
        }
    }
}
