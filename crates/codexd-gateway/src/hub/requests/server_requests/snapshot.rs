//! Server requests in the snapshot of the hub: ids, methods and recipients, no content.

use serde_json::{Value, json};

use super::PendingServerRequests;
use crate::hub::snapshot::{inner_list, method};

impl PendingServerRequests {
    /// The requests of app-servers that no client has answered, or whose answer the app-server has not taken yet.
    pub(in crate::hub) fn snapshot(&self) -> impl Iterator<Item = Value> {
        self.waiting.values().map(|ask| {
            json!({
                "number": ask.number,
                "connection": ask.connection.snapshot(),
                "method": method(&ask.text),
                "threadId": ask.thread.as_ref().map(ToString::to_string),
                "recipients": inner_list(ask.asked.iter().map(|client| json!(client.0))),
                "isAnswered": ask.answer.is_some(),
                "isRepeated": ask.is_repeated,
            })
        })
    }
}
