//! The one task that writes.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Poll, Waker};

use tokio::sync::Notify;

use super::connection::WsConnection;
use crate::limits::{WRITE_BYTES, WRITE_TURN_CONNECTIONS};

/// The connections that something was said on since they were last written to, in that order.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    marked: RefCell<Vec<Rc<WsConnection>>>,
    task: RefCell<Option<Waker>>,
    /// Told whenever a connection that ends has nothing more to write.
    pub(super) ended: Notify,
}

impl Writer {
    pub(super) fn mark(&self, connection: Rc<WsConnection>) {
        self.marked.borrow_mut().push(connection);
        if let Some(task) = self.task.borrow_mut().take() {
            task.wake();
        }
    }

    /// Waits until nothing more is to be written to any of `connections`, which are all closed.
    pub(crate) async fn all_ended(&self, connections: &[Rc<WsConnection>]) {
        loop {
            let next = self.ended.notified();
            if connections.iter().all(|connection| connection.is_flushed()) {
                return;
            }
            next.await;
        }
    }

    /// Writes for as long as it is polled.
    pub(crate) async fn run(&self) {
        let mut buffer = Vec::with_capacity(WRITE_BYTES);
        let mut turn = Vec::new();
        loop {
            std::future::poll_fn(|context| {
                if self.marked.borrow().is_empty() {
                    *self.task.borrow_mut() = Some(context.waker().clone());
                    return Poll::Pending;
                }
                Poll::Ready(())
            })
            .await;
            std::mem::swap(&mut turn, &mut *self.marked.borrow_mut());
            let mut served = 0;
            for connection in turn.drain(..) {
                connection.marked.set(false);
                if connection.flush(&mut buffer) && !connection.marked.replace(true) {
                    self.marked.borrow_mut().push(connection);
                }
                served += 1;
                if served % WRITE_TURN_CONNECTIONS == 0 {
                    tokio::task::yield_now().await;
                }
            }
            if !self.marked.borrow().is_empty() {
                tokio::task::yield_now().await;
            }
        }
    }
}
