//! Messages that are too large to be passed on. Only the request that such a message belongs to fails.

use std::cell::RefCell;

use codexd_protocol::envelope::INVALID_REQUEST;
use codexd_protocol::websocket::{Excerpt, FRAME_BYTES_MAX, MESSAGE_BYTES_MAX};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::json;
use serde_json::value::RawValue;

use crate::hub::Text;
use crate::limits::UPSTREAM_MESSAGE_BYTES_MAX;

/// JSON-RPC: a failure of the server.
const SERVER_ERROR: i64 = -32000;
const MIB: usize = 1024 * 1024;

/// The kind of a message, as far as its beginning and end show it.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Oversized {
    /// A request; the id is raw.
    Request { id: String },
    /// A response; the id is raw.
    Answer { id: String },
    /// A notification, or unknown.
    Other,
}

/// Classifies a message by its beginning and end.
pub(super) fn classify(excerpt: &Excerpt) -> Oversized {
    let head = String::from_utf8_lossy(&excerpt.head);
    let members = RefCell::new(Members::default());
    // The text is incomplete: the members before its end count.
    let _ = Seed(&members).deserialize(&mut serde_json::Deserializer::from_str(&head));
    let Members { id, is_called } = members.into_inner();
    let id = id.or_else(|| last_id(&String::from_utf8_lossy(&excerpt.tail)));
    match (id, is_called) {
        (Some(id), true) => Oversized::Request { id },
        (Some(id), false) => Oversized::Answer { id },
        (None, _) => Oversized::Other,
    }
}

/// The response to a client whose request is larger than the app-server accepts.
pub(super) fn refusal_of_request(id: &str, excerpt: &Excerpt) -> Text {
    let message = format!(
        "Invalid request: {}: {} bytes; the app-server accepts messages of at most {} MiB in frames of at most {} MiB",
        excerpt.reason,
        excerpt.bytes,
        MESSAGE_BYTES_MAX / MIB,
        FRAME_BYTES_MAX / MIB
    );
    error(id, INVALID_REQUEST, &message, "messageTooLarge", excerpt.bytes)
}

/// The error response in place of a message of the app-server, or to it, that is larger than the gateway passes on.
pub(super) fn failure_of_answer(id: &str, excerpt: &Excerpt) -> Text {
    let message = format!(
        "the message of the app-server has {} bytes; codexd forwards messages of at most {} MiB",
        excerpt.bytes,
        UPSTREAM_MESSAGE_BYTES_MAX / MIB
    );
    error(id, SERVER_ERROR, &message, "answerTooLarge", excerpt.bytes)
}

fn error(id: &str, code: i64, message: &str, reason: &str, bytes: usize) -> Text {
    let error = json!({"code": code, "message": message, "data": {"reason": reason, "bytes": bytes}});
    format!(r#"{{"id":{id},"error":{error}}}"#).into()
}

#[derive(Debug, Default)]
struct Members {
    id: Option<String>,
    is_called: bool,
}

/// Reads the members of an incomplete object.
struct Seed<'a>(&'a RefCell<Members>);

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = ();

    fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        while let Some(name) = map.next_key::<String>()? {
            let is_method = name == "method";
            self.0.borrow_mut().is_called |= is_method;
            match &*name {
                "id" => {
                    let raw: &RawValue = map.next_value()?;
                    self.0.borrow_mut().id = scalar(raw.get());
                }
                _ => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        Ok(())
    }
}

/// The id of a message whose last member it is.
fn last_id(tail: &str) -> Option<String> {
    let object = tail.trim_end().strip_suffix('}')?;
    let at = object.rfind(r#","id":"#)?;
    scalar(object[at..].strip_prefix(r#","id":"#)?)
}

/// An id that upstream accepts.
fn scalar(raw: &str) -> Option<String> {
    let raw = raw.trim();
    let is_id = serde_json::from_str::<i64>(raw).is_ok() || serde_json::from_str::<String>(raw).is_ok();
    is_id.then(|| raw.to_owned())
}

#[cfg(test)]
mod tests {
    use super::{Oversized, classify};
    use codexd_protocol::websocket::Excerpt;

    fn excerpt(head: &str, tail: &str) -> Excerpt {
        Excerpt { head: head.into(), tail: tail.into(), bytes: 1 << 30, reason: "the message is too large" }
    }

    #[test]
    fn an_oversized_message_is_classified_by_either_end() {
        let request = |id: &str| Oversized::Request { id: id.into() };
        let answer = |id: &str| Oversized::Answer { id: id.into() };
        for (head, tail, expected) in [
            (r#"{"id":5,"result":{"x":"yyy"#, r#"yyy"}}"#, answer("5")),
            (r#"{"result":{"x":"yyy"#, r#"yyy"},"id":"a"}"#, answer(r#""a""#)),
            (r#"{"method":"m","id":0,"params":["#, "]}", request("0")),
            (r#"{ "jsonrpc" : "2.0", "method":"m","params":{"id":4,"x":"y"#, r#"y"},"id":9}"#, request("9")),
            (r#"{"method":"m","params":{"id":4,"x":"y"#, r#"y","id":9}}"#, Oversized::Other),
            (r#"{"method":"m","params":{"x":"y"#, r#"y,\"id\":9}"}}"#, Oversized::Other),
            (r#"{"id":1.5,"method":"m","params":"x"#, "x\"}", Oversized::Other),
            ("xxxx", "xxxx", Oversized::Other),
        ] {
            assert_eq!(classify(&excerpt(head, tail)), expected, "{head}…{tail}");
        }
    }
}
