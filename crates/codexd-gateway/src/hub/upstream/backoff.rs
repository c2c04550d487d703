//! Backoff for connections that broke or could not be opened.

use crate::hub::event::Now;
use crate::limits::{RECONNECT_FIRST_WAIT_MS, RECONNECT_LAST_WAIT_MS, RECONNECT_STABLE_MS};

/// The delay between two attempts: doubled up to a maximum, and short again after a connection that lasted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Backoff {
    failures: u32,
    opened_at: Option<Now>,
    retry_at: Now,
}

impl Backoff {
    pub fn opened(&mut self, now: Now) {
        self.opened_at = Some(now);
    }

    /// The connection broke or could not be opened. Returns the delay in milliseconds.
    pub fn lost(&mut self, now: Now) -> u64 {
        if self.opened_at.take().is_some_and(|at| now.since_ms(at) >= RECONNECT_STABLE_MS) {
            self.failures = 0;
        }
        let wait = (RECONNECT_FIRST_WAIT_MS << self.failures.min(16)).min(RECONNECT_LAST_WAIT_MS);
        self.failures += 1;
        self.retry_at = now + wait;
        wait
    }

    pub fn may_try(&self, now: Now) -> bool {
        now >= self.retry_at
    }
}

#[cfg(test)]
mod tests {
    use super::{Backoff, Now};

    #[test]
    fn waits_double_up_to_a_ceiling_and_are_short_again_after_a_connection_that_lasted() {
        let mut backoff = Backoff::default();
        let waits: Vec<u64> = (0..11).map(|_| backoff.lost(Now::default())).collect();
        assert_eq!(waits, [20, 40, 80, 160, 320, 640, 1_280, 2_560, 5_000, 5_000, 5_000]);
        assert!(!backoff.may_try(Now::default() + 4_999) && backoff.may_try(Now::default() + 5_000));
        backoff.opened(Now::default());
        assert_eq!(backoff.lost(Now::default() + 999), 5_000, "it broke at once");
        backoff.opened(Now::default());
        assert_eq!(backoff.lost(Now::default() + 1_000), 20);
    }
}
