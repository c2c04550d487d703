//! A connection, whatever it is made of.

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

/// A non-blocking connection.
///
/// The kernel tells the runtime of room to write only while somebody waits for it. Told always, we would be woken each time
/// that the other end reads: once more for every message, and it is the other end that pays for the waking.
///
/// One task waits on it: what was asked for before is forgotten when something else is asked for.
#[derive(Debug)]
pub(crate) struct Stream {
    socket: Socket,
    /// None while nobody waits for anything.
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
    /// Of room to write, too.
    tells_of_room: bool,
}

impl Stream {
    /// A connection on this machine.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn unix(stream: UnixStream) -> io::Result<Self> {
        Ok(Self::new(stream.into_std()?.into()))
    }

    /// A connection from the network door.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn tcp(stream: TcpStream) -> io::Result<Self> {
        Ok(Self::new(stream.into_std()?.into()))
    }

    fn new(socket: OwnedFd) -> Self {
        Self { socket: Socket(Rc::new(socket)), watch: RefCell::default() }
    }

    pub(crate) fn descriptor(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Reads what is there.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is; else the system's.
    pub(crate) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let watch = self.watch.borrow();
        let Some(watch) = &*watch else { return self.read_unnoticed(buffer) };
        // One that reads less than there is room for has used up the socket: the runtime is told so without the further call
        // that would only answer `WouldBlock`. What comes in between the two wakes as usual.
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

    /// Reads what is there, also what the runtime has not noticed yet.
    ///
    /// # Errors
    /// As [`Self::try_read`].
    pub(crate) fn read_unnoticed(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let (_, count) = rustix::io::retry_on_intr(|| {
            rustix::net::recv(&self.socket.0, &mut *buffer, RecvFlags::empty())
        })?;
        Ok(count)
    }

    /// Writes what there is room for.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; else the system's.
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::retry_on_intr(|| rustix::net::send(&self.socket.0, bytes, SendFlags::NOSIGNAL))?)
    }

    /// Writes nothing more.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn finish(&self) -> io::Result<()> {
        Ok(shutdown(&self.socket.0, Shutdown::Write)?)
    }

    /// Waits until [`Self::try_read`] is worth it.
    pub(crate) fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.watched(Interest::READABLE, |watch| watch.socket.poll_read_ready(context).map_ok(drop))
    }

    /// Lets things come without waking anybody, until somebody waits again.
    pub(crate) fn stop_polling(&self) {
        *self.watch.borrow_mut() = None;
    }

    /// Waits until there is room again after [`Self::try_write`] found too little. Ask before [`Self::poll_readable`]: whether
    /// there is something to read has to be asked again after it.
    pub(crate) fn poll_writable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let both = Interest::READABLE | Interest::WRITABLE;
        let room = ready!(self.watched(both, |watch| watch.socket.poll_write_ready(context).map_ok(drop)));
        self.stop_polling();
        Poll::Ready(room)
    }

    /// Waits for something and appends it.
    ///
    /// # Errors
    /// `UnexpectedEof` when nothing more comes; else the system's.
    pub(crate) async fn read_more(&self, into: &mut Vec<u8>) -> io::Result<()> {
        let mut piece = [0; 1024];
        loop {
            poll_fn(|context| self.poll_readable(context)).await?;
            match self.try_read(&mut piece) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    into.extend_from_slice(&piece[..count]);
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes all of it, waiting for room.
    ///
    /// # Errors
    /// The system's.
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

    /// Asks the runtime, which is told at once of what there is already.
    fn watched<T>(
        &self,
        interest: Interest,
        ask: impl FnOnce(&Watch) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let mut watch = self.watch.borrow_mut();
        if watch.as_ref().is_none_or(|watch| interest.is_writable() && !watch.tells_of_room) {
            // The kernel watches a socket once.
            *watch = None;
            // SAFETY: the watch shares the socket, which is open for as long as it is shared and never exchanged.
            #[allow(unsafe_code)]
            let socket = unsafe { AsyncFd::register_with_interest(self.socket.clone(), interest) };
            let socket = socket.map_err(io::Error::from)?;
            *watch = Some(Watch { socket, tells_of_room: interest.is_writable() });
        }
        watch.as_ref().map_or(Poll::Pending, ask)
    }
}
