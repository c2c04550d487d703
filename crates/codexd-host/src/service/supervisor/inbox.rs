//! What has arrived on one connection and has no end yet.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use codexd_core::limits::ORDERS_READ_AT_ONCE_BYTES;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags};

/// The room grows by so much at least.
const GROWTH_BYTES: usize = 4 << 10;

/// What came of reading.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Received {
    /// All that was there, or a part of it.
    Some,
    /// The other end has left.
    End,
    /// A line is longer than it may be.
    TooLong,
}

/// The bytes.
#[derive(Debug)]
pub struct Inbox {
    unread: Vec<u8>,
    /// So much of it has no end of a line.
    looked_at: usize,
    max_bytes: usize,
    /// A descriptor that was received and not taken yet.
    descriptor: Option<OwnedFd>,
}

impl Inbox {
    /// Nothing yet; a line may have so many bytes.
    pub fn new(max_bytes: usize) -> Self {
        Self { unread: Vec::new(), looked_at: 0, max_bytes, descriptor: None }
    }

    /// A line may have so many bytes from now on.
    pub fn allow(&mut self, max_bytes: usize) {
        self.max_bytes = max_bytes;
    }

    /// So many bytes a line may have.
    pub fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    /// The memory that it takes.
    pub fn bytes(&self) -> usize {
        self.unread.capacity()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self::new(self.max_bytes);
    }

    /// The descriptor that came along last.
    pub fn take_descriptor(&mut self) -> Option<OwnedFd> {
        self.descriptor.take()
    }

    /// Reads what is there, but no more than [`ORDERS_READ_AT_ONCE_BYTES`]: the rest makes the connection readable again.
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

    /// Whether the line that has no end yet is longer than it may be.
    fn is_too_long(&self) -> bool {
        self.unread.len() > self.max_bytes
            && self.unread.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1) + self.max_bytes
                < self.unread.len()
    }

    /// The room grows by a quarter at a time: doubled, it could be twice as large as what is in it.
    fn take_in(&mut self, bytes: &[u8]) {
        if self.unread.capacity() - self.unread.len() < bytes.len() {
            self.unread.reserve_exact(bytes.len().max(self.unread.len() / 4).max(GROWTH_BYTES));
        }
        self.unread.extend_from_slice(bytes);
    }

    fn receive_some(&mut self, stream: &UnixStream, bytes: &mut [u8]) -> rustix::io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut along = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(bytes)];
        let received = rustix::net::recvmsg(stream, &mut slices, &mut along, RecvFlags::CMSG_CLOEXEC)?;
        // More than one is nothing that we know of; what did not fit the kernel has closed.
        debug_assert!(!received.flags.contains(ReturnFlags::TRUNC));
        for message in along.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.descriptor = fds.last().or(self.descriptor.take());
            }
        }
        Ok(received.bytes)
    }

    /// Takes the whole lines. What was looked through is not looked through again: an environment may be large.
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
    fn lines_come_whole_however_they_were_cut() {
        let (mut far, near) = UnixStream::pair().expect("a pair");
        near.set_nonblocking(true).expect("set");
        let mut inbox = Inbox::new(100);
        for (sent, expected) in [("a", vec![]), ("b\nc\n\nd", vec!["ab\n", "c\n", "\n"]), ("\n", vec!["d\n"])]
        {
            far.write_all(sent.as_bytes()).expect("sent");
            assert_eq!(inbox.receive(&near), Received::Some);
            assert_eq!(lines(&mut inbox), expected);
        }
        assert_eq!(inbox.bytes(), 0, "nothing is kept of what was taken");
        drop(far);
        assert_eq!(inbox.receive(&near), Received::End);
    }

    #[test]
    fn a_line_that_is_too_long_is_told_and_many_short_ones_are_not() {
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
    fn one_connection_is_read_for_a_bounded_time_and_its_room_is_hardly_larger_than_what_is_in_it() {
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
