//! The pending output of one connection, bounded in messages and in bytes.
//!
//! A push never waits. If a message does not fit, the owner decides: a client is disconnected, an app-server is lost. The
//! message that is being written does not count against the bound: a large one takes any reader a while.

use std::collections::VecDeque;

use crate::hub::Text;
use crate::limits::{OUTBOX_IDLE_CAPACITY, WRITE_BYTES};
use codexd_protocol::websocket::Frame;

/// Limits of the output that waits behind the message that is being written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) messages: usize,
    /// Bytes of all messages that are no responses, unless one message waits alone.
    pub(crate) bytes: usize,
    /// Bytes of all messages when a response is added: the peer has requested it.
    pub(crate) bytes_with_answers: usize,
}

/// The pending output when a message did not fit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Overflow {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

/// A queue of frames.
#[derive(Debug)]
pub(crate) struct Outbox {
    frames: VecDeque<Queued>,
    waiting: Waiting,
    /// Payload bytes left of the message that is being written.
    current: usize,
    /// Bytes of the first frame that are written, including its header.
    written: usize,
    bounds: Bounds,
    masked: bool,
    /// The close frame was added.
    closed: bool,
}

#[derive(Debug)]
struct Queued {
    frame: Frame,
    is_answer: bool,
}

/// Payload bytes behind the message that is being written.
#[derive(Clone, Copy, Debug, Default)]
struct Waiting {
    answers: usize,
    others: usize,
}

impl Waiting {
    fn all(self) -> usize {
        self.answers + self.others
    }

    fn of(&mut self, is_answer: bool) -> &mut usize {
        if is_answer { &mut self.answers } else { &mut self.others }
    }
}

/// Whether a message is a response. The app-server and codexd write the id or the error first in a response.
fn is_answer(text: &str) -> bool {
    text.starts_with(r#"{"id":"#) || text.starts_with(r#"{"error":"#)
}

impl Outbox {
    /// `masked`: frames are sent as a client.
    pub(crate) fn new(bounds: Bounds, masked: bool) -> Self {
        let waiting = Waiting::default();
        Self { frames: VecDeque::new(), waiting, current: 0, written: 0, bounds, masked, closed: false }
    }

    /// Adds a message. After the close frame it is dropped.
    ///
    /// # Errors
    /// It does not fit and was not added.
    pub(crate) fn push(&mut self, text: Text) -> Result<(), Overflow> {
        if self.closed {
            return Ok(());
        }
        let is_answer = is_answer(&text);
        let (waits, most) = match is_answer {
            true => (self.waiting.all(), self.bounds.bytes_with_answers),
            false => (self.waiting.others, self.bounds.bytes),
        };
        if self.frames.len() >= self.bounds.messages || (waits > 0 && waits + text.len() > most) {
            return Err(self.overflow());
        }
        match self.frames.is_empty() {
            true => self.current = text.len(),
            false => *self.waiting.of(is_answer) += text.len(),
        }
        self.frames.extend(Frame::of(text).map(|frame| Queued { frame, is_answer }));
        Ok(())
    }

    /// Adds a control frame.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub(crate) fn push_control(&mut self, frame: Frame) -> Result<(), Overflow> {
        if self.frames.len() >= self.bounds.messages {
            return Err(self.overflow());
        }
        if !self.closed {
            self.append(frame);
        }
        Ok(())
    }

    /// Adds the close frame, which is the last.
    pub(crate) fn close(&mut self, frame: Frame) {
        if !self.closed {
            self.append(frame);
            self.closed = true;
        }
    }

    /// Drops the pending output except the rest of a frame whose beginning is written.
    pub(crate) fn clear(&mut self) {
        self.frames.truncate(usize::from(self.written > 0));
        self.waiting = Waiting::default();
        self.current = self.frames.front().map_or(0, |queued| queued.frame.payload().len());
    }

    /// Payload bytes behind the message that is being written.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.waiting.all()
    }

    pub(crate) fn set_bounds(&mut self, bounds: Bounds) {
        self.bounds = bounds;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Whether the close frame was added.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Replaces the content of `buffer` with the next bytes to write, at most [`WRITE_BYTES`].
    pub(crate) fn fill(&self, buffer: &mut Vec<u8>) {
        buffer.clear();
        let mut skip = self.written;
        for Queued { frame, .. } in &self.frames {
            let room = WRITE_BYTES.saturating_sub(buffer.len());
            let header = frame.header(self.masked);
            if room < header.as_slice().len() {
                return;
            }
            let of_header = header.as_slice().get(skip..).unwrap_or_default();
            buffer.extend_from_slice(of_header);
            let payload = &frame.payload()[skip.saturating_sub(header.as_slice().len())..];
            buffer.extend_from_slice(&payload[..payload.len().min(room - of_header.len())]);
            skip = 0;
        }
    }

    /// Removes `count` bytes that are written.
    pub(crate) fn advance(&mut self, count: usize) {
        self.written += count;
        while let Some(Queued { frame, .. }) = self.frames.front() {
            let length = frame.header(self.masked).as_slice().len() + frame.payload().len();
            if self.written < length {
                return;
            }
            self.written -= length;
            self.current = self.current.saturating_sub(frame.payload().len());
            let ends_message = frame.is_last();
            self.frames.pop_front();
            if ends_message {
                self.begin_message();
            }
        }
        if self.frames.capacity() > OUTBOX_IDLE_CAPACITY {
            self.frames.shrink_to(OUTBOX_IDLE_CAPACITY);
        }
    }

    /// The first message in the queue is being written from now on.
    fn begin_message(&mut self) {
        let Some(first) = self.frames.front() else { return };
        let end = self.frames.iter().position(|queued| queued.frame.is_last());
        let frames = self.frames.iter().take(end.map_or(usize::MAX, |end| end + 1));
        self.current = frames.map(|queued| queued.frame.payload().len()).sum();
        let waiting = self.waiting.of(first.is_answer);
        *waiting = waiting.saturating_sub(self.current);
    }

    fn overflow(&self) -> Overflow {
        Overflow { messages: self.frames.len(), bytes: self.current + self.waiting.all() }
    }

    fn append(&mut self, frame: Frame) {
        match self.frames.is_empty() {
            true => self.current = frame.payload().len(),
            false => self.waiting.others += frame.payload().len(),
        }
        self.frames.push_back(Queued { frame, is_answer: false });
    }
}

