//! Server requests in the snapshot of the hub: ids, methods and recipients, no content.

use serde_json::{Value, json};

use crate::hub::requests::server_requests::PendingServerRequests;
use crate::hub::snapshot::{inner_list, method};

impl PendingServerRequests {
    /// The requests of app-servers that no client has answered, or whose answer the app-server has not taken yet.
    pub(in crate::hub) fn snapshot(&self) -> impl Iterator<Item = Value> {
        self.waiting.values().map(|request| {
            json!({
                "number": request.number,
                "connection": request.connection.snapshot(),
                "method": method(&request.text),
                "threadId": request.thread.as_ref().map(ToString::to_string),
                "recipients": inner_list(request.recipients.iter().map(|client| json!(client.0))),
                "isAnswered": request.answer.is_some(),
                "isRepeated": request.is_repeated,
            })
        })
    }
}
