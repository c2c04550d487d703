//! Outgoing messages: JSON text, encoded once and shared by all recipients.

use codexd_protocol::RequestId;
use serde::Serialize;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::ids::ServerRequestId;
use crate::refusal::Refusal;
use crate::timestamp::Timestamp;

/// One encoded message; cloning it shares the bytes.
pub(crate) type Frame = Utf8Bytes;

/// The answer to a request.
pub(crate) fn reply(id: &RequestId, outcome: Result<Value, Refusal>) -> Frame {
    #[derive(Serialize)]
    struct Success<'a> {
        id: &'a RequestId,
        result: Value,
    }
    #[derive(Serialize)]
    struct Failure<'a> {
        error: Refusal,
        id: &'a RequestId,
    }
    match outcome {
        Ok(result) => encode(&Success { id, result }),
        Err(error) => encode(&Failure { error, id }),
    }
}

/// A notification; each carries the time at which it was made.
pub(crate) fn notification(method: &str, params: &Value, now: Timestamp) -> Frame {
    encode(&json!({"method": method, "params": params, "emittedAtMs": now.millis()}))
}

/// A request to the clients.
pub(crate) fn request(id: ServerRequestId, method: &str, params: &Value) -> Frame {
    encode(&json!({"method": method, "id": id, "params": params}))
}

fn encode(message: &impl Serialize) -> Frame {
    serde_json::to_string(message).expect("strings, numbers and maps with string keys are always JSON").into()
}

#[cfg(test)]
mod tests {
    use codexd_protocol::RequestId;
    use serde_json::json;

    use super::{notification, reply, request};
    use crate::ids::ServerRequestId;
    use crate::refusal::Refusal;
    use crate::timestamp::Timestamp;

    #[test]
    fn a_string_id_comes_back_as_a_string() {
        let text = reply(&RequestId::String("7".into()), Ok(json!({})));
        assert_eq!(text.as_str(), r#"{"id":"7","result":{}}"#);
    }

    #[test]
    fn a_refusal_without_data_has_no_member_data() {
        let text = reply(&RequestId::Integer(1), Err(Refusal::invalid("Not initialized")));
        assert_eq!(text.as_str(), r#"{"error":{"code":-32600,"message":"Not initialized"},"id":1}"#);
    }

    #[test]
    fn notifications_are_dated_and_requests_are_not() {
        let told = notification("a/b", &json!({}), Timestamp::from_millis(5));
        assert_eq!(told.as_str(), r#"{"method":"a/b","params":{},"emittedAtMs":5}"#);
        let asked = request(ServerRequestId(0), "a/b", &json!({}));
        assert_eq!(asked.as_str(), r#"{"method":"a/b","id":0,"params":{}}"#);
    }
}
