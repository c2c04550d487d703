//! How long to wait before the next attempt: at once, then 100 ms doubling to 30 s, each a little shortened at random so
//! that many hosts do not move in step.
//!
//! A pause is from start to start: what is to be bounded is how often a process is started. One that has lived for longer
//! than its pause has had it, and its clients do not wait again.

use std::collections::VecDeque;

use crate::clock::Monotonic;
use crate::limits::{BACKOFF_CEILING_MS, BACKOFF_FIRST_MS, CRASH_LIMIT, CRASH_WINDOW_MS, STABLE_AFTER_MS};

/// The memory of crashes.
#[derive(Clone, Debug)]
pub struct Backoff {
    crashes: VecDeque<Monotonic>,
    in_a_row: u32,
    looping: bool,
    random: u64,
}

impl Backoff {
    /// No crashes yet. `seed` drives the jitter.
    pub fn new(seed: u64) -> Self {
        Self { crashes: VecDeque::new(), in_a_row: 0, looping: false, random: seed }
    }

    /// Whether so many crashes came so fast that this is a loop. It stays one until a process lives long enough.
    pub fn looping(&self) -> bool {
        self.looping
    }

    /// Takes note of a crash of a process that had lived for so long, and answers how long to wait, in milliseconds.
    pub fn crashed(&mut self, lived_ms: u64, now: Monotonic) -> u64 {
        self.crashes.push_back(now);
        while self.crashes.front().is_some_and(|&first| now.since_ms(first) > CRASH_WINDOW_MS) {
            self.crashes.pop_front();
        }
        self.in_a_row += 1;
        self.looping |= self.crashes.len() >= CRASH_LIMIT;
        let full = if self.looping { BACKOFF_CEILING_MS } else { Self::full_wait_ms(self.in_a_row) };
        (full - self.jitter(full / 5)).saturating_sub(lived_ms)
    }

    /// Takes note that a process has lived from `since` until `now`.
    pub fn lived(&mut self, since: Monotonic, now: Monotonic) {
        if now.since_ms(since) >= STABLE_AFTER_MS {
            self.reset();
        }
    }

    /// When a process that lives since `since` leaves the past behind; `None` if there is nothing to leave behind.
    pub fn settles_at(&self, since: Monotonic) -> Option<Monotonic> {
        (self.in_a_row > 0).then(|| since + STABLE_AFTER_MS)
    }

    /// Forgets every crash.
    pub fn reset(&mut self) {
        self.crashes.clear();
        self.in_a_row = 0;
        self.looping = false;
    }

    /// The pause before the `nth` restart in a row, unshortened.
    pub fn full_wait_ms(nth: u32) -> u64 {
        match nth {
            0 | 1 => 0,
            nth => BACKOFF_FIRST_MS
                .saturating_mul(1u64.checked_shl(nth - 2).unwrap_or(u64::MAX))
                .min(BACKOFF_CEILING_MS),
        }
    }

    /// A number below `bound` from a splitmix64 sequence.
    fn jitter(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound.max(1)
    }
}
