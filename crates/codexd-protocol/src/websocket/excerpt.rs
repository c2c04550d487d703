//! What is kept of a message that is too large to be taken: enough to tell which request it belongs to.

use super::decode::unmask;
use crate::limits::EXCERPT_BYTES;

/// A message that was read over.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Excerpt {
    /// Its first bytes.
    pub head: Vec<u8>,
    /// Its last bytes, also where the two overlap.
    pub tail: Vec<u8>,
    /// How long it was.
    pub bytes: usize,
    /// Which limit it exceeds.
    pub reason: &'static str,
}

impl Excerpt {
    /// Of a message of which this much has come before it turned out to be too large.
    pub(super) fn new(reason: &'static str, so_far: &[u8]) -> Self {
        let mut excerpt = Self { reason, ..Self::default() };
        excerpt.add(so_far, [0; 4], 0);
        excerpt
    }

    /// Takes the next bytes, which begin at `position` of their frame.
    pub(super) fn add(&mut self, bytes: &[u8], mask: [u8; 4], position: usize) {
        let room = EXCERPT_BYTES - self.head.len();
        append(&mut self.head, &bytes[..bytes.len().min(room)], mask, position);
        let skipped = bytes.len().saturating_sub(EXCERPT_BYTES);
        append(&mut self.tail, &bytes[skipped..], mask, position + skipped);
        self.tail.drain(..self.tail.len().saturating_sub(EXCERPT_BYTES));
        self.bytes += bytes.len();
    }
}

fn append(into: &mut Vec<u8>, bytes: &[u8], mask: [u8; 4], position: usize) {
    let start = into.len();
    into.extend_from_slice(bytes);
    unmask(&mut into[start..], mask, position);
}
