//! A connection that never blocks: what cannot be written now is written later, and what is read is thrown away.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How much is read at once.
const CHUNK: usize = 64 << 10;
/// How long the listener of the network may take to accept.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug)]
enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// One connection.
#[derive(Debug)]
pub(super) struct Pipe {
    stream: Stream,
    out: Vec<u8>,
    written: usize,
}

impl Pipe {
    pub(super) fn unix(path: &Path) -> io::Result<Pipe> {
        let stream = UnixStream::connect(path)?;
        stream.set_nonblocking(true)?;
        Ok(Pipe { stream: Stream::Unix(stream), out: Vec::new(), written: 0 })
    }

    pub(super) fn tcp(address: &SocketAddr) -> io::Result<Pipe> {
        let stream = TcpStream::connect_timeout(address, CONNECT_TIMEOUT)?;
        stream.set_nonblocking(true)?;
        Ok(Pipe { stream: Stream::Tcp(stream), out: Vec::new(), written: 0 })
    }

    /// Sends a handshake and waits for its response: an app-server hangs up on a client that sends more before.
    pub(super) fn shake_hands(&mut self, handshake: &[u8]) -> io::Result<()> {
        let Stream::Unix(stream) = &mut self.stream else { return Ok(()) };
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(CONNECT_TIMEOUT))?;
        stream.write_all(handshake)?;
        let (mut tail, mut byte) = ([0; 4], [0; 1]);
        while &tail != b"\r\n\r\n" {
            stream.read_exact(&mut byte)?;
            tail.rotate_left(1);
            tail[3] = byte[0];
        }
        stream.set_nonblocking(true)
    }

    /// Whether everything that was given is written.
    pub(super) fn is_empty(&self) -> bool {
        self.written == self.out.len()
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        if self.is_empty() {
            self.out.clear();
            self.written = 0;
        }
        self.out.extend_from_slice(bytes);
    }

    /// Writes what the other end takes now; an error if it is gone.
    pub(super) fn write(&mut self) -> io::Result<usize> {
        let before = self.written;
        while !self.is_empty() {
            let rest = &self.out[self.written..];
            let wrote = match &mut self.stream {
                Stream::Unix(stream) => stream.write(rest),
                Stream::Tcp(stream) => stream.write(rest),
            };
            match wrote {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(self.written - before)
    }

    /// Reads and forgets what is there; an error if the other end is gone.
    pub(super) fn read(&mut self) -> io::Result<usize> {
        let (mut chunk, mut total) = ([0; CHUNK], 0);
        loop {
            let read = match &mut self.stream {
                Stream::Unix(stream) => stream.read(&mut chunk),
                Stream::Tcp(stream) => stream.read(&mut chunk),
            };
            match read {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => total += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(total),
                Err(error) => return Err(error),
            }
        }
    }
}
