//! A point in time. It is passed in: nothing in [`crate::model`] reads a clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Microseconds since 1970.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub(crate) struct Timestamp(u64);

impl Timestamp {
    /// The time of the system clock.
    pub(crate) fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
    }

    #[cfg(test)]
    pub(crate) fn from_millis(millis: u64) -> Self {
        Self(millis * 1_000)
    }

    /// Milliseconds since 1970.
    pub(crate) fn millis(self) -> u64 {
        self.0 / 1_000
    }

    /// Whole seconds since 1970.
    pub(crate) fn secs(self) -> u64 {
        self.0 / 1_000_000
    }

    /// This timestamp plus `delay`.
    pub(crate) fn after(self, delay: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(delay.as_micros()).unwrap_or(u64::MAX)))
    }

    /// The time from `earlier` to this timestamp; zero if the clock went back.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}