#[cfg(test)]
mod tests {
    use super::{Bounds, Outbox, Overflow};
    use crate::hub::Text;
    use crate::limits::{
        OUTBOUND_BYTES_MAX, OUTBOUND_BYTES_WITH_RESPONSES_MAX, OUTBOUND_MESSAGES_MAX, WRITE_BYTES,
    };
    use codexd_protocol::websocket::Frame;
    use codexd_protocol::websocket::{Decoder, Incoming, Rules};

    const BOUNDS: Bounds = Bounds {
        messages: OUTBOUND_MESSAGES_MAX,
        bytes: OUTBOUND_BYTES_MAX,
        bytes_with_answers: OUTBOUND_BYTES_WITH_RESPONSES_MAX,
    };

    /// Writes everything, `step` bytes at a time.
    fn drain(outbox: &mut Outbox, step: usize) -> Vec<u8> {
        let (mut out, mut buffer) = (Vec::new(), Vec::new());
        while !outbox.is_empty() {
            outbox.fill(&mut buffer);
            assert!(!buffer.is_empty() && buffer.len() <= WRITE_BYTES);
            let now = step.min(buffer.len());
            out.extend_from_slice(&buffer[..now]);
            outbox.advance(now);
        }
        assert_eq!((outbox.written, outbox.current, outbox.waiting_bytes()), (0, 0, 0));
        out
    }

    fn texts(mut bytes: &[u8], masked: bool) -> Vec<String> {
        let mut decoder = Decoder::new(Rules {
            masked,
            frame_bytes_max: 1 << 24,
            message_bytes_max: 1 << 30,
            skipped_bytes_max: 0,
        });
        let mut texts = Vec::new();
        while let Some(incoming) = decoder.next(&mut bytes).expect("frames") {
            match incoming {
                Incoming::Text(text) => texts.push(text.to_string()),
                other => texts.push(format!("{other:?}")),
            }
        }
        texts
    }

