//! One message of the app-server protocol: JSON-RPC without the `jsonrpc` member (app-server 0.131.0 and 0.169.0 send
//! none and accept one).
//!
//! [`parse`] reads what an app-server wrote, or what was checked before. [`check`](crate::check) reads what anybody may have
//! written, and refuses what an app-server drops without a reply.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

/// The code of every refusal upstream makes about the shape or state of a request.
pub const INVALID_REQUEST: i64 = -32600;
/// The code upstream answers with when its ingress queue is full.
pub const OVERLOADED: i64 = -32001;
/// The sentence that goes with [`OVERLOADED`].
pub const OVERLOADED_MESSAGE: &str = "Server overloaded; retry later.";

/// The id of a request: a 64-bit integer or a string, echoed as it came. Upstream drops every other kind silently.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(untagged)]
pub enum RequestId {
    /// An integer id.
    Integer(i64),
    /// A string id.
    String(String),
}

/// A parsed envelope; `params`, `result` and `error` are the raw text of the sender.
#[derive(Clone, Copy, Debug)]
pub enum Message<'a> {
    /// A request: it has an id and expects exactly one reply.
    Request {
        /// The raw id; parse it with [`Message::request_id`].
        id: &'a RawValue,
        /// The method's name.
        method: &'a str,
        /// The raw parameters, if there were any.
        params: Option<&'a RawValue>,
    },
    /// A notification: no id, no reply.
    Notification {
        /// The method's name.
        method: &'a str,
        /// The raw parameters, if there were any.
        params: Option<&'a RawValue>,
    },
    /// A reply to a request of ours.
    Response {
        /// The raw id of the request.
        id: &'a RawValue,
        /// The result, or the error object.
        outcome: Result<&'a RawValue, &'a RawValue>,
    },
}

impl Message<'_> {
    /// The typed id of a request or response; `None` for a notification and for an id that upstream would drop
    /// (null, a fraction, an integer beyond 64 bits).
    pub fn request_id(&self) -> Option<RequestId> {
        match self {
            Message::Request { id, .. } | Message::Response { id, .. } => serde_json::from_str(id.get()).ok(),
            Message::Notification { .. } => None,
        }
    }
}

/// Why a text is not a message.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// The text is not JSON, or not an object with members of the right kinds.
    #[error("not a JSON object of the protocol: {0}")]
    Json(#[from] serde_json::Error),
    /// An object with neither a method nor a result nor an error.
    #[error("neither a request, a notification nor a response")]
    Shapeless,
}

/// The members that the protocol knows, raw.
#[derive(Clone, Copy, Deserialize)]
pub(crate) struct Wire<'a> {
    /// Present, and null, where the sender wrote null.
    #[serde(borrow, default, deserialize_with = "present")]
    pub id: Option<&'a RawValue>,
    #[serde(borrow)]
    pub method: Option<&'a RawValue>,
    #[serde(borrow)]
    pub params: Option<&'a RawValue>,
    #[serde(borrow)]
    pub trace: Option<&'a RawValue>,
    /// Present, and null, where the sender wrote null.
    #[serde(borrow, default, deserialize_with = "present")]
    pub result: Option<&'a RawValue>,
    #[serde(borrow)]
    pub error: Option<&'a RawValue>,
}

/// A member that is there, also if it is null.
fn present<'de: 'a, 'a, D: Deserializer<'de>>(member: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(member).map(Some)
}

/// Parses one message as far as its envelope.
///
/// A method name written with JSON escapes is refused as [`EnvelopeError::Json`]: no method of the protocol needs one.
pub fn parse(text: &str) -> Result<Message<'_>, EnvelopeError> {
    let wire: Wire<'_> = serde_json::from_str(text)?;
    let method = match wire.method {
        Some(raw) => Some(unescaped(raw).map_or_else(|| serde_json::from_str(raw.get()), Ok)?),
        None => None,
    };
    wire.message(method).ok_or(EnvelopeError::Shapeless)
}

/// The text of a string that is written without escapes.
fn unescaped(raw: &RawValue) -> Option<&str> {
    raw.get().strip_prefix('"')?.strip_suffix('"').filter(|text| !text.contains('\\'))
}

impl<'a> Wire<'a> {
    /// The message that these members make. A result outweighs an error beside it, as in app-server 0.171.0.
    pub fn message(self, method: Option<&'a str>) -> Option<Message<'a>> {
        match (method, self) {
            (Some(method), Wire { id: Some(id), params, .. }) => {
                Some(Message::Request { id, method, params })
            }
            (Some(method), Wire { id: None, params, .. }) => Some(Message::Notification { method, params }),
            (None, Wire { id: Some(id), result: Some(result), .. }) => {
                Some(Message::Response { id, outcome: Ok(result) })
            }
            (None, Wire { id: Some(id), error: Some(error), .. }) => {
                Some(Message::Response { id, outcome: Err(error) })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{EnvelopeError, Message, RequestId, parse};

    #[test]
    fn a_request_keeps_its_parameters_as_sent() {
        let text = r#"{"id":"a","method":"x/y","params":{"z": 1.0, "later":[]},"trace":7}"#;
        let message = parse(text).expect("it is a request");
        assert_eq!(message.request_id(), Some(RequestId::String("a".into())));
        let Message::Request { method, params, .. } = message else {
            panic!("a request, not {message:?}");
        };
        assert_eq!(method, "x/y");
        assert_eq!(params.map(serde_json::value::RawValue::get), Some(r#"{"z": 1.0, "later":[]}"#));
    }

    #[test]
    fn ids_that_upstream_drops_have_no_type() {
        for id in ["1.5", "null", "99999999999999999999", "[1]"] {
            let text = format!(r#"{{"id":{id},"method":"m"}}"#);
            if let Ok(message) = parse(&text) {
                assert_eq!(message.request_id(), None, "{id}");
            }
        }
    }

    #[test]
    fn an_object_without_a_purpose_is_named_so() {
        assert!(matches!(parse("{}"), Err(EnvelopeError::Shapeless)));
        assert!(matches!(parse("[]"), Err(EnvelopeError::Json(_))));
    }
}
