//! A WebSocket connection: a stream, what is half read of it, and what waits to be written to it.
//!
//! Whoever has something to say pushes it and goes on. The writer task flushes every connection that was pushed to, once for
//! all that was pushed, after whatever else was ready to run has run: under load many messages share one system call, and a
//! lone one is written at once. The task that serves a connection is woken only when there is something to read, when a full
//! socket has room again, and when the connection ends.

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
use super::writer::Writer;
use crate::hub::Text;
use crate::limits::{OUTBOUND_ROOM_BYTES, UPSTREAM_ROOM_BYTES, WRITE_TURN_BYTES};
use codexd_protocol::websocket::Frame;
use codexd_protocol::websocket::{Decoder, Fault, Incoming};

/// A connection that has shaken hands.
#[derive(Debug)]
pub(crate) struct WsConnection {
    stream: Stream,
    peer: Peer,
    decoder: RefCell<Decoder>,
    outbox: RefCell<Outbox>,
    writer: Rc<Writer>,
    /// Whoever serves this connection.
    server: RefCell<Option<Waker>>,
    /// The writer knows that something waits.
    pub(super) marked: Cell<bool>,
    /// The socket is full.
    blocked: Cell<bool>,
    broken: Cell<bool>,
    /// It is in [`Self::rest`].
    is_paused: Cell<bool>,
    /// So many bytes wait that whoever has more to say over it was asked to wait.
    full: Cell<bool>,
    /// Connections that are not read while so much waits here.
    sources: RefCell<Vec<Weak<WsConnection>>>,
    /// A message of this size that belongs to no request was too large and is lost.
    dropped: Cell<Option<usize>>,
}

/// Why the task of a connection is woken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Ready {
    /// There is something to read.
    Readable,
    /// A connection that was full has room again.
    Room,
    /// The connection was closed from this peer, or is broken.
    Ended,
}

/// How a read went.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Read {
    /// Everything there was is read.
    All,
    /// There may be more.
    More,
}

/// Why nothing more comes over a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum End {
    /// The other end hung up, or the connection broke.
    Gone,
    /// The other end closed it in order.
    Closed,
    /// The other end did something wrong.
    Faulty(Fault),
    /// Too much waits: the other end asks and does not read.
    Full(Overflow),
}

impl WsConnection {
    /// A connection on a stream that has shaken hands.
    pub(crate) fn new(stream: Stream, peer: Peer, writer: Rc<Writer>) -> Rc<Self> {
        Rc::new(Self {
            stream,
            peer,
            decoder: RefCell::new(Decoder::new(peer.first_rules())),
            outbox: RefCell::new(Outbox::new(peer.first_bounds(), peer == Peer::AppServer)),
            writer,
            server: RefCell::new(None),
            marked: Cell::new(false),
            blocked: Cell::new(false),
            broken: Cell::new(false),
            is_paused: Cell::new(false),
            full: Cell::new(false),
            sources: RefCell::default(),
            dropped: Cell::new(None),
        })
    }

    /// Says something.
    ///
    /// # Errors
    /// Too much waits; it was not said.
    pub(crate) fn push(self: &Rc<Self>, text: Text) -> Result<(), Overflow> {
        self.outbox.borrow_mut().push(text)?;
        self.mark();
        Ok(())
    }

    /// Closes the connection after what waits.
    pub(crate) fn close(self: &Rc<Self>, code: u16, reason: &str) {
        self.outbox.borrow_mut().close(Frame::close(code, reason));
        self.mark();
        self.wake();
        self.wake_sources();
    }

    /// Closes the connection and drops what waits.
    pub(crate) fn cut(self: &Rc<Self>, code: u16, reason: &str) {
        self.outbox.borrow_mut().clear();
        self.close(code, reason);
    }

    /// Ends the connection without a word.
    pub(crate) fn abandon(&self) {
        self.broken.set(true);
        self.wake();
        self.wake_sources();
    }

