//! Connections to app-servers that are full: requests wait until the app-server has read what was sent before.

use crate::hub::event::Connection;
use crate::hub::{Hub, Timer};
use crate::limits::SENT_AT_ONCE_BYTES;

impl Hub {
    pub(in crate::hub) fn link_full(&mut self, link: Connection) {
        self.full_links.insert(link);
    }

    pub(in crate::hub) fn link_has_room(&mut self, link: Connection) {
        if self.full_links.remove(&link) {
            self.pump();
        }
    }

    /// Whether no more requests are to be sent over a link for now.
    pub(in crate::hub) fn is_full(&self, link: Connection) -> bool {
        self.full_links.contains(&link)
    }

    /// Whether so much was sent in this step that the links are to be asked first whether they have room for more. If so, it
    /// goes on in a step of its own.
    pub(in crate::hub) fn has_sent_enough(&mut self) -> bool {
        if self.sent_bytes < SENT_AT_ONCE_BYTES {
            return false;
        }
        self.timer(0, Timer::Slots);
        true
    }
}
