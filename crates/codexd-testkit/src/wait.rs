//! Waiting for something to become true, with a deadline.

use std::future::Future;
use std::time::{Duration, Instant};

use crate::limits;

/// Looks every few milliseconds until `look` gives a value; for things that send no event of their own (a file, a
/// listening socket). `what` names it in the error.
///
/// # Errors
/// The deadline has passed; the sentence says what was waited for.
pub fn until<T>(timeout: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> anyhow::Result<T> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(value) = look() {
            return Ok(value);
        }
        anyhow::ensure!(Instant::now() < deadline, "waited {timeout:?} for {what}");
        pause(limits::LOOK_EVERY);
    }
}

/// Waits without an event: between two measurements, or between the steps of a client that is slow on purpose.
#[expect(clippy::disallowed_methods, reason = "the one pause of tests and benchmarks")]
pub fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

/// Runs a future on a runtime of its own, for tests that are not asynchronous themselves.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime needs only an epoll descriptor")
        .block_on(future)
}
