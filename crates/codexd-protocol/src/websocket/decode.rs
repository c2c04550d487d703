//! Frames on their way in: bytes as they come from a socket, messages as they are complete.
//!
//! Each text gets memory of its own, so that one that is kept keeps nothing else. Nothing is reserved for a length that
//! was only announced.

use tungstenite::Bytes;

use super::{Excerpt, Text};

/// Something complete.
#[derive(Debug, Eq, PartialEq)]
pub enum Incoming {
    /// A message.
    Text(Text),
    /// A message that is too large was read over.
    TooLarge(Excerpt),
    /// Asks for a pong with the same payload.
    Ping(Bytes),
    /// The other end closes.
    Close {
        /// Its code, if it gave one.
        code: Option<u16>,
        /// Its reason, or nothing.
        reason: String,
    },
}

/// Why nothing more can be read. The connection is closed with the code.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Fault {
    /// The close code (RFC 6455, 7.4.1).
    pub code: u16,
    /// A sentence.
    pub reason: &'static str,
}

const PROTOCOL: u16 = 1002;
const NOT_UTF8: u16 = 1007;
const TOO_LARGE: u16 = 1009;

fn fault<T>(code: u16, reason: &'static str) -> Result<T, Fault> {
    Err(Fault { code, reason })
}

/// What may come in, and how.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Clients mask, servers do not.
    pub masked: bool,
    /// The largest frame.
    pub frame_bytes_max: usize,
    /// The largest message.
    pub message_bytes_max: usize,
    /// The largest message that is read over where it is too large to be taken ([`Incoming::TooLarge`]). A larger one is a
    /// fault.
    pub skipped_bytes_max: usize,
}

