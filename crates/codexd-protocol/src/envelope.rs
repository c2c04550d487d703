//! One message of the app-server protocol: JSON-RPC without the `jsonrpc` member (app-server 0.131.0 and 0.169.0 send
//! none and accept one).

use serde::{Deserialize, Serialize};
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

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Option<&'a str>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

/// Parses one message as far as its envelope.
///
/// A method name written with JSON escapes is refused as [`EnvelopeError::Json`]: no method of the protocol needs one.
pub fn parse(text: &str) -> Result<Message<'_>, EnvelopeError> {
    let wire: Wire<'_> = serde_json::from_str(text)?;
    match wire {
        Wire { method: Some(method), id: Some(id), params, .. } => {
            Ok(Message::Request { id, method, params })
        }
        Wire { method: Some(method), id: None, params, .. } => Ok(Message::Notification { method, params }),
        Wire { id: Some(id), error: Some(error), .. } => Ok(Message::Response { id, outcome: Err(error) }),
        Wire { id: Some(id), result: Some(result), .. } => Ok(Message::Response { id, outcome: Ok(result) }),
        _ => Err(EnvelopeError::Shapeless),
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
