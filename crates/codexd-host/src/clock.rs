//! The clocks of this machine. Decisions take the time as a value; only the I/O code reads it here.

use codexd_core::clock::Monotonic;
use jiff::{Timestamp, Unit};

/// A monotonic clock that also counts the time in which the machine is suspended, so that a backoff does not outlast it.
pub fn monotonic() -> Monotonic {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let ms = now.tv_sec.unsigned_abs() * 1_000 + now.tv_nsec.unsigned_abs() / 1_000_000;
    Monotonic(ms)
}

/// The current time in RFC 3339 with milliseconds, UTC.
pub fn timestamp() -> String {
    in_ms(0)
}

/// The time in `ms` from now, in RFC 3339.
pub fn in_ms(ms: u64) -> String {
    let now = Timestamp::now();
    let ahead = i64::try_from(ms).ok().map(jiff::SignedDuration::from_millis).unwrap_or_default();
    let moment = now.checked_add(ahead).unwrap_or(now);
    let moment = moment.round(Unit::Millisecond).unwrap_or(moment);
    format!("{moment:.3}")
}
