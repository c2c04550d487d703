//! Ordering constraints between one client's queued requests.
//!
//! Upstream keeps no order between threads, nor between requests with and without a thread, which take different
//! connections. So a request that is blocked because its thread is not attached delays only requests about the same
//! thread.

use codexd_protocol::envelope::{self, Message};

use crate::hub::text::Names;
use crate::routes::{self, Route, Special};

/// The ordering key of a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum OrderingKey {
    /// Behind earlier requests about this thread.
    Thread(Box<str>),
    /// Behind earlier requests that start a thread.
    NewThread,
    /// Behind every earlier request of the client: it refers to a request that may be queued.
    Last,
    /// Unordered.
    Free,
}

impl OrderingKey {
    /// The ordering key of a request.
    pub fn of(text: &str) -> Self {
        let Ok(Message::Request { method, params, .. }) = envelope::parse(text) else {
            return OrderingKey::Last;
        };
        let route = routes::route(method);
        if let Route::Dedicated = route {
            return OrderingKey::Free;
        }
        match (Names::of(params).thread(), route) {
            (_, Route::Gateway(Special::RequestId)) => OrderingKey::Last,
            (_, Route::Gateway(Special::EventStreamStop)) => OrderingKey::Last,
            (Some(thread), _) => OrderingKey::Thread(thread.into()),
            (None, Route::Hub) => OrderingKey::NewThread,
            (None, _) => OrderingKey::Free,
        }
    }

    /// Whether a request with this key waits for an earlier blocked one.
    pub fn is_behind(&self, earlier: &OrderingKey) -> bool {
        *self == OrderingKey::Last || self == earlier
    }
}

#[cfg(test)]
mod tests {
    use super::OrderingKey;

    #[test]
    fn only_what_is_about_the_same_thread_waits_behind_it() {
        let thread = |id: &str| OrderingKey::Thread(id.into());
        for (text, key) in [
            (r#"{"id":1,"method":"turn/start","params":{"threadId":"a"}}"#, thread("a")),
            (r#"{"id":1,"method":"thread/unsubscribe","params":{"threadId":"a"}}"#, thread("a")),
            (r#"{"id":1,"method":"app/list","params":{"threadId":"b"}}"#, thread("b")),
            (r#"{"id":1,"method":"app/list","params":{}}"#, OrderingKey::Free),
            (r#"{"id":1,"method":"thread/start","params":{}}"#, OrderingKey::NewThread),
            (r#"{"id":1,"method":"model/list","params":{"threadId":"a"}}"#, OrderingKey::Free),
            (r#"{"id":1,"method":"thread/sample/cancel","params":{"requestId":7}}"#, OrderingKey::Last),
            (
                r#"{"id":1,"method":"mcpServer/event/stream/stop","params":{"subscriptionId":"s"}}"#,
                OrderingKey::Last,
            ),
        ] {
            assert_eq!(OrderingKey::of(text), key, "{text}");
        }
        assert!(thread("a").is_behind(&thread("a")) && !thread("a").is_behind(&thread("b")));
        assert!(
            OrderingKey::Last.is_behind(&thread("a"))
                && !OrderingKey::Free.is_behind(&OrderingKey::NewThread)
        );
    }
}