/// What is kept between two reads. It holds memory only while something is incomplete.
#[derive(Debug)]
pub struct Decoder {
    rules: Rules,
    /// The first bytes of a header.
    head: [u8; 14],
    head_length: usize,
    /// The frame that is being read, if its header is.
    frame: Option<Head>,
    /// What of the data message is there.
    message: Vec<u8>,
    /// The message under way is too large and read over.
    skipped: Option<Box<Excerpt>>,
    /// The payload of a control frame.
    control: Vec<u8>,
    /// What the frames of the message under way are.
    under_way: Option<Kind>,
    /// Bytes of the message in frames that are complete.
    before: usize,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Text,
    /// Read over: the protocol has none.
    Binary,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Opcode {
    Data(Kind),
    Close,
    Ping,
    Pong,
}

#[derive(Clone, Copy, Debug)]
struct Head {
    opcode: Opcode,
    last: bool,
    mask: [u8; 4],
    length: usize,
    left: usize,
}

impl Decoder {
    /// One at the beginning of a connection.
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            head: [0; 14],
            head_length: 0,
            frame: None,
            message: Vec::new(),
            skipped: None,
            control: Vec::new(),
            under_way: None,
            before: 0,
        }
    }

    /// From the next frame on, other rules hold.
    pub fn set_rules(&mut self, rules: Rules) {
        self.rules = rules;
    }

    /// Takes bytes off the front of `input` up to the end of the next complete thing; `None` when the input is used up.
    ///
    /// # Errors
    /// What the other end did wrong.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<Incoming>, Fault> {
        loop {
            let frame = match self.frame.take() {
                Some(frame) => frame,
                None => match self.read_head(input)? {
                    Some(frame) => frame,
                    None => return Ok(None),
                },
            };
            let Some(frame) = self.read_payload(frame, input) else { return Ok(None) };
            if let Some(incoming) = self.complete(frame)? {
                return Ok(Some(incoming));
            }
        }
    }

    fn read_head(&mut self, input: &mut &[u8]) -> Result<Option<Head>, Fault> {
        loop {
            let wanted = self.head_wanted();
            if self.head_length == wanted {
                self.head_length = 0;
                let head = self.parse_head()?;
                return self.admit(head).map(Some);
            }
            let taken = (wanted - self.head_length).min(input.len());
            if taken == 0 {
                return Ok(None);
            }
            let (now, later) = input.split_at(taken);
            self.head[self.head_length..self.head_length + taken].copy_from_slice(now);
            self.head_length += taken;
            *input = later;
        }
    }

    /// How long the header is, as far as can be told from what is there.
    fn head_wanted(&self) -> usize {
        if self.head_length < 2 {
            return 2;
        }
        let length = match self.head[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + length + if self.head[1] & 0x80 == 0 { 0 } else { 4 }
    }

    fn parse_head(&self) -> Result<Head, Fault> {
        let [first, second, rest @ ..] = self.head;
        let (length, mask_at) = match second & 0x7f {
            126 => (u64::from(u16::from_be_bytes([rest[0], rest[1]])), 2),
            127 => {
                let [a, b, c, d, e, f, g, h, ..] = rest;
                (u64::from_be_bytes([a, b, c, d, e, f, g, h]), 8)
            }
            short => (u64::from(short), 0),
        };
        let masked = second & 0x80 != 0;
        if masked != self.rules.masked {
            return fault(PROTOCOL, "frames of a client are masked, those of a server are not");
        }
        if first & 0x70 != 0 {
            return fault(PROTOCOL, "a reserved bit is set: no extension was agreed on");
        }
        let opcode = match (first & 0x0f, self.under_way) {
            (0, Some(kind)) => Opcode::Data(kind),
            (0, None) => return fault(PROTOCOL, "nothing to continue"),
            (1 | 2, Some(_)) => return fault(PROTOCOL, "the message before is not complete"),
            (1, None) => Opcode::Data(Kind::Text),
            (2, None) => Opcode::Data(Kind::Binary),
            (8, _) => Opcode::Close,
            (9, _) => Opcode::Ping,
            (10, _) => Opcode::Pong,
            _ => return fault(PROTOCOL, "an opcode that RFC 6455 does not know"),
        };
        let mask = if masked { [0, 1, 2, 3].map(|at| rest[mask_at + at]) } else { [0; 4] };
        let Ok(length) = usize::try_from(length) else { return fault(TOO_LARGE, "the frame is too large") };
        Ok(Head { opcode, last: first & 0x80 != 0, mask, length, left: length })
    }

    /// Finds out what is too large before any of it is read.
    fn admit(&mut self, head: Head) -> Result<Head, Fault> {
        let Opcode::Data(kind) = head.opcode else {
            return if head.last && head.length <= 125 {
                Ok(head)
            } else {
                fault(PROTOCOL, "a control frame is in one piece and at most 125 bytes long")
            };
        };
        let whole = self.before.saturating_add(head.length);
        let reason = if head.length > self.rules.frame_bytes_max {
            Some("the frame is too large")
        } else if whole > self.rules.message_bytes_max {
            Some("the message is too large")
        } else {
            None
        };
        if let Some(reason) = reason {
            if whole > self.rules.skipped_bytes_max {
                return fault(TOO_LARGE, reason);
            }
            if self.skipped.is_none() {
                let so_far = std::mem::take(&mut self.message);
                self.skipped = Some(Box::new(Excerpt::new(reason, &so_far)));
            }
        }
        self.under_way = Some(kind);
        Ok(head)
    }

    /// `None` when the input did not hold all of it.
    fn read_payload(&mut self, mut frame: Head, input: &mut &[u8]) -> Option<Head> {
        let (now, later) = input.split_at(frame.left.min(input.len()));
        *input = later;
        let position = frame.length - frame.left;
        let into = match (frame.opcode, &mut self.skipped) {
            (Opcode::Data(_), Some(skipped)) => {
                skipped.add(now, frame.mask, position);
                None
            }
            (Opcode::Data(Kind::Text), None) => Some(&mut self.message),
            (Opcode::Data(Kind::Binary), None) => None,
            _ => Some(&mut self.control),
        };
        if let Some(into) = into {
            if into.is_empty() {
                into.reserve_exact(now.len());
            }
            let start = into.len();
            into.extend_from_slice(now);
            unmask(&mut into[start..], frame.mask, position);
        }
        frame.left -= now.len();
        if frame.left > 0 {
            self.frame = Some(frame);
            return None;
        }
        Some(frame)
    }

    fn complete(&mut self, frame: Head) -> Result<Option<Incoming>, Fault> {
        match frame.opcode {
            Opcode::Data(_) if !frame.last => {
                self.before += frame.length;
                Ok(None)
            }
            Opcode::Data(kind) => {
                self.before = 0;
                self.under_way = None;
                let skipped = self.skipped.take();
                if kind == Kind::Binary {
                    return Ok(None);
                }
                if let Some(skipped) = skipped {
                    return Ok(Some(Incoming::TooLarge(*skipped)));
                }
                let mut message = std::mem::take(&mut self.message);
                message.shrink_to_fit();
                match String::from_utf8(message) {
                    Ok(text) => Ok(Some(Incoming::Text(text.into()))),
                    Err(_) => fault(NOT_UTF8, "a text that is not UTF-8"),
                }
            }
            Opcode::Ping => Ok(Some(Incoming::Ping(std::mem::take(&mut self.control).into()))),
            Opcode::Close => {
                let payload = std::mem::take(&mut self.control);
                let (code, reason) = payload.split_first_chunk().unzip();
                let reason = String::from_utf8_lossy(reason.unwrap_or_default()).into_owned();
                Ok(Some(Incoming::Close { code: code.copied().map(u16::from_be_bytes), reason }))
            }
            Opcode::Pong => {
                self.control = Vec::new();
                Ok(None)
            }
        }
    }
}

/// Takes the mask off bytes that begin at `position` of their frame.
pub(super) fn unmask(bytes: &mut [u8], mut mask: [u8; 4], position: usize) {
    if mask == [0; 4] {
        return;
    }
    mask.rotate_left(position % 4);
    let wide = u64::from_ne_bytes([mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3]]);
    let (eights, rest) = bytes.as_chunks_mut::<8>();
    for eight in eights {
        *eight = (u64::from_ne_bytes(*eight) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

#[cfg(test)]
mod tests;
