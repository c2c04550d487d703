//! A connection, whatever it is made of.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use rustix::net::{RecvFlags, SendFlags, Shutdown, shutdown};
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};

/// A non-blocking connection.
#[derive(Debug)]
pub(crate) enum Stream {
    /// On this machine.
    Unix(UnixStream),
    /// From the network door.
    Tcp(TcpStream),
}

impl Stream {
    /// Reads what is there.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is; else the system's.
    pub(crate) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.attempt(Interest::READABLE, buffer.len(), || self.receive(buffer))
    }

    /// Reads what is there, also what the runtime has not noticed yet.
    ///
    /// # Errors
    /// As [`Self::try_read`].
    pub(crate) fn read_unnoticed(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::retry_on_intr(|| self.receive(buffer))?)
    }

    /// Writes what there is room for.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; else the system's.
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.attempt(Interest::WRITABLE, bytes.len(), || match self {
            Stream::Unix(stream) => rustix::net::send(stream, bytes, SendFlags::NOSIGNAL),
            Stream::Tcp(stream) => rustix::net::send(stream, bytes, SendFlags::NOSIGNAL),
        })
    }

    /// Writes nothing more.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn finish(&self) -> io::Result<()> {
        match self {
            Stream::Unix(stream) => Ok(shutdown(stream, Shutdown::Write)?),
            Stream::Tcp(stream) => Ok(shutdown(stream, Shutdown::Write)?),
        }
    }

    /// Waits until [`Self::try_read`] is worth it.
    pub(crate) fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Unix(stream) => stream.poll_read_ready(context),
            Stream::Tcp(stream) => stream.poll_read_ready(context),
        }
    }

    /// Waits until [`Self::try_write`] is worth it.
    pub(crate) fn poll_writable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Unix(stream) => stream.poll_write_ready(context),
            Stream::Tcp(stream) => stream.poll_write_ready(context),
        }
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
            poll_fn(|context| self.poll_writable(context)).await?;
            match self.try_write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn receive(&self, buffer: &mut [u8]) -> rustix::io::Result<usize> {
        let (_, count) = match self {
            Stream::Unix(stream) => rustix::net::recv(stream, buffer, RecvFlags::empty())?,
            Stream::Tcp(stream) => rustix::net::recv(stream, buffer, RecvFlags::empty())?,
        };
        Ok(count)
    }

    /// Runs a system call. One that moves less than was asked for has used up the socket: the runtime is told so without
    /// the further call that would only answer `WouldBlock`. What comes in between the two wakes as usual.
    fn attempt(
        &self,
        interest: Interest,
        wanted: usize,
        mut call: impl FnMut() -> rustix::io::Result<usize>,
    ) -> io::Result<usize> {
        let mut moved = None;
        let call = || {
            let done = rustix::io::retry_on_intr(&mut call)?;
            if 0 < done && done < wanted {
                moved = Some(done);
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(done)
        };
        let outcome = match self {
            Stream::Unix(stream) => stream.try_io(interest, call),
            Stream::Tcp(stream) => stream.try_io(interest, call),
        };
        match moved {
            Some(done) => Ok(done),
            None => outcome,
        }
    }
}
