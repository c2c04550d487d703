//! A WebSocket connection: a stream, a decoder for its input, and an outbox for its output.
//!
//! A sender pushes a message and never waits. The writer task ([`super::write_queue`]) flushes every connection with pending
//! output once, after the tasks that were ready have run: under load many messages share one system call, and a single message
//! is written at once. The task that serves a connection is woken only when there is input, when a full socket has room again,
//! and when the connection ends.

mod bounds;

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::outbox::{Outbox, Overflow};
pub(crate) use super::peer::Peer;
use super::stream::Stream;
use super::write_queue::{Flush, WriteQueue};
use crate::hub::Text;
use crate::limits::{OUTBOUND_FULL_BYTES, UPSTREAM_FULL_BYTES, WRITE_TURN_BYTES};
use codexd_protocol::websocket::Frame;
use codexd_protocol::websocket::{Decoder, Fault, Incoming};

/// A connection after the WebSocket handshake.
#[derive(Debug)]
pub(crate) struct WsConnection {
    stream: Stream,
    peer: Peer,
    decoder: RefCell<Decoder>,
    outbox: RefCell<Outbox>,
    write_queue: Rc<WriteQueue<WsConnection>>,
    /// Wakes the task that serves this connection.
    task: RefCell<Option<Waker>>,
    /// The connection is in the write queue.
    is_queued: Cell<bool>,
    /// The socket takes no more output for now.
    blocked: Cell<bool>,
    broken: Cell<bool>,
    /// The task is in [`Self::pause`].
    is_paused: Cell<bool>,
    /// The hub was asked to send no more requests over this connection.
    full: Cell<bool>,
    /// Connections that are not read while this outbox is full.
    sources: RefCell<Vec<Weak<WsConnection>>>,
    /// Bytes of a message that was too large and belongs to no request; it was dropped.
    dropped: Cell<Option<usize>>,
}

/// Why the task of a connection is woken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Ready {
    /// There is input.
    Readable,
    /// The outbox was full and has room again.
    Room,
    /// This end closed the connection, or it is broken.
    Ended,
}

/// The outcome of a read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Read {
    /// No input is left.
    All,
    /// There may be more input.
    More,
}

/// Why a connection has ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum End {
    /// The peer hung up, or the connection broke.
    Gone,
    /// The peer sent a close frame.
    Closed,
    /// The peer violated the protocol.
    Faulty(Fault),
    /// The outbox is full: the peer sends requests and does not read.
    Full(Overflow),
}

impl WsConnection {
    pub(crate) fn new(stream: Stream, peer: Peer, write_queue: Rc<WriteQueue<WsConnection>>) -> Rc<Self> {
        Rc::new(Self {
            stream,
            peer,
            decoder: RefCell::new(Decoder::new(peer.first_rules())),
            outbox: RefCell::new(Outbox::new(peer.first_bounds(), peer == Peer::AppServer)),
            write_queue,
            task: RefCell::new(None),
            is_queued: Cell::new(false),
            blocked: Cell::new(false),
            broken: Cell::new(false),
            is_paused: Cell::new(false),
            full: Cell::new(false),
            sources: RefCell::default(),
            dropped: Cell::new(None),
        })
    }

    /// Queues a message.
    ///
    /// # Errors
    /// The outbox is full; the message was not queued.
    pub(crate) fn push(self: &Rc<Self>, text: Text) -> Result<(), Overflow> {
        self.outbox.borrow_mut().push(text)?;
        self.enqueue();
        Ok(())
    }

    /// Closes the connection after the pending output.
    pub(crate) fn close(self: &Rc<Self>, code: u16, reason: &str) {
        self.outbox.borrow_mut().close(Frame::close(code, reason));
        self.enqueue();
        self.wake();
        self.wake_sources();
    }

    /// Closes the connection and drops the pending output.
    pub(crate) fn cut(self: &Rc<Self>, code: u16, reason: &str) {
        self.outbox.borrow_mut().clear();
        self.close(code, reason);
    }

    /// Ends the connection without a close frame.
    pub(crate) fn abandon(&self) {
        self.broken.set(true);
        self.wake();
        self.wake_sources();
    }

