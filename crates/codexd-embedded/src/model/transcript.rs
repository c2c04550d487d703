//! The transcript of a thread, and the records of its rollout file.
//!
//! Invariant: a transcript is built from its records alone, so it reads back the same after a restart. A turn
//! whose end was never recorded (the process was killed) reads back as interrupted.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ids::{ItemId, ThreadId, TurnId};
use crate::timestamp::Timestamp;

/// What is fixed when a thread starts.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Meta {
    pub id: ThreadId,
    pub created: Timestamp,
    pub cwd: String,
    pub model: String,
    pub model_provider: String,
    pub approval_policy: Value,
    pub originator: String,
    pub version: String,
}

/// One line of a rollout file.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub(crate) enum Record {
    /// Always the first.
    ThreadStarted { meta: Meta },
    /// The thread got a name.
    Named { name: String },
    /// A turn began.
    TurnStarted { turn: TurnId, at: Timestamp },
    /// An item of the running turn is complete.
    ItemCompleted { turn: TurnId, item: Item },
    /// Token usage was sent to the clients.
    TokensTold { turn: TurnId, usage: Usage },
    /// The turn ended.
    TurnEnded { turn: TurnId, at: Timestamp, status: TurnStatus, error: Option<TurnError> },
}

/// The status of a turn.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum TurnStatus {
    InProgress,
    Completed,
    Interrupted,
    Failed,
}

/// Why a turn failed, as upstream reports it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TurnError {
    pub message: String,
    pub codex_error_info: Value,
    pub additional_details: Option<String>,
    pub misalignment: Option<Value>,
}

/// Tokens of a thread: all calls of the model together, and the last one.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Usage {
    pub input: u64,
    pub output: u64,
    pub last_input: u64,
    pub last_output: u64,
}

/// One item of a turn.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Item {
    pub id: ItemId,
    pub started: Timestamp,
    pub completed: Option<Timestamp>,
    pub body: ItemBody,
}

/// What an item is.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub(crate) enum ItemBody {
    UserMessage { client_id: Option<String>, content: Vec<Value> },
    AgentMessage { text: String },
    CommandExecution(Command),
}

/// A command that the model asked for.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Command {
    /// As the model wrote it.
    pub command: String,
    pub cwd: String,
    pub status: CommandStatus,
    /// The process it "runs" as; `None` until it does.
    pub process: Option<String>,
    pub exit_code: Option<i32>,
    pub output: Option<String>,
}

/// The status of a command.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum CommandStatus {
    InProgress,
    Completed,
    Failed,
    Declined,
}

/// A turn.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Turn {
    pub id: TurnId,
    pub items: Vec<Item>,
    pub status: TurnStatus,
    pub error: Option<TurnError>,
    pub started: Timestamp,
    /// When the turn ended; `None` while it runs and if its process died.
    pub ended: Option<Timestamp>,
}

/// A thread, built from its records.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Transcript {
    pub meta: Meta,
    pub name: Option<String>,
    pub turns: Vec<Turn>,
    /// The tokens of all completed model calls.
    pub usage: Option<Usage>,
    /// The turn in which usage was last sent.
    pub usage_turn: Option<TurnId>,
    /// The time of the last record.
    pub updated: Timestamp,
}

impl Transcript {
    /// A thread without turns.
    pub(crate) fn new(meta: Meta) -> Self {
        Self { name: None, turns: Vec::new(), usage: None, usage_turn: None, updated: meta.created, meta }
    }

    /// Builds a transcript from records; `None` unless the first one is `ThreadStarted`.
    pub(crate) fn replay(records: impl IntoIterator<Item = Record>) -> Option<Self> {
        let mut records = records.into_iter();
        let Some(Record::ThreadStarted { meta }) = records.next() else { return None };
        let mut transcript = Self::new(meta);
        for record in records {
            transcript.apply(record);
        }
        Some(transcript)
    }

    /// Applies one record.
    pub(crate) fn apply(&mut self, record: Record) {
        match record {
            Record::ThreadStarted { .. } => {}
            Record::Named { name } => self.name = Some(name),
            Record::TurnStarted { turn, at } => {
                self.updated = at;
                self.turns.push(Turn {
                    id: turn,
                    items: Vec::new(),
                    status: TurnStatus::InProgress,
                    error: None,
                    started: at,
                    ended: None,
                });
            }
            Record::ItemCompleted { turn, item } => {
                if let Some(turn) = self.turn_mut(turn) {
                    turn.items.push(item);
                }
            }
            Record::TokensTold { turn, usage } => {
                (self.usage, self.usage_turn) = (Some(usage), Some(turn));
            }
            Record::TurnEnded { turn, at, status, error } => {
                self.updated = at;
                if let Some(turn) = self.turn_mut(turn) {
                    (turn.status, turn.error, turn.ended) = (status, error, Some(at));
                }
            }
        }
    }

    /// The transcript after its writer has died: a running turn counts as interrupted.
    pub(crate) fn abandoned(mut self) -> Self {
        for turn in self.turns.iter_mut().filter(|turn| turn.status == TurnStatus::InProgress) {
            turn.status = TurnStatus::Interrupted;
        }
        self
    }

    /// The first user message: upstream's preview of a thread.
    pub(crate) fn preview(&self) -> String {
        let items = self.turns.iter().flat_map(|turn| &turn.items);
        items.filter_map(|item| item.user_text()).find(|text| !text.is_empty()).unwrap_or_default()
    }

    fn turn_mut(&mut self, id: TurnId) -> Option<&mut Turn> {
        self.turns.iter_mut().rev().find(|turn| turn.id == id)
    }
}

impl Item {
    /// The text of a message of the user.
    pub(crate) fn user_text(&self) -> Option<String> {
        match &self.body {
            ItemBody::UserMessage { content, .. } => {
                Some(content.iter().filter_map(|part| part["text"].as_str()).collect())
            }
            _ => None,
        }
    }

    /// The text of a message of the model.
    pub(crate) fn agent_text(&self) -> Option<&str> {
        match &self.body {
            ItemBody::AgentMessage { text } => Some(text),
            _ => None,
        }
    }
}

#[cfg(test)]
#[path = "transcript_tests.rs"]
mod tests;
