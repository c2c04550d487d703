//! The task that writes to all connections.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Poll, Waker};

use tokio::sync::Notify;

use crate::limits::{WRITE_BYTES, WRITE_TURN_CONNECTIONS};

/// A connection that the queue writes to.
pub(crate) trait Flush {
    /// Sets whether the connection is in the queue; returns whether it was.
    fn set_queued(&self, is_queued: bool) -> bool;

    /// Writes the pending output as far as the socket takes it, with `buffer` as scratch space. Returns `true` when more
    /// could be written but other connections are due first.
    fn flush(&self, buffer: &mut Vec<u8>) -> bool;

    /// Whether no output is left to write, or none can be written.
    fn is_flushed(&self) -> bool;
}

/// The connections with pending output, in the order in which they got it.
#[derive(Debug)]
pub(crate) struct WriteQueue<T> {
    queued: RefCell<Vec<Rc<T>>>,
    task: RefCell<Option<Waker>>,
    /// Notified when a closed connection has written its last output.
    pub(super) ended: Notify,
}

impl<T> Default for WriteQueue<T> {
    fn default() -> Self {
        Self { queued: RefCell::default(), task: RefCell::default(), ended: Notify::new() }
    }
}

impl<T: Flush> WriteQueue<T> {
    pub(super) fn push(&self, connection: Rc<T>) {
        self.queued.borrow_mut().push(connection);
        if let Some(task) = self.task.borrow_mut().take() {
            task.wake();
        }
    }

    /// Waits until all of `connections`, which are closed, have written their last output.
    pub(super) async fn all_ended(&self, connections: &[Rc<T>]) {
        loop {
            let next = self.ended.notified();
            if connections.iter().all(|connection| connection.is_flushed()) {
                return;
            }
            next.await;
        }
    }

    /// Writes until the task is aborted.
    pub(super) async fn run(&self) {
        let mut buffer = Vec::with_capacity(WRITE_BYTES);
        let mut turn = Vec::new();
        loop {
            std::future::poll_fn(|context| {
                if self.queued.borrow().is_empty() {
                    *self.task.borrow_mut() = Some(context.waker().clone());
                    return Poll::Pending;
                }
                Poll::Ready(())
            })
            .await;
            std::mem::swap(&mut turn, &mut *self.queued.borrow_mut());
            let mut served = 0;
            for connection in turn.drain(..) {
                connection.set_queued(false);
                if connection.flush(&mut buffer) && !connection.set_queued(true) {
                    self.queued.borrow_mut().push(connection);
                }
                served += 1;
                if served % WRITE_TURN_CONNECTIONS == 0 {
                    tokio::task::yield_now().await;
                }
            }
            if !self.queued.borrow().is_empty() {
                tokio::task::yield_now().await;
            }
        }
    }
}