    /// Whether the connection broke.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.get()
    }

    /// Whether this end closed the connection, or it is broken.
    pub(crate) fn is_over(&self) -> bool {
        self.broken.get() || self.outbox.borrow().is_closed()
    }

    /// Wakes the task of this connection.
    pub(crate) fn wake(&self) {
        if let Some(task) = self.task.borrow().as_ref() {
            task.wake_by_ref();
        }
    }

    /// Ignores input for the length of `pause`, or until a response is awaited, or the connection is over.
    pub(crate) async fn pause(&self, pause: Duration, is_awaited: impl Fn() -> bool) {
        if is_awaited() {
            return;
        }
        self.stream.stop_polling();
        let mut pause = pin!(tokio::time::sleep(pause));
        self.is_paused.set(true);
        std::future::poll_fn(|context| {
            self.register_waker(context);
            if self.is_over() || is_awaited() { Poll::Ready(()) } else { pause.as_mut().poll(context) }
        })
        .await;
        self.is_paused.set(false);
    }

    /// Ends a [`Self::pause`].
    pub(crate) fn resume_reading(&self) {
        if self.is_paused.get() {
            self.wake();
        }
    }

    /// Waits for something to do and continues blocked writes meanwhile. Ignores input while `should_read` returns `false`.
    pub(crate) async fn ready(self: &Rc<Self>, should_read: impl Fn() -> bool) -> Ready {
        std::future::poll_fn(|context| {
            self.register_waker(context);
            self.poll_written(context);
            if self.is_over() {
                return Poll::Ready(Ready::Ended);
            }
            if self.full.get() && self.outbox.borrow().waiting_bytes() < UPSTREAM_FULL_BYTES / 2 {
                self.full.set(false);
                return Poll::Ready(Ready::Room);
            }
            if !should_read() {
                return Poll::Pending;
            }
            match self.stream.poll_readable(context) {
                Poll::Ready(Ok(())) => Poll::Ready(Ready::Readable),
                // The runtime would never report input.
                Poll::Ready(Err(_)) => {
                    self.broken.set(true);
                    Poll::Ready(Ready::Ended)
                }
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    /// Waits until all output is written, or none can be.
    pub(crate) async fn flushed(self: &Rc<Self>) {
        std::future::poll_fn(|context| {
            self.register_waker(context);
            self.poll_written(context);
            if self.is_flushed() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Waits until the peer has hung up and discards its input.
    pub(crate) async fn wait_for_hangup(&self) {
        let mut discarded = [0; 512];
        loop {
            if std::future::poll_fn(|context| self.stream.poll_readable(context)).await.is_err() {
                return;
            }
            match self.stream.try_read(&mut discarded) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }

    /// Reads once into `buffer` and passes every complete message to `on_text`.
    ///
    /// # Errors
    /// The connection has ended. Complete messages were passed on.
    pub(crate) fn read(self: &Rc<Self>, buffer: &mut [u8], on_text: impl FnMut(Text)) -> Result<Read, End> {
        let count = match self.stream.try_read(buffer) {
            Ok(0) => return Err(End::Gone),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Read::All),
            Err(_) => return Err(End::Gone),
        };
        self.take(&buffer[..count], on_text)?;
        Ok(if count == buffer.len() { Read::More } else { Read::All })
    }

    /// Reads the input that is left, also what the runtime has not noticed yet. For a peer that has exited.
    pub(crate) fn read_last(self: &Rc<Self>, buffer: &mut [u8], mut on_text: impl FnMut(Text)) {
        while let Ok(count @ 1..) = self.stream.read_unnoticed(buffer) {
            if self.take(&buffer[..count], &mut on_text).is_err() {
                return;
            }
        }
    }

    /// Takes bytes that were read with the handshake.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub(crate) fn take(self: &Rc<Self>, mut bytes: &[u8], mut on_text: impl FnMut(Text)) -> Result<(), End> {
        // A message may have closed the connection: the rest of the input is ignored.
        while !self.is_over() {
            let incoming = self.decoder.borrow_mut().next(&mut bytes);
            match incoming {
                Ok(None) => return Ok(()),
                Ok(Some(Incoming::Text(text))) => on_text(text),
                Ok(Some(Incoming::TooLarge(excerpt))) => self.take_oversized(&excerpt, &mut on_text)?,
                Ok(Some(Incoming::Ping(payload))) => {
                    self.outbox.borrow_mut().push_control(Frame::pong(payload)).map_err(End::Full)?;
                    self.enqueue();
                }
                Ok(Some(Incoming::Close { .. })) => return Err(End::Closed),
                Err(fault) => return Err(End::Faulty(fault)),
            }
        }
        Ok(())
    }

    fn enqueue(self: &Rc<Self>) {
        // A blocked connection is queued when the socket has room again.
        if !self.is_queued.get() && !self.blocked.get() {
            self.is_queued.set(true);
            self.write_queue.push(Rc::clone(self));
        }
    }

    fn register_waker(&self, context: &Context<'_>) {
        let mut task = self.task.borrow_mut();
        if !task.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            *task = Some(context.waker().clone());
        }
    }

    /// Queues the connection when a full socket has room again.
    fn poll_written(self: &Rc<Self>, context: &mut Context<'_>) {
        if !self.blocked.get() {
            return;
        }
        match self.stream.poll_writable(context) {
            Poll::Ready(Ok(())) => {
                self.blocked.set(false);
                self.enqueue();
            }
            Poll::Ready(Err(_)) => self.broken.set(true),
            Poll::Pending => {}
        }
    }
}

impl Flush for WsConnection {
    fn set_queued(&self, is_queued: bool) -> bool {
        self.is_queued.replace(is_queued)
    }

    fn flush(&self, buffer: &mut Vec<u8>) -> bool {
        let mut outbox = self.outbox.borrow_mut();
        let mut written = 0;
        while !outbox.is_empty() && !self.blocked.get() && !self.broken.get() {
            if written >= WRITE_TURN_BYTES {
                return true;
            }
            outbox.fill(buffer);
            match self.stream.try_write(buffer) {
                Ok(count) => {
                    outbox.advance(count);
                    written += count;
                    self.blocked.set(count < buffer.len());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.blocked.set(true),
                Err(_) => self.broken.set(true),
            }
        }
        let ended = self.broken.get() || (outbox.is_closed() && outbox.is_empty());
        let waiting = outbox.waiting_bytes();
        drop(outbox);
        let has_room_again = self.full.get() && waiting < UPSTREAM_FULL_BYTES / 2;
        if self.blocked.get() || ended || has_room_again {
            self.wake();
        }
        if ended || waiting < OUTBOUND_FULL_BYTES / 2 {
            self.wake_sources();
        }
        if ended {
            self.write_queue.ended.notify_waiters();
        }
        false
    }

    fn is_flushed(&self) -> bool {
        self.broken.get() || self.outbox.borrow().is_empty()
    }
}
