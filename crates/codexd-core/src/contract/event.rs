//! The events of `events.jsonl`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The severity of an event.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EventLevel {
    /// Normal operation.
    Info,
    /// A fault that codexd has handled.
    Warn,
    /// A fault that remains.
    Error,
}

/// One event. `seq` grows by at least one from event to event and never repeats within a CODEX_HOME.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EventRecord {
    /// Its number.
    pub seq: u64,
    /// The time, in RFC 3339 with milliseconds, UTC.
    pub created_at: String,
    /// Its severity.
    pub level: EventLevel,
    /// Its type, such as `child.exited`.
    #[serde(rename = "type")]
    pub kind: String,
    /// A sentence.
    pub message: String,
    /// More fields, which depend on the type.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub detail: Map<String, Value>,
}
