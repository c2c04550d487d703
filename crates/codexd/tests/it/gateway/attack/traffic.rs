//! What hostile clients send.

use serde_json::json;

use super::super::chaos::Rng;
use super::Field;

/// The WebSocket handshake as it should be.
pub(super) const HANDSHAKE: &[u8] =
    b"GET /rpc HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
    sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// One frame with a mask of zeros, which leaves the payload as it is.
pub(super) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = header(first, payload.len() as u64);
    frame.extend_from_slice(payload);
    frame
}

/// A text frame.
pub(super) fn text(payload: &[u8]) -> Vec<u8> {
    frame(0x81, payload)
}

/// The head of a frame that says it has so many bytes.
pub(super) fn header(first: u8, length: u64) -> Vec<u8> {
    let mut header = vec![first];
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short), _) if short < 126 => header.push(0x80 | short),
        (_, Ok(length)) => {
            header.push(0x80 | 126);
            header.extend(length.to_be_bytes());
        }
        _ => {
            header.push(0x80 | 127);
            header.extend(length.to_be_bytes());
        }
    }
    header.extend([0; 4]);
    header
}

/// The handshake and a good introduction.
pub(super) fn introduction() -> Vec<u8> {
    let params = json!({"clientInfo": {"name": "hostile", "title": "hostile", "version": "1"},
        "capabilities": {"experimentalApi": true}});
    let initialize = json!({"id": "initialize", "method": "initialize", "params": params}).to_string();
    [HANDSHAKE, &text(initialize.as_bytes()), &text(br#"{"method":"initialized"}"#)].concat()
}

/// A cheap request that gets an answer.
pub(super) fn request(rng: &mut Rng) -> Vec<u8> {
    let unknown = format!("01a1f753-6b57-7b12-90c4-{:012x}", rng.below(1 << 31));
    let request = json!({"id": rng.below(1 << 31), "method": "thread/read", "params": {"threadId": unknown}});
    text(request.to_string().as_bytes())
}

/// A request whose text is so long.
pub(super) fn large_request(rng: &mut Rng, length: usize) -> Vec<u8> {
    let request = format!(
        r#"{{"id":{},"method":"no/such/method","params":{{"filler":"{}"}}}}"#,
        rng.below(1 << 31),
        "x".repeat(length)
    );
    text(request.as_bytes())
}

/// A watch on a folder that is not there: the app-server refuses it.
pub(super) fn refused_watch(rng: &mut Rng) -> Vec<u8> {
    let watch = format!("w{}", rng.below(1 << 31));
    let params = json!({"watchId": watch, "path": format!("/nonexistent/{watch}")});
    text(json!({"id": rng.below(1 << 31), "method": "fs/watch", "params": params}).to_string().as_bytes())
}

/// An answer to something that this client was not asked.
pub(super) fn uncalled_answer(rng: &mut Rng) -> Vec<u8> {
    let id = rng.below(200);
    let answer = match rng.below(3) {
        0 => json!({"id": id, "result": {"decision": "cancel"}}),
        1 => json!({"id": id, "error": {"message": "no code"}}),
        _ => json!({"id": id, "result": null, "error": null}),
    };
    text(answer.to_string().as_bytes())
}

/// What upstream or we must not choke on.
const POISON: [&str; 14] = [
    r#"{"id":1,"method":"thread/read","params":{"threadId":"\ud800"}}"#,
    r#"{"id":1,"method":"thread/read","params":{},"trace":7}"#,
    r#"{"id":1e999,"method":"thread/read"}"#,
    r#"{"id":-0,"method":"thread/read","params":null}"#,
    r#"{"id":18446744073709551616,"method":"thread/loaded/list","params":{}}"#,
    r#"{"id":{},"method":"thread/loaded/list"}"#,
    r#"{"id":null,"method":"thread/loaded/list"}"#,
    r#"{"id":1,"id":2,"method":"a","method":"thread/loaded/list","params":{}}"#,
    r#"{"method":7}"#,
    r#"{"id":1,"result":{},"method":"x"}"#,
    r#"[{"id":1,"method":"thread/loaded/list"}]"#,
    r#"{"id":1,"method":"thread/resume","params":["x",null,3]}"#,
    r#"{"id":1,"method":"\u0000","params":{}}"#,
    "\u{feff}{}",
];

/// A `clientInfo` that the app-server refuses or drops.
const INTRODUCTIONS: [&str; 6] = [
    r#"{"name":"\ud800","version":"1"}"#,
    r#"{"name":"a\nb","title":7,"version":"1"}"#,
    r#"{"name":"","version":""}"#,
    r#"{"version":"1"}"#,
    r#"{"name":"\u0000\u007f€","version":"1"}"#,
    r#"[]"#,
];

/// A malformed introduction.
pub(super) fn bad_introduction(rng: &mut Rng) -> Vec<u8> {
    let info = INTRODUCTIONS[rng.place(INTRODUCTIONS.len())];
    let extra = if rng.one_in(2) { r#","trace":7"# } else { "" };
    text(format!(r#"{{"id":1,"method":"initialize","params":{{"clientInfo":{info}}}{extra}}}"#).as_bytes())
}

/// A text that is no message, or a strange one.
pub(super) fn malformed(field: &Field, rng: &mut Rng) -> Vec<u8> {
    match rng.below(8) {
        0 => text(POISON[rng.place(POISON.len())].as_bytes()),
        1 => {
            let depth = 1 + rng.place(3_000);
            let (open, close) = if rng.one_in(2) { ("[", "]") } else { (r#"{"a":"#, "}") };
            let nested = format!("{}1{}", open.repeat(depth), close.repeat(depth));
            text(format!(r#"{{"id":1,"method":"thread/read","params":{nested}}}"#).as_bytes())
        }
        2 => text(&bytes(rng, 300)),
        _ => text(&mutated(field, rng)),
    }
}

/// A good message with a few mistakes.
fn mutated(field: &Field, rng: &mut Rng) -> Vec<u8> {
    let thread = &field.thread;
    let good = [
        json!({"id": 1, "method": "thread/read", "params": {"threadId": thread}}),
        json!({"id": "a", "method": "thread/turns/list", "params": {"threadId": thread, "limit": 1}}),
        json!({"id": 2, "method": "thread/resume", "params": {"threadId": thread, "excludeTurns": true}}),
        json!({"id": 3, "method": "thread/unsubscribe", "params": {"threadId": thread}}),
        json!({"id": 4, "method": "account/read", "params": {}}),
        json!({"id": 5, "method": "model/list", "params": {}}),
        json!({"id": 6, "result": {"decision": "accept"}}),
        json!({"id": 7, "error": {"code": -1, "message": "x"}}),
        json!({"method": "initialized"}),
    ];
    let mut message = good[rng.place(good.len())].to_string().into_bytes();
    for _ in 0..=rng.below(4) {
        let at = rng.place(message.len().max(1));
        match rng.below(5) {
            0 if at < message.len() => message[at] ^= 1 << rng.below(7),
            1 => message.truncate(at),
            2 => drop(message.splice(at..at, bytes(rng, 8))),
            3 => drop(message.splice(at..at, *br#"\ud83d"#)),
            _ => {
                let end = (at + 1 + rng.place(12)).min(message.len());
                let part = message[at.min(end)..end].to_vec();
                message.splice(at.min(end)..at.min(end), part);
            }
        }
    }
    message
}

/// Frames that RFC 6455 forbids, in any order.
pub(super) fn bad_frame(rng: &mut Rng) -> Vec<u8> {
    let payload = bytes(rng, 200);
    match rng.below(8) {
        // Without a mask.
        0 => vec![0x81, 2, b'{', b'}'],
        // Reserved bits and opcodes.
        1 => frame(0x80 | (rng.below(128) as u8), &payload),
        // A control frame that is too long, or in parts.
        2 => frame(0x89, &bytes(rng, 4_000)),
        3 => frame(0x09, b"x"),
        // A continuation of nothing, and two beginnings.
        4 => frame(0x80, &payload),
        5 => [frame(0x01, b"{"), frame(0x01, b"}")].concat(),
        // A close frame with half a code, or a reason that is not UTF-8.
        6 => frame(0x88, &payload[..payload.len().min(3)]),
        _ => bytes(rng, 500),
    }
}

/// At most so many bytes at random.
pub(super) fn bytes(rng: &mut Rng, most: usize) -> Vec<u8> {
    let length = rng.place(most + 1);
    (0..length).map(|_| rng.below(256) as u8).collect()
}
