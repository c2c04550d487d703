//! Notifications of a thread that are held back while it is recovered.

use std::collections::VecDeque;

use crate::hub::event::Text;
use crate::limits::DEFERRED_BYTES_MAX;

/// Notifications that are held back, oldest first, at most [`DEFERRED_BYTES_MAX`].
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Deferred {
    texts: VecDeque<Text>,
    bytes: usize,
}

impl Deferred {
    /// Adds a notification; the oldest ones make room for it.
    pub fn push(&mut self, text: Text) {
        self.bytes += text.len();
        self.texts.push_back(text);
        while self.bytes > DEFERRED_BYTES_MAX
            && self.texts.len() > 1
            && let Some(oldest) = self.texts.pop_front()
        {
            self.bytes -= oldest.len();
        }
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }

    pub fn into_texts(self) -> impl Iterator<Item = Text> {
        self.texts.into_iter()
    }
}
