//! Deprecation notices: 0.169.0 sends one on the shared connection before it answers a request for full turns. It goes to
//! the client that sent the request.

use std::collections::VecDeque;

use codexd_protocol::envelope::{self, Message};

use crate::hub::event::ClientId;
use crate::hub::text;
use crate::limits::RESUME_REQUESTERS_MAX;

/// Clients that requested full turns and will receive upstream's notice; oldest first.
#[derive(Debug, Default)]
pub struct DeprecationNotices {
    clients: VecDeque<ClientId>,
}

impl DeprecationNotices {
    /// A request of a client is sent.
    pub fn request_sent(&mut self, client: ClientId, method: &str, request: &str) {
        if asks_for_turns(method, request) {
            self.clients.push_back(client);
            // Older app-servers send no notice.
            if self.clients.len() > RESUME_REQUESTERS_MAX {
                self.clients.pop_front();
            }
        }
    }

    /// A request of a client is answered. Upstream sends its notice before the response: none follows.
    pub fn request_done(&mut self, client: ClientId, request: &str) {
        if self.clients.is_empty() {
            return;
        }
        let asked = match envelope::parse(request) {
            Ok(Message::Request { method, .. }) => asks_for_turns(method, request),
            _ => false,
        };
        if asked && let Some(at) = self.clients.iter().position(|waiting| *waiting == client) {
            self.clients.remove(at);
        }
    }

    /// The client that receives the next notice.
    pub fn next_recipient(&mut self) -> Option<ClientId> {
        self.clients.pop_front()
    }

    pub fn client_disconnected(&mut self, client: ClientId) {
        self.clients.retain(|waiting| *waiting != client);
    }
}

/// Whether a request asks for full turns, for which 0.169.0 sends a deprecation notice before it answers.
fn asks_for_turns(method: &str, request: &str) -> bool {
    let says = |name: &str| {
        text::member(request, "params")
            .and_then(|params| text::member(params.get(), name))
            .is_some_and(|flag| flag.get() == "true")
    };
    match method {
        "thread/resume" | "thread/fork" => !says("excludeTurns"),
        "thread/read" => says("includeTurns"),
        _ => false,
    }
}
