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
        std::thread::sleep(limits::LOOK_EVERY);
    }
}

/// Runs a future on a runtime of its own, for tests that are not asynchronous themselves.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime needs only an epoll descriptor")
        .block_on(future)
}
