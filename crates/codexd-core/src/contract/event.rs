//! What happened, one line of `events.jsonl` each.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// How much an event matters.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EventLevel {
    /// As it should be.
    Info,
    /// Something was found wrong and dealt with.
    Warn,
    /// Something is wrong.
    Error,
}

/// One event. `seq` grows by at least one from event to event and never repeats within a CODEX_HOME.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EventRecord {
    /// The number of the event.
    pub seq: u64,
    /// When, in RFC 3339 with milliseconds, UTC.
    pub created_at: String,
    /// How much it matters.
    pub level: EventLevel,
    /// What kind, such as `child.exited`.
    #[serde(rename = "type")]
    pub kind: String,
    /// A sentence.
    pub message: String,
    /// The facts, by kind.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub detail: Map<String, Value>,
}