    #[test]
    fn what_is_written_in_pieces_is_whole_at_the_other_end() {
        let sizes = [0, 3, 200, 70_000, 1, WRITE_BYTES - 14, 5, 18 << 20, 2];
        let said: Vec<String> = sizes.iter().map(|&size| "x".repeat(size)).collect();
        for (masked, step) in [(false, usize::MAX), (true, usize::MAX), (true, 9_999), (false, 60_001)] {
            let mut outbox = Outbox::new(BOUNDS, masked);
            for text in &said {
                outbox.push(text.as_str().into()).expect("it fits");
            }
            let bytes = drain(&mut outbox, step);
            assert!(texts(&bytes, masked) == said, "{masked} {step}");
            assert!(outbox.frames.capacity() <= 64);
        }
        let mut outbox = Outbox::new(BOUNDS, false);
        outbox.push("some words".into()).expect("it fits");
        outbox.push("and more".into()).expect("it fits");
        assert_eq!(texts(&drain(&mut outbox, 1), false), ["some words", "and more"]);
    }

    #[test]
    fn messages_and_bytes_behind_the_one_that_is_written_are_bounded() {
        let mut outbox = Outbox::new(BOUNDS, false);
        for _ in 0..OUTBOUND_MESSAGES_MAX {
            outbox.push("x".into()).expect("it fits");
        }
        let full = Overflow { messages: OUTBOUND_MESSAGES_MAX, bytes: OUTBOUND_MESSAGES_MAX };
        assert_eq!(outbox.push("x".into()), Err(full));
        let mut outbox = Outbox::new(BOUNDS, false);
        outbox.push("x".repeat(OUTBOUND_BYTES_MAX + 1).into()).expect("it is written at once");
        outbox.push("x".repeat(OUTBOUND_BYTES_MAX + 1).into()).expect("alone it fits");
        assert!(outbox.push("x".into()).is_err());
        let mut buffer = Vec::new();
        while outbox.waiting_bytes() > 0 {
            outbox.fill(&mut buffer);
            outbox.advance(buffer.len());
        }
        outbox.push("x".into()).expect("the second is being written");
        assert_eq!(outbox.waiting_bytes(), 1);
    }

    #[test]
    fn answers_wait_beside_notifications_and_not_in_their_place() {
        let mut outbox = Outbox::new(BOUNDS, false);
        outbox.push("written".into()).expect("it is written at once");
        let answer: Text = format!(r#"{{"id":1,"result":"{}"}}"#, "x".repeat(OUTBOUND_BYTES_MAX / 2)).into();
        let fit = OUTBOUND_BYTES_WITH_RESPONSES_MAX / answer.len();
        for _ in 0..fit {
            outbox.push(answer.clone()).expect("it was asked for");
        }
        outbox.push("x".repeat(OUTBOUND_BYTES_MAX).into()).expect("no notification waits");
        assert!(outbox.push("x".into()).is_err() && outbox.push(answer).is_err());
    }

    #[test]
    fn a_frame_that_was_begun_is_ended_before_the_close() {
        let mut outbox = Outbox::new(BOUNDS, false);
        for text in ["first", "second", "third"] {
            outbox.push(text.into()).expect("it fits");
        }
        outbox.advance(7 + 3);
        let mut buffer = Vec::new();
        outbox.fill(&mut buffer);
        let rest_of_second = buffer[..5].to_vec();
        outbox.clear();
        outbox.close(Frame::close(1013, "slow"));
        outbox.push("never".into()).expect("it is ignored");
        let bytes = drain(&mut outbox, usize::MAX);
        assert_eq!(bytes[..5], rest_of_second);
        assert_eq!(texts(&bytes[5..], false), [r#"Close { code: Some(1013), reason: "slow" }"#]);
        assert!(outbox.is_closed());
    }
}
