//! Frames on their way out.

use tungstenite::Bytes;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::{FRAME_BYTES_MAX, Text};

const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;
/// A mask of zero: the payload goes out as it is. App-server 0.169.0 accepts it.
const NO_MASK: [u8; 4] = [0; 4];

/// A frame that waits. A clone of a text shares its bytes.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The first byte: opcode and whether it is the last of its message.
    first: u8,
    payload: Bytes,
}

/// The bytes before a payload.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    bytes: [u8; 14],
    length: usize,
}

impl Header {
    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    fn put(&mut self, more: &[u8]) {
        self.bytes[self.length..self.length + more.len()].copy_from_slice(more);
        self.length += more.len();
    }
}

impl Frame {
    /// A text in as many frames as it takes: hardly ever more than one.
    pub fn of(text: Text) -> impl Iterator<Item = Frame> {
        let mut rest = Some(Bytes::from(text));
        let mut opcode = OpCode::Data(Data::Text);
        std::iter::from_fn(move || {
            let mut payload = rest.take()?;
            if payload.len() > FRAME_BYTES_MAX {
                rest = Some(payload.split_off(FRAME_BYTES_MAX));
            }
            let last = if rest.is_none() { FINAL } else { 0 };
            let first = u8::from(std::mem::replace(&mut opcode, OpCode::Data(Data::Continue))) | last;
            Some(Frame { first, payload })
        })
    }

    /// The answer to a ping.
    pub fn pong(payload: Bytes) -> Self {
        Self { first: u8::from(OpCode::Control(Control::Pong)) | FINAL, payload }
    }

    /// The end of a connection. A reason is cut to what a control frame holds.
    pub fn close(code: u16, reason: &str) -> Self {
        let mut payload = code.to_be_bytes().to_vec();
        let end = reason.floor_char_boundary(123);
        payload.extend_from_slice(&reason.as_bytes()[..end]);
        Self { first: u8::from(OpCode::Control(Control::Close)) | FINAL, payload: payload.into() }
    }

    /// The bytes that go before the payload.
    pub fn header(&self, masked: bool) -> Header {
        let mut header = Header { bytes: [0; 14], length: 0 };
        let mask = if masked { MASKED } else { 0 };
        let length = self.payload.len();
        match (u16::try_from(length), u8::try_from(length)) {
            (_, Ok(short @ ..=125)) => header.put(&[self.first, mask | short]),
            (Ok(medium), _) => {
                header.put(&[self.first, mask | 126]);
                header.put(&medium.to_be_bytes());
            }
            (Err(_), _) => {
                header.put(&[self.first, mask | 127]);
                header.put(&(length as u64).to_be_bytes());
            }
        }
        if masked {
            header.put(&NO_MASK);
        }
        header
    }

    /// Whether it is the last of its message.
    pub fn is_last(&self) -> bool {
        self.first & FINAL != 0
    }

    /// What the frame carries.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }
}

#[cfg(test)]
mod tests {
    use super::super::FRAME_BYTES_MAX;
    use super::Frame;
    use tungstenite::protocol::frame::{
        Frame as Theirs,
        coding::{Data, OpCode},
    };

    #[test]
    fn headers_are_those_of_the_library() {
        for length in [0, 1, 125, 126, 127, 65_535, 65_536, FRAME_BYTES_MAX] {
            let text = "x".repeat(length);
            let ours: Vec<Frame> = Frame::of(text.clone().into()).collect();
            let [ours] = &ours[..] else { panic!("one frame, not {}", ours.len()) };
            let mut theirs = Vec::new();
            Theirs::message(text, OpCode::Data(Data::Text), true).format(&mut theirs).expect("formatted");
            let plain = [ours.header(false).as_slice(), ours.payload()].concat();
            assert!(plain == theirs, "{length}");
            let masked = ours.header(true);
            let (head, mask) = masked.as_slice().split_at(masked.as_slice().len() - 4);
            assert_eq!(mask, [0; 4]);
            assert_eq!(head[1] & 0x80, 0x80);
        }
    }

    #[test]
    fn a_text_beyond_the_limit_goes_out_in_pieces() {
        let text = "x".repeat(2 * FRAME_BYTES_MAX + 1);
        let pieces: Vec<(u8, usize)> =
            Frame::of(text.into()).map(|frame| (frame.first, frame.payload.len())).collect();
        assert_eq!(pieces, [(0x01, FRAME_BYTES_MAX), (0x00, FRAME_BYTES_MAX), (0x80, 1)]);
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let close = Frame::close(1013, &"ä".repeat(100));
        assert_eq!(close.payload().len(), 2 + 122);
    }
}
