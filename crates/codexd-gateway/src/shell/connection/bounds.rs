//! Full outboxes and oversized messages of a connection.

use std::os::fd::RawFd;
use std::rc::Rc;

use codexd_protocol::websocket::{Excerpt, Fault};

use super::{End, Peer, WsConnection};
use crate::hub::Text;
use crate::limits::{OUTBOUND_FULL_BYTES, UPSTREAM_FULL_BYTES};
use crate::shell::close_code::MESSAGE_TOO_BIG;
use crate::shell::oversized::{self, Oversized};

impl WsConnection {
    /// Lifts the limits for clients that have not sent `initialize`.
    pub(crate) fn admit(&self) {
        self.decoder.borrow_mut().set_rules(self.peer.rules());
        self.outbox.borrow_mut().set_bounds(self.peer.bounds());
    }

    pub(crate) fn descriptor(&self) -> RawFd {
        self.stream.descriptor()
    }

    /// Whether the outbox has become full since the last [`Ready::Room`](super::Ready::Room); `true` once.
    pub(crate) fn became_full(&self) -> bool {
        let waiting = self.outbox.borrow().waiting_bytes();
        waiting >= UPSTREAM_FULL_BYTES && !self.full.replace(true)
    }

    /// Whether to read `source`, a connection whose messages are passed on here. If not, it is woken when there is room.
    pub(crate) fn has_room_for(&self, source: &Rc<WsConnection>) -> bool {
        if self.is_over() || self.outbox.borrow().waiting_bytes() < OUTBOUND_FULL_BYTES {
            return true;
        }
        let mut sources = self.sources.borrow_mut();
        if !sources.iter().any(|known| std::ptr::eq(known.as_ptr(), Rc::as_ptr(source))) {
            sources.push(Rc::downgrade(source));
        }
        false
    }

    /// Bytes of a message that was dropped since the last call.
    pub(crate) fn take_dropped(&self) -> Option<usize> {
        self.dropped.take()
    }

    /// Handles a message that is too large and is skipped: the request that it belongs to fails.
    pub(super) fn take_oversized(
        self: &Rc<Self>,
        excerpt: &Excerpt,
        on_text: &mut impl FnMut(Text),
    ) -> Result<(), End> {
        match (self.peer, oversized::classify(excerpt)) {
            (Peer::Client, Oversized::Request { id }) => {
                self.push(oversized::refusal_of_request(&id, excerpt)).map_err(End::Full)?;
            }
            // Upstream closes the connection as well.
            (Peer::Client, _) => {
                return Err(End::Faulty(Fault { code: MESSAGE_TOO_BIG, reason: excerpt.reason }));
            }
            (Peer::AppServer, Oversized::Answer { id }) => {
                on_text(oversized::failure_of_answer(&id, excerpt));
            }
            (Peer::AppServer, Oversized::Request { id }) => {
                self.push(oversized::failure_of_answer(&id, excerpt)).map_err(End::Full)?;
            }
            (Peer::AppServer, Oversized::Other) => self.dropped.set(Some(excerpt.bytes)),
        }
        Ok(())
    }

    pub(super) fn wake_sources(&self) {
        for source in self.sources.take() {
            source.upgrade().inspect(|source| source.wake());
        }
    }
}
