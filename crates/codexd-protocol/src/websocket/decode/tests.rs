//! The library encodes, we decode.

use proptest::prelude::*;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};
use tungstenite::protocol::frame::{Frame, FrameHeader};

use super::{Decoder, Fault, Incoming, Rules};

const RULES: Rules =
    Rules { masked: true, frame_bytes_max: 100_000, message_bytes_max: 300_000, skipped_bytes_max: 0 };

fn frame(opcode: OpCode, last: bool, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let header = FrameHeader { opcode, is_final: last, mask, ..FrameHeader::default() };
    let frame = Frame::from_payload(header, payload.to_vec().into());
    let mut bytes = Vec::new();
    frame.format(&mut bytes).expect("formatted");
    bytes
}

fn all(rules: Rules, pieces: &[&[u8]]) -> (Vec<Incoming>, Option<Fault>) {
    let mut decoder = Decoder::new(rules);
    let mut came = Vec::new();
    for piece in pieces {
        let mut input = *piece;
        loop {
            match decoder.next(&mut input) {
                Ok(Some(incoming)) => came.push(incoming),
                Ok(None) => break,
                Err(fault) => return (came, Some(fault)),
            }
        }
        assert!(input.is_empty());
    }
    assert!(decoder.frame.is_some() || decoder.under_way.is_some() || decoder.message.capacity() == 0);
    assert!(decoder.under_way.is_some() || decoder.skipped.is_none());
    (came, None)
}

const TEXT: OpCode = OpCode::Data(Data::Text);
const MORE: OpCode = OpCode::Data(Data::Continue);
const MASK: Option<[u8; 4]> = Some([1, 2, 3, 4]);

#[derive(Clone, Debug)]
enum Sent {
    Text(Vec<String>),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong,
}

fn sent() -> impl Strategy<Value = Sent> {
    prop_oneof![
        proptest::collection::vec("\\PC{0,90}", 1..4).prop_map(Sent::Text),
        (0_usize..70_000).prop_map(|length| Sent::Text(vec!["é".repeat(length / 2)])),
        proptest::collection::vec(any::<u8>(), 0..200).prop_map(Sent::Binary),
        proptest::collection::vec(any::<u8>(), 0..125).prop_map(Sent::Ping),
        Just(Sent::Pong),
    ]
}

