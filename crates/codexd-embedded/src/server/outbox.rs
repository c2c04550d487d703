//! The queue of messages to one client, bounded in messages and in bytes.
//!
//! The event loop never waits for a client. A full outbox is cut: its messages are dropped and the connection
//! ends, as upstream.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::limits::{OUTBOUND_BYTES_MAX, OUTBOUND_MESSAGES_MAX};
use crate::wire::Frame;

/// Entries for which an empty queue keeps capacity.
const IDLE_CAPACITY: usize = 8;

/// A queue between the loop and the writer of one connection.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
    changed: Notify,
    taken: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<Frame>,
    bytes: usize,
    /// Whether the writer is sending a message.
    in_hand: bool,
    cut: bool,
}

impl Outbox {
    /// Adds a message, or cuts the connection if it does not fit.
    pub(crate) fn push(&self, frame: Frame) {
        let mut queue = self.lock();
        if queue.cut {
            return;
        }
        queue.bytes += frame.len();
        queue.frames.push_back(frame);
        let is_alone = queue.frames.len() == 1;
        if queue.frames.len() > OUTBOUND_MESSAGES_MAX || (queue.bytes > OUTBOUND_BYTES_MAX && !is_alone) {
            *queue = Queue { cut: true, ..Queue::default() };
        }
        drop(queue);
        self.changed.notify_one();
    }

    /// The next message; `None` when the connection was cut. The call also marks the previous message as sent.
    pub(crate) async fn next(&self) -> Option<Frame> {
        loop {
            if let Some(next) = self.try_next() {
                return next;
            }
            self.changed.notified().await;
        }
    }

    /// Whether nothing waits, so that it is time to flush.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().frames.is_empty()
    }

    /// Waits until the connection is cut.
    pub(crate) async fn was_cut(&self) {
        while !self.lock().cut {
            self.changed.notified().await;
        }
        self.changed.notify_one();
    }

    /// Waits until everything was sent, or the connection was cut.
    pub(crate) async fn emptied(&self) {
        loop {
            let taken = self.taken.notified();
            if self.lock().is_idle() {
                return;
            }
            taken.await;
        }
    }

    /// Drops everything and ends the connection.
    pub(crate) fn close(&self) {
        *self.lock() = Queue { cut: true, ..Queue::default() };
        self.changed.notify_one();
        self.taken.notify_waiters();
    }

    fn try_next(&self) -> Option<Option<Frame>> {
        let mut queue = self.lock();
        queue.in_hand = false;
        if queue.cut {
            return Some(None);
        }
        let Some(frame) = queue.frames.pop_front() else {
            queue.frames.shrink_to(IDLE_CAPACITY);
            drop(queue);
            self.taken.notify_waiters();
            return None;
        };
        queue.bytes -= frame.len();
        queue.in_hand = true;
        Some(Some(frame))
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn is_idle(&self) -> bool {
        self.cut || (self.frames.is_empty() && !self.in_hand)
    }
}

#[cfg(test)]
mod tests {
    use super::Outbox;
    use crate::limits::{OUTBOUND_BYTES_MAX, OUTBOUND_MESSAGES_MAX};

    fn now<T>(future: impl Future<Output = T>) -> Option<T> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match std::pin::pin!(future).poll(&mut context) {
            std::task::Poll::Ready(value) => Some(value),
            std::task::Poll::Pending => None,
        }
    }

    #[test]
    fn the_last_message_that_fits_is_kept_and_one_more_cuts() {
        let outbox = Outbox::default();
        for _ in 0..OUTBOUND_MESSAGES_MAX {
            outbox.push("x".into());
        }
        assert_eq!(now(outbox.next()).flatten().as_deref(), Some("x"));
        outbox.push("y".into());
        outbox.push("z".into());
        assert_eq!(now(outbox.next()), Some(None));
    }

    #[test]
    fn bytes_are_bounded_too() {
        let outbox = Outbox::default();
        outbox.push("x".repeat(OUTBOUND_BYTES_MAX).into());
        assert!(now(outbox.was_cut()).is_none());
        outbox.push("x".into());
        assert!(now(outbox.was_cut()).is_some());
    }

    #[test]
    fn a_message_of_any_size_fits_behind_the_one_that_is_sent() {
        let outbox = Outbox::default();
        let large = "x".repeat(OUTBOUND_BYTES_MAX + 1);
        outbox.push(large.as_str().into());
        assert!(now(outbox.next()).flatten().is_some());
        outbox.push(large.as_str().into());
        assert!(now(outbox.was_cut()).is_none());
        outbox.push("x".into());
        assert!(now(outbox.was_cut()).is_some());
    }

    #[test]
    fn it_is_emptied_only_when_the_last_message_was_sent() {
        let outbox = Outbox::default();
        outbox.push("x".into());
        assert!(now(outbox.next()).flatten().is_some());
        assert!(now(outbox.emptied()).is_none());
        assert!(now(outbox.next()).is_none());
        assert!(now(outbox.emptied()).is_some());
    }
}
