//! A non-blocking stream, over a Unix socket or TCP.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use rustix::net::{RecvFlags, SendFlags, Shutdown, shutdown};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpStream, UnixStream};

/// A non-blocking stream.
///
/// The kernel reports writability only while a task waits for it. Reported always, it would wake this process each time
/// the peer reads: once more per message, at the peer's cost.
///
/// One task waits on a stream. A wait for readability or writability replaces the one before.
#[derive(Debug)]
pub(crate) struct Stream {
    socket: Socket,
    /// `None` while no task waits.
    watch: RefCell<Option<Watch>>,
}

#[derive(Clone, Debug)]
struct Socket(Rc<OwnedFd>);

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[derive(Debug)]
struct Watch {
    socket: AsyncFd<Socket>,
    /// It also reports writability.
    is_writable: bool,
}

impl Stream {
    pub(crate) fn unix(stream: UnixStream) -> io::Result<Self> {
        Ok(Self::new(stream.into_std()?.into()))
    }

    pub(crate) fn tcp(stream: TcpStream) -> io::Result<Self> {
        Ok(Self::new(stream.into_std()?.into()))
    }

    fn new(socket: OwnedFd) -> Self {
        Self { socket: Socket(Rc::new(socket)), watch: RefCell::default() }
    }

    pub(crate) fn descriptor(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Reads the input that is there.
    ///
    /// # Errors
    /// `WouldBlock` if there is none.
    pub(crate) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let watch = self.watch.borrow();
        let Some(watch) = &*watch else { return self.read_unnoticed(buffer) };
        // A short read has emptied the socket: reporting `WouldBlock` to the runtime saves the read that would return it.
        // Input that arrives in between wakes the task as usual.
        let mut read = None;
        let outcome = watch.socket.try_io(Interest::READABLE, |_| match self.read_unnoticed(buffer)? {
            count if 0 < count && count < buffer.len() => {
                read = Some(count);
                Err(io::ErrorKind::WouldBlock.into())
            }
            count => Ok(count),
        });
        read.map_or(outcome, Ok)
    }

    /// Reads the input that is there, also input that the runtime has not noticed yet.
    ///
    /// # Errors
    /// As [`Self::try_read`].
    pub(crate) fn read_unnoticed(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let (_, count) = rustix::io::retry_on_intr(|| {
            rustix::net::recv(&self.socket.0, &mut *buffer, RecvFlags::empty())
        })?;
        Ok(count)
    }

    /// Writes as much as the socket takes.
    ///
    /// # Errors
    /// `WouldBlock` if it takes nothing.
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::retry_on_intr(|| rustix::net::send(&self.socket.0, bytes, SendFlags::NOSIGNAL))?)
    }

    /// Shuts down the write direction.
    pub(crate) fn finish(&self) -> io::Result<()> {
        Ok(shutdown(&self.socket.0, Shutdown::Write)?)
    }

    /// Waits for input.
    pub(crate) fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.watched(Interest::READABLE, |watch| watch.socket.poll_read_ready(context).map_ok(drop))
    }

    /// Ignores input and writability until the next wait.
    pub(crate) fn stop_polling(&self) {
        *self.watch.borrow_mut() = None;
    }

    /// Waits for writability after a short [`Self::try_write`]. Call it before [`Self::poll_readable`]: it discards the wait for
    /// input.
    pub(crate) fn poll_writable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let both = Interest::READABLE | Interest::WRITABLE;
        let writable =
            ready!(self.watched(both, |watch| watch.socket.poll_write_ready(context).map_ok(drop)));
        self.stop_polling();
        Poll::Ready(writable)
    }

    /// Waits for input and appends it.
    ///
    /// # Errors
    /// `UnexpectedEof` at the end of the input.
    pub(crate) async fn read_more(&self, into: &mut Vec<u8>) -> io::Result<()> {
        let mut chunk = [0; 1024];
        loop {
            poll_fn(|context| self.poll_readable(context)).await?;
            match self.try_read(&mut chunk) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    into.extend_from_slice(&chunk[..count]);
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes all bytes.
    pub(crate) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.try_write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    poll_fn(|context| self.poll_writable(context)).await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits for an event of the socket. A new registration reports the present state at once.
    fn watched<T>(
        &self,
        interest: Interest,
        poll: impl FnOnce(&Watch) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let mut watch = self.watch.borrow_mut();
        if watch.as_ref().is_none_or(|watch| interest.is_writable() && !watch.is_writable) {
            // A socket can be registered only once.
            *watch = None;
            // SAFETY: the watch shares ownership of the socket, which stays open that long and is never replaced.
            #[allow(unsafe_code)]
            let socket = unsafe { AsyncFd::register_with_interest(self.socket.clone(), interest) };
            let socket = socket.map_err(io::Error::from)?;
            *watch = Some(Watch { socket, is_writable: interest.is_writable() });
        }
        watch.as_ref().map_or(Poll::Pending, poll)
    }
}
