//! How often a link is read that tells of much that nobody waits for.
//!
//! Read at once, every delta of a turn that pours costs three processes a wake-up; read a little later, many of them share
//! one. The turn itself is faster for it where the processors are busy. A link over which an answer is to come is read at once,
//! and so is one from which more is left to be read.

use std::time::{Duration, Instant};

use crate::limits::{COALESCED_READ_MS, IMMEDIATE_READS};

/// The reads that a link has to spare: one more every [`COALESCED_READ_MS`].
#[derive(Debug)]
pub(super) struct ReadBudget {
    spare: u32,
    counted: Instant,
}

impl ReadBudget {
    pub(super) fn new(now: Instant) -> Self {
        Self { spare: IMMEDIATE_READS, counted: now }
    }

    /// Counts a read that brought nothing that anybody waits for. How long the next one is to wait.
    pub(super) fn count(&mut self, now: Instant) -> Option<Duration> {
        let gained = now.saturating_duration_since(self.counted).as_millis() / u128::from(COALESCED_READ_MS);
        if gained > 0 {
            let gained = u32::try_from(gained).unwrap_or(u32::MAX);
            self.spare = self.spare.saturating_add(gained).min(IMMEDIATE_READS);
            self.counted = now;
        }
        self.spare = self.spare.saturating_sub(1);
        (self.spare == 0).then_some(Duration::from_millis(COALESCED_READ_MS))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::ReadBudget;
    use crate::limits::{COALESCED_READ_MS, IMMEDIATE_READS};

    fn reads_until_paced(read_budget: &mut ReadBudget, from: Instant, every: Duration) -> Option<u32> {
        (1..10_000).find(|&read| read_budget.count(from + every * read).is_some())
    }

    #[test]
    fn a_burst_is_read_at_once_and_what_goes_on_pouring_is_not() {
        let began = Instant::now();
        let often = Duration::from_micros(10);
        let mut read_budget = ReadBudget::new(began);
        let paced = reads_until_paced(&mut read_budget, began, often).expect("it pours");
        assert!((IMMEDIATE_READS..IMMEDIATE_READS * 2).contains(&paced), "{paced}");
        let still = began + often * (paced + 1);
        assert_eq!(read_budget.count(still), Some(Duration::from_millis(COALESCED_READ_MS)));
        let rested = still + Duration::from_secs(1);
        assert_eq!(
            reads_until_paced(&mut read_budget, rested, often).map(|read| read >= IMMEDIATE_READS),
            Some(true)
        );
    }

    #[test]
    fn a_link_that_tells_of_little_is_never_paced() {
        let began = Instant::now();
        let mut read_budget = ReadBudget::new(began);
        let every = Duration::from_millis(COALESCED_READ_MS * 2);
        assert_eq!(reads_until_paced(&mut read_budget, began, every), None);
    }
}
