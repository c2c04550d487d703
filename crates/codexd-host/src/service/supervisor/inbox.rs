//! The unread input of one connection, split into lines.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use codexd_core::limits::{ORDER_BUFFER_GROWTH_BYTES, ORDERS_READ_AT_ONCE_BYTES};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags};

/// The outcome of a read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Received {
    /// Input was read; there may be more.
    Some,
    /// The peer has disconnected.
    End,
    /// A line is longer than allowed.
    TooLong,
}

/// The buffer.
#[derive(Debug)]
pub struct Inbox {
    unread: Vec<u8>,
    /// Bytes at its beginning that were searched and have no line end.
    looked_at: usize,
    max_bytes: usize,
    /// A received descriptor that was not taken yet.
    descriptor: Option<OwnedFd>,
}

impl Inbox {
    /// An empty buffer for lines of at most `max_bytes`.
    pub fn new(max_bytes: usize) -> Self {
        Self { unread: Vec::new(), looked_at: 0, max_bytes, descriptor: None }
    }

    /// Sets the limit of a line.
    pub fn allow(&mut self, max_bytes: usize) {
        self.max_bytes = max_bytes;
    }

    /// The limit of a line.
    pub fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    /// Bytes of memory in use.
    pub fn bytes(&self) -> usize {
        self.unread.capacity()
    }

    /// Frees the buffer.
    pub fn clear(&mut self) {
        *self = Self::new(self.max_bytes);
    }

    /// Takes the descriptor that was received last.
    pub fn take_descriptor(&mut self) -> Option<OwnedFd> {
        self.descriptor.take()
    }

    /// Reads at most [`ORDERS_READ_AT_ONCE_BYTES`]: the rest keeps the connection readable.
    pub fn receive(&mut self, stream: &UnixStream) -> Received {
        let mut bytes = [0u8; 8192];
        let mut read = 0;
        while read < ORDERS_READ_AT_ONCE_BYTES {
            match self.receive_some(stream, &mut bytes) {
                Ok(0) => return Received::End,
                Ok(count) => {
                    read += count;
                    self.take_in(&bytes[..count]);
                }
                Err(rustix::io::Errno::WOULDBLOCK) => return Received::Some,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return Received::End,
            }
            if self.is_too_long() {
                return Received::TooLong;
            }
        }
        Received::Some
    }

    /// Whether the incomplete line is longer than allowed.
    fn is_too_long(&self) -> bool {
        self.unread.len() > self.max_bytes
            && self.unread.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1) + self.max_bytes
                < self.unread.len()
    }

    /// The buffer grows by a quarter at a time: doubled, it could be twice as large as its content.
    fn take_in(&mut self, bytes: &[u8]) {
        if self.unread.capacity() - self.unread.len() < bytes.len() {
            self.unread.reserve_exact(bytes.len().max(self.unread.len() / 4).max(ORDER_BUFFER_GROWTH_BYTES));
        }
        self.unread.extend_from_slice(bytes);
    }

    fn receive_some(&mut self, stream: &UnixStream, bytes: &mut [u8]) -> rustix::io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut along = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(bytes)];
        let received = rustix::net::recvmsg(stream, &mut slices, &mut along, RecvFlags::CMSG_CLOEXEC)?;
        // No message has more than one; the kernel has closed what did not fit.
        debug_assert!(!received.flags.contains(ReturnFlags::TRUNC));
        for message in along.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.descriptor = fds.last().or(self.descriptor.take());
            }
        }
        Ok(received.bytes)
    }

    /// Takes the complete lines. No byte is searched twice: an environment may be large.
    pub fn take_lines(&mut self, mut on_line: impl FnMut(&[u8])) {
        let mut start = 0;
        while let Some(length) = self.unread[self.looked_at..].iter().position(|&byte| byte == b'\n') {
            let end = self.looked_at + length + 1;
            on_line(&self.unread[start..end]);
            (start, self.looked_at) = (end, end);
        }
        self.looked_at = self.unread.len() - start;
        if start > 0 {
            self.unread.drain(..start);
            self.unread.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Inbox, Received};
    use codexd_core::limits::ORDERS_READ_AT_ONCE_BYTES;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    fn lines(inbox: &mut Inbox) -> Vec<String> {
        let mut lines = Vec::new();
        inbox.take_lines(|line| lines.push(String::from_utf8_lossy(line).into_owned()));
        lines
    }

    #[test]
    fn lines_are_taken_whole_however_they_arrive() {
        let (mut far, near) = UnixStream::pair().expect("a pair");
        near.set_nonblocking(true).expect("set");
        let mut inbox = Inbox::new(100);
        for (sent, expected) in [("a", vec![]), ("b\nc\n\nd", vec!["ab\n", "c\n", "\n"]), ("\n", vec!["d\n"])]
        {
            far.write_all(sent.as_bytes()).expect("sent");
            assert_eq!(inbox.receive(&near), Received::Some);
            assert_eq!(lines(&mut inbox), expected);
        }
        assert_eq!(inbox.bytes(), 0, "taken lines use no memory");
        drop(far);
        assert_eq!(inbox.receive(&near), Received::End);
    }

    #[test]
    fn a_line_that_is_too_long_is_reported_and_many_short_ones_are_not() {
        let (mut far, near) = UnixStream::pair().expect("a pair");
        near.set_nonblocking(true).expect("set");
        let mut inbox = Inbox::new(100);
        far.write_all("x\n".repeat(1_000).as_bytes()).expect("sent");
        assert_eq!(inbox.receive(&near), Received::Some);
        assert_eq!(lines(&mut inbox).len(), 1_000);
        far.write_all("x".repeat(101).as_bytes()).expect("sent");
        assert_eq!(inbox.receive(&near), Received::TooLong);
    }

    #[test]
    fn a_read_is_bounded_and_the_buffer_is_hardly_larger_than_its_content() {
        let (mut far, near) = UnixStream::pair().expect("a pair");
        far.set_nonblocking(true).expect("set");
        near.set_nonblocking(true).expect("set");
        let mut inbox = Inbox::new(1 << 30);
        let mut sent = 0;
        while sent < ORDERS_READ_AT_ONCE_BYTES * 4 {
            sent += far.write(&[b'x'; 4096]).unwrap_or_default();
            let previous = inbox.bytes();
            assert_eq!(inbox.receive(&near), Received::Some);
            assert!(inbox.bytes() <= previous.max(4096) * 5 / 4 + 16_384 + ORDERS_READ_AT_ONCE_BYTES);
        }
        assert!(inbox.bytes() <= sent * 5 / 4 + 16_384, "{} of {sent}", inbox.bytes());
    }
}