    /// Whether the connection broke.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.get()
    }

    /// Whether everything is written that ever will be.
    pub(crate) fn is_flushed(&self) -> bool {
        self.broken.get() || self.outbox.borrow().is_empty()
    }

    /// Whether the connection was closed from this peer, or is broken.
    pub(crate) fn is_over(&self) -> bool {
        self.broken.get() || self.outbox.borrow().is_closed()
    }

    /// Wakes the task of this connection.
    pub(crate) fn wake(&self) {
        if let Some(server) = self.server.borrow().as_ref() {
            server.wake_by_ref();
        }
    }

    /// Lets things come without being woken by them, for so long, or until somebody waits for an answer, or the connection is over.
    pub(crate) async fn rest(&self, pause: Duration, is_waited_for: impl Fn() -> bool) {
        if is_waited_for() {
            return;
        }
        self.stream.stop_polling();
        let mut pause = pin!(tokio::time::sleep(pause));
        self.is_paused.set(true);
        std::future::poll_fn(|context| {
            self.register_waker(context);
            if self.is_over() || is_waited_for() { Poll::Ready(()) } else { pause.as_mut().poll(context) }
        })
        .await;
        self.is_paused.set(false);
    }

    /// Wakes the task of this connection if it rests.
    pub(crate) fn resume_reading(&self) {
        if self.is_paused.get() {
            self.wake();
        }
    }

    /// Waits for something to do, writing meanwhile what could not be written at once. Reads nothing while `should_read` says no.
    pub(crate) async fn ready(self: &Rc<Self>, should_read: impl Fn() -> bool) -> Ready {
        std::future::poll_fn(|context| {
            self.register_waker(context);
            self.poll_written(context);
            if self.is_over() {
                return Poll::Ready(Ready::Ended);
            }
            if self.full.get() && self.outbox.borrow().waiting_bytes() < UPSTREAM_ROOM_BYTES / 2 {
                self.full.set(false);
                return Poll::Ready(Ready::Room);
            }
            if !should_read() {
                return Poll::Pending;
            }
            match self.stream.poll_readable(context) {
                Poll::Ready(Ok(())) => Poll::Ready(Ready::Readable),
                // Nobody would ever tell that there is something to read.
                Poll::Ready(Err(_)) => {
                    self.broken.set(true);
                    Poll::Ready(Ready::Ended)
                }
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    /// Waits until everything is written, or cannot be.
    pub(crate) async fn flushed(self: &Rc<Self>) {
        std::future::poll_fn(|context| {
            self.register_waker(context);
            self.poll_written(context);
            if self.is_flushed() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Waits until the other end has hung up, whatever it still says.
    pub(crate) async fn wait_for_hangup(&self) {
        let mut waste = [0; 512];
        loop {
            if std::future::poll_fn(|context| self.stream.poll_readable(context)).await.is_err() {
                return;
            }
            match self.stream.try_read(&mut waste) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }

    /// Reads once into `buffer` and hands on every text that is complete.
    ///
    /// # Errors
    /// Nothing more comes. What was complete has been handed on.
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

    /// Reads all that is there, also what the runtime has not noticed yet: the other end is known to be gone.
    pub(crate) fn read_last(self: &Rc<Self>, buffer: &mut [u8], mut on_text: impl FnMut(Text)) {
        while let Ok(count @ 1..) = self.stream.read_unnoticed(buffer) {
            if self.take(&buffer[..count], &mut on_text).is_err() {
                return;
            }
        }
    }

    /// Takes bytes that were read already, with the handshake.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub(crate) fn take(self: &Rc<Self>, mut bytes: &[u8], mut on_text: impl FnMut(Text)) -> Result<(), End> {
        // Whoever was cut by what it said is not listened to any more.
        while !self.is_over() {
            let incoming = self.decoder.borrow_mut().next(&mut bytes);
            match incoming {
                Ok(None) => return Ok(()),
                Ok(Some(Incoming::Text(text))) => on_text(text),
                Ok(Some(Incoming::TooLarge(excerpt))) => self.take_oversized(&excerpt, &mut on_text)?,
                Ok(Some(Incoming::Ping(payload))) => {
                    self.outbox.borrow_mut().push_control(Frame::pong(payload)).map_err(End::Full)?;
                    self.mark();
                }
                Ok(Some(Incoming::Close { .. })) => return Err(End::Closed),
                Err(fault) => return Err(End::Faulty(fault)),
            }
        }
        Ok(())
    }

    /// Writes what waits, as far as there is room; `true` when there is more and others should have their turn.
    pub(super) fn flush(&self, buffer: &mut Vec<u8>) -> bool {
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
        let has_room_again = self.full.get() && waiting < UPSTREAM_ROOM_BYTES / 2;
        if self.blocked.get() || ended || has_room_again {
            self.wake();
        }
        if ended || waiting < OUTBOUND_ROOM_BYTES / 2 {
            self.wake_sources();
        }
        if ended {
            self.writer.ended.notify_waiters();
        }
        false
    }

    fn mark(self: &Rc<Self>) {
        // A blocked connection is marked again when there is room.
        if !self.marked.get() && !self.blocked.get() {
            self.marked.set(true);
            self.writer.mark(Rc::clone(self));
        }
    }

    fn register_waker(&self, context: &Context<'_>) {
        let mut server = self.server.borrow_mut();
        if !server.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            *server = Some(context.waker().clone());
        }
    }

    /// Lets the writer go on when a full socket has room again.
    fn poll_written(self: &Rc<Self>, context: &mut Context<'_>) {
        if !self.blocked.get() {
            return;
        }
        match self.stream.poll_writable(context) {
            Poll::Ready(Ok(())) => {
                self.blocked.set(false);
                self.mark();
            }
            Poll::Ready(Err(_)) => self.broken.set(true),
            Poll::Pending => {}
        }
    }
}