fn encode(sent: &Sent, mask: [u8; 4]) -> Vec<u8> {
    let mask = Some(mask);
    match sent {
        Sent::Binary(bytes) => frame(OpCode::Data(Data::Binary), true, bytes, mask),
        Sent::Ping(bytes) => frame(OpCode::Control(Control::Ping), true, bytes, mask),
        Sent::Pong => frame(OpCode::Control(Control::Pong), true, b"x", mask),
        Sent::Text(parts) => {
            let mut bytes = Vec::new();
            for (at, part) in parts.iter().enumerate() {
                let opcode = if at == 0 { TEXT } else { MORE };
                bytes.extend(frame(opcode, at + 1 == parts.len(), part.as_bytes(), mask));
                bytes.extend(frame(OpCode::Control(Control::Pong), true, b"between", mask));
            }
            bytes
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_sent_in_whatever_pieces_comes_out(
        messages in proptest::collection::vec((sent(), any::<[u8; 4]>()), 1..8),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let bytes: Vec<u8> = messages.iter().flat_map(|(sent, mask)| encode(sent, *mask)).collect();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        let mut pieces = Vec::new();
        let mut from = 0;
        for cut in cuts.into_iter().chain([bytes.len()]) {
            pieces.push(&bytes[from..cut]);
            from = cut;
        }
        let expected: Vec<Incoming> = messages.iter().filter_map(|(sent, _)| match sent {
            Sent::Text(parts) => Some(Incoming::Text(parts.concat().into())),
            Sent::Ping(bytes) => Some(Incoming::Ping(bytes.clone().into())),
            _ => None,
        }).collect();
        let (came, fault) = all(RULES, &pieces);
        prop_assert_eq!(fault, None);
        prop_assert!(came == expected);
    }

    #[test]
    fn noise_is_refused_or_waited_for_and_never_kept(noise in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut decoder = Decoder::new(RULES);
        let mut input = &noise[..];
        while let Ok(Some(_)) = decoder.next(&mut input) {}
        prop_assert!(decoder.message.capacity() <= 1024);
    }
}

fn fault_of(rules: Rules, bytes: &[u8]) -> u16 {
    all(rules, &[bytes]).1.expect("a fault").code
}

#[test]
fn what_is_wrong_has_the_code_of_the_rfc() {
    assert_eq!(fault_of(RULES, &frame(TEXT, true, b"not masked", None)), 1002);
    assert_eq!(fault_of(Rules { masked: false, ..RULES }, &frame(TEXT, true, b"masked", MASK)), 1002);
    assert_eq!(fault_of(RULES, &frame(MORE, true, b"of nothing", MASK)), 1002);
    assert_eq!(fault_of(RULES, &[0xc1, 0x80, 0, 0, 0, 0]), 1002);
    assert_eq!(fault_of(RULES, &[0x83, 0x80, 0, 0, 0, 0]), 1002);
    assert_eq!(fault_of(RULES, &[0x09, 0x80, 0, 0, 0, 0]), 1002);
    assert_eq!(fault_of(RULES, &frame(TEXT, true, &[0xff, 0xfe], MASK)), 1007);
    let unfinished = [frame(TEXT, false, b"a", MASK), frame(TEXT, true, b"b", MASK)].concat();
    assert_eq!(fault_of(RULES, &unfinished), 1002);
}

#[test]
fn sizes_are_refused_by_the_header_alone() {
    assert_eq!(fault_of(RULES, &frame(TEXT, true, &[b'x'; 100_001], MASK)[..14]), 1009);
    let piece = frame(MORE, false, &[b'x'; 100_000], MASK);
    let first = frame(TEXT, false, &[b'x'; 100_000], MASK);
    let (came, fault) = all(RULES, &[&first, &piece, &piece, &frame(MORE, true, b"x", MASK)]);
    assert!(came.is_empty());
    assert_eq!(fault.expect("a fault").code, 1009);
    let (came, fault) = all(RULES, &[&first, &piece, &piece, &frame(MORE, true, b"", MASK)]);
    assert_eq!((came.len(), fault), (1, None));
}

#[test]
fn a_close_has_its_code_and_reason_or_neither() {
    let close =
        |payload: &[u8]| all(RULES, &[&frame(OpCode::Control(Control::Close), true, payload, MASK)]).0;
    let expected = Incoming::Close { code: Some(1013), reason: "slow".into() };
    assert_eq!(close(&[&[3, 245][..], b"slow"].concat()), [expected]);
    for short in [&[][..], &[3]] {
        assert_eq!(close(short), [Incoming::Close { code: None, reason: String::new() }]);
    }
}

#[test]
fn binary_messages_are_read_over_in_pieces_too() {
    let bytes = [
        frame(OpCode::Data(Data::Binary), false, &[0xff; 50], MASK),
        frame(MORE, true, &[0xff; 50], MASK),
        frame(TEXT, true, b"after", MASK),
    ]
    .concat();
    let (came, fault) = all(RULES, &[&bytes]);
    assert_eq!((came, fault), (vec![Incoming::Text("after".into())], None));
}

#[test]
fn a_message_that_is_too_large_is_read_over_and_the_next_one_is_taken() {
    let rules = Rules { skipped_bytes_max: 1_000_000, ..RULES };
    let text = format!(r#"{{"id":7,"params":"{}"}}"#, "x".repeat(400_000));
    let (first, rest) = text.as_bytes().split_at(99_999);
    let (second, third) = rest.split_at(100_000);
    let in_frames =
        [frame(TEXT, false, first, MASK), frame(MORE, false, second, MASK), frame(MORE, true, third, MASK)];
    for large in [in_frames.concat(), frame(TEXT, true, text.as_bytes(), MASK)] {
        let bytes = [large, frame(TEXT, true, b"after", MASK)].concat();
        for size in [bytes.len(), 1_000, 7] {
            let pieces: Vec<&[u8]> = bytes.chunks(size).collect();
            let (came, fault) = all(rules, &pieces);
            let [Incoming::TooLarge(excerpt), Incoming::Text(after)] = &came[..] else { panic!("{came:?}") };
            assert_eq!((excerpt.bytes, after.as_str(), fault), (text.len(), "after", None));
            assert!(
                excerpt.head.starts_with(br#"{"id":7,"params":"xxx"#) && excerpt.tail.ends_with(br#"xxx"}"#)
            );
            assert_eq!((excerpt.head.len(), excerpt.tail.len()), (4096, 4096));
        }
    }
    let endless = frame(TEXT, true, &[b'x'; 1_000_001], MASK);
    assert_eq!(fault_of(rules, &endless[..14]), 1009);
}
