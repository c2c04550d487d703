//! Limits how often an event of one type is written. The event log is bounded: a client that is disconnected again and again would erase
//! it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use codexd_core::limits::{EVENT_AGAIN_AFTER_MS, EVENT_TYPES_MAX, EVENTS_AT_ONCE_PER_TYPE};

/// A token bucket for each type of event, in the process that writes them.
#[derive(Clone, Debug, Default)]
pub(super) struct Rates {
    buckets: Arc<Mutex<HashMap<String, Bucket>>>,
}

#[derive(Debug)]
struct Bucket {
    tokens: u32,
    filled_at: Instant,
    /// Dropped since the last event of this type that was written.
    dropped: u64,
}

impl Rates {
    /// Whether to write an event of this type. Returns the number of events dropped since the last one; or `None`, and counts the event as
    /// dropped.
    pub(super) fn admit(&self, kind: &str, now: Instant) -> Option<u64> {
        let mut buckets = self.lock();
        let bucket = bucket(&mut buckets, kind, now);
        bucket.fill(now);
        match bucket.tokens.checked_sub(1) {
            Some(left) => {
                bucket.tokens = left;
                Some(std::mem::take(&mut bucket.dropped))
            }
            None => {
                bucket.dropped += 1;
                None
            }
        }
    }

    /// Counts events of this type that were lost in another way.
    pub(super) fn count_dropped(&self, kind: &str, count: u64) {
        bucket(&mut self.lock(), kind, Instant::now()).dropped += count;
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Bucket>> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All types beyond the bound share a bucket.
fn bucket<'a>(buckets: &'a mut HashMap<String, Bucket>, kind: &str, now: Instant) -> &'a mut Bucket {
    let is_known = buckets.contains_key(kind);
    let kind = if is_known || buckets.len() < EVENT_TYPES_MAX { kind } else { "" };
    let new = || Bucket { tokens: EVENTS_AT_ONCE_PER_TYPE, filled_at: now, dropped: 0 };
    buckets.entry(kind.to_owned()).or_insert_with(new)
}

impl Bucket {
    fn fill(&mut self, now: Instant) {
        let again_after = Duration::from_millis(EVENT_AGAIN_AFTER_MS);
        while self.tokens < EVENTS_AT_ONCE_PER_TYPE {
            let Some(next) = self.filled_at.checked_add(again_after).filter(|next| *next <= now) else {
                return;
            };
            self.filled_at = next;
            self.tokens += 1;
        }
        self.filled_at = now;
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::Rates;
    use codexd_core::limits::{EVENT_AGAIN_AFTER_MS, EVENT_TYPES_MAX, EVENTS_AT_ONCE_PER_TYPE};

    #[test]
    fn each_type_has_its_own_limit_and_counts_dropped_events() {
        let (rates, began) = (Rates::default(), Instant::now());
        for _ in 0..EVENTS_AT_ONCE_PER_TYPE {
            assert_eq!(rates.admit("client.cut", began), Some(0));
        }
        for _ in 0..14_000 {
            assert_eq!(rates.admit("client.cut", began), None);
        }
        assert_eq!(rates.admit("server.lost", began), Some(0));
        let later = began + Duration::from_millis(EVENT_AGAIN_AFTER_MS);
        assert_eq!(rates.admit("client.cut", later), Some(14_000));
        assert_eq!(rates.admit("client.cut", later), None);
        rates.count_dropped("client.cut", 5);
        assert_eq!(rates.admit("client.cut", later + Duration::from_secs(86_400)), Some(6));
    }

    #[test]
    fn types_are_bounded() {
        let (rates, now) = (Rates::default(), Instant::now());
        for count in 0..2 * EVENT_TYPES_MAX {
            rates.admit(&count.to_string(), now);
        }
        assert_eq!(rates.lock().len(), EVENT_TYPES_MAX + 1);
    }
}
