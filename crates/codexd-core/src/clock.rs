//! Time as a value: it is passed in, never read here.

use std::ops::Add;

use serde::{Deserialize, Serialize};

/// Milliseconds of a clock that only goes forward. Only differences mean something.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct Monotonic(pub u64);

impl Monotonic {
    /// How many milliseconds have passed since `earlier`; zero if it lies ahead.
    pub fn since_ms(self, earlier: Monotonic) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<u64> for Monotonic {
    type Output = Monotonic;

    fn add(self, milliseconds: u64) -> Monotonic {
        Monotonic(self.0.saturating_add(milliseconds))
    }
}
