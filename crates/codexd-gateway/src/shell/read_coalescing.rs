//! Delays reads of a connection on which many notifications arrive.
//!
//! Read at once, every delta of a fast turn wakes three processes; read a little later, many deltas share one wake-up. Where
//! the processors are busy, the turn itself becomes faster. A connection is read at once while a response is expected on it or
//! input is left.

use std::time::{Duration, Instant};

use crate::limits::{COALESCED_READ_MS, IMMEDIATE_READS};

/// The immediate reads that a connection has left. It gains one every [`COALESCED_READ_MS`].
#[derive(Debug)]
pub(super) struct ReadBudget {
    left: u32,
    counted: Instant,
}

impl ReadBudget {
    pub(super) fn new(now: Instant) -> Self {
        Self { left: IMMEDIATE_READS, counted: now }
    }

    /// Counts a read that brought only notifications. Returns how long to delay the next one.
    pub(super) fn count(&mut self, now: Instant) -> Option<Duration> {
        let gained = now.saturating_duration_since(self.counted).as_millis() / u128::from(COALESCED_READ_MS);
        if gained > 0 {
            let gained = u32::try_from(gained).unwrap_or(u32::MAX);
            self.left = self.left.saturating_add(gained).min(IMMEDIATE_READS);
            self.counted = now;
        }
        self.left = self.left.saturating_sub(1);
        (self.left == 0).then_some(Duration::from_millis(COALESCED_READ_MS))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::ReadBudget;
    use crate::limits::{COALESCED_READ_MS, IMMEDIATE_READS};

    fn reads_until_delayed(read_budget: &mut ReadBudget, from: Instant, every: Duration) -> Option<u32> {
        (1..10_000).find(|&read| read_budget.count(from + every * read).is_some())
    }

    #[test]
    fn a_burst_is_read_at_once_and_a_steady_stream_is_delayed() {
        let began = Instant::now();
        let often = Duration::from_micros(10);
        let mut read_budget = ReadBudget::new(began);
        let delayed = reads_until_delayed(&mut read_budget, began, often).expect("delayed");
        assert!((IMMEDIATE_READS..IMMEDIATE_READS * 2).contains(&delayed), "{delayed}");
        let still = began + often * (delayed + 1);
        assert_eq!(read_budget.count(still), Some(Duration::from_millis(COALESCED_READ_MS)));
        let rested = still + Duration::from_secs(1);
        assert_eq!(
            reads_until_delayed(&mut read_budget, rested, often).map(|read| read >= IMMEDIATE_READS),
            Some(true)
        );
    }

    #[test]
    fn a_connection_with_few_notifications_is_never_delayed() {
        let began = Instant::now();
        let mut read_budget = ReadBudget::new(began);
        let every = Duration::from_millis(COALESCED_READ_MS * 2);
        assert_eq!(reads_until_delayed(&mut read_budget, began, every), None);
    }
}
