//! Why a request is answered with an error, in upstream's words (app-server 0.169.0).

use std::fmt::Display;

use codexd_protocol::envelope::{INVALID_REQUEST, OVERLOADED, OVERLOADED_MESSAGE};
use serde::Serialize;
use serde_json::{Value, json};

use crate::ids::ThreadId;

/// The code for a method that exists and does nothing here.
const UNSUPPORTED: i64 = -32601;

/// The `error` member of a reply.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Refusal {
    pub code: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
    pub message: String,
}

impl Refusal {
    /// The request does not fit the state of the server.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self { code: INVALID_REQUEST, data: None, message: message.into() }
    }

    /// The parameters do not have the right shape.
    pub(crate) fn malformed(error: impl Display) -> Self {
        Self::invalid(format!("Invalid request: {error}"))
    }

    /// A method (or a part of one) that upstream has and this server has not.
    pub(crate) fn unsupported(what: &str) -> Self {
        Self { code: UNSUPPORTED, data: None, message: format!("{what} is not supported yet") }
    }

    /// Too many requests wait.
    pub(crate) fn overloaded() -> Self {
        Self { code: OVERLOADED, data: None, message: OVERLOADED_MESSAGE.to_owned() }
    }

    /// The server waits for its last turns and starts nothing new.
    pub(crate) fn draining() -> Self {
        Self {
            data: Some(json!({"reason": "serverShuttingDown"})),
            ..Self::invalid("Server is draining; retry after reconnecting")
        }
    }

    pub(crate) fn no_rollout(thread: ThreadId) -> Self {
        Self::invalid(format!("no rollout found for thread id {thread}"))
    }

    pub(crate) fn no_archived_rollout(thread: ThreadId) -> Self {
        Self::invalid(format!("no archived rollout found for thread id {thread}"))
    }

    pub(crate) fn archived(thread: ThreadId) -> Self {
        Self::invalid(format!(
            "session {thread} is archived. Run `codex unarchive {thread}` to unarchive it first."
        ))
    }

    /// The thread has no turns, so there is no history to page through.
    pub(crate) fn not_materialized(thread: ThreadId, method: &str) -> Self {
        Self::invalid(format!(
            "thread {thread} is not materialized yet; {method} is unavailable before first user message"
        ))
    }

    pub(crate) fn not_loaded(thread: ThreadId) -> Self {
        Self::invalid(format!("thread not loaded: {thread}"))
    }

    pub(crate) fn not_found(thread: ThreadId) -> Self {
        Self::invalid(format!("thread not found: {thread}"))
    }

    /// Another server holds the thread.
    pub(crate) fn other_writer(thread: ThreadId) -> Self {
        Self::invalid(format!("thread {thread} already has an active writer"))
    }
}
