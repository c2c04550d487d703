//! The hub's clock and the deadline that it asked for.

use std::cell::Cell;
use std::time::{Duration, Instant};

use codexd_core::clock::Monotonic;
use tokio::sync::Notify;

#[derive(Debug)]
pub(super) struct Timer {
    began: Instant,
    /// When the timer task wakes next; `None` while no deadline is set.
    armed: Cell<Option<Monotonic>>,
    rearm: Notify,
}

impl Timer {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), armed: Cell::new(None), rearm: Notify::new() }
    }

    /// Milliseconds since the gateway started.
    pub(super) fn now(&self) -> Monotonic {
        Monotonic(u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// Wakes the timer task if it would sleep past `deadline`. A task that wakes too early checks again.
    pub(super) fn arm(&self, deadline: Option<Monotonic>) {
        let Some(deadline) = deadline else { return };
        if self.armed.get().is_none_or(|armed| deadline < armed) {
            self.armed.set(Some(deadline));
            self.rearm.notify_one();
        }
    }

    /// Waits until the deadline that `deadline` returns has come, also if it changes meanwhile.
    pub(super) async fn reached(&self, deadline: impl Fn() -> Option<Monotonic>) {
        loop {
            let rearmed = self.rearm.notified();
            let deadline = deadline();
            self.armed.set(deadline);
            match deadline {
                None => rearmed.await,
                Some(at) if at <= self.now() => return,
                Some(at) => tokio::select! {
                    () = rearmed => {}
                    () = tokio::time::sleep_until((self.began + Duration::from_millis(at.0)).into()) => {}
                },
            }
        }
    }
}
