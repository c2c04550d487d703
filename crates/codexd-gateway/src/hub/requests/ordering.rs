//! What of one client must not overtake what.
//!
//! Upstream keeps no order between threads, nor between what is about a thread and what is not; the two even take different
//! connections. So a request that waits for its thread, which is on its way to another app-server, holds up only what is
//! about the same thread.

use codexd_protocol::envelope::{self, Message};

use crate::hub::text::Names;
use crate::routes::{self, Route, Special};

/// In which order a request stands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum OrderingKey {
    /// Behind what is about this thread.
    Thread(Box<str>),
    /// Behind what begins a thread.
    NewThread,
    /// Behind everything of its client: it is about a request, which may be waiting.
    Last,
    /// In no order with what waits for a thread.
    Free,
}

impl OrderingKey {
    /// The ordering key of a request.
    pub fn of(text: &str) -> Self {
        let Ok(Message::Request { method, params, .. }) = envelope::parse(text) else {
            return OrderingKey::Last;
        };
        let route = routes::route(method);
        if let Route::Own(_) = route {
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

    /// Whether a request with this ordering key has to wait while an earlier one with that key does.
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
        for (text, lane) in [
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
            assert_eq!(OrderingKey::of(text), lane, "{text}");
        }
        assert!(thread("a").is_behind(&thread("a")) && !thread("a").is_behind(&thread("b")));
        assert!(
            OrderingKey::Last.is_behind(&thread("a"))
                && !OrderingKey::Free.is_behind(&OrderingKey::NewThread)
        );
    }
}
