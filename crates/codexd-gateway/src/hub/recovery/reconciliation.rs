//! Reconciliation of turns whose app-server was lost: their end is read from disk and sent as upstream would have
//! sent it.

use codexd_protocol::envelope::{self, Message};
use serde_json::{Value, json};

use crate::hub::Hub;
use crate::hub::event::{Text, ThreadId};
use crate::hub::text::{self, fingerprint};
use crate::hub::threads::thread::{OpenItem, Thread, Turn};

const DELTA: &str = "item/agentMessage/delta";
/// Items that are reported although their start was not seen.
const SENT_AFTER_THE_FACT: [&str; 4] = ["agentMessage", "commandExecution", "fileChange", "mcpToolCall"];

/// Whether a notification is about a turn whose end has been reported.
pub(super) fn is_of(turn: &Turn, text: &str) -> bool {
    let Ok(Message::Notification { method, params }) = envelope::parse(text) else { return false };
    let of_turn = method.starts_with("item/") || matches!(method, "turn/started" | "turn/completed");
    let whole = params.and_then(|params| text::member(params.get(), "turn"));
    let id = match whole {
        Some(whole) => text::string(whole.get(), "id"),
        None => params.and_then(|params| text::string(params.get(), "turnId")),
    };
    of_turn && id.is_some_and(|id| *id == *turn.id)
}

/// A turn in a response to `thread/turns/list`.
pub(super) fn found_in<'a>(listed: &'a Value, turn: &Turn) -> Option<&'a Value> {
    listed["data"].as_array()?.iter().find(|listed| listed["id"] == *turn.id)
}

impl Hub {
    /// Sends the rest of a turn and returns its `turn/completed`.
    pub(super) fn reconcile_turn(&mut self, id: &ThreadId, turn: &Turn, found: Option<&Value>) -> Text {
        let whole = found.filter(|found| found["status"] != "inProgress" && found["status"] != "interrupted");
        let mut reported: Value = serde_json::from_str(&turn.raw).unwrap_or(Value::Null);
        match whole {
            Some(found) => {
                self.send_missing_items(id, turn, found);
                reported = found.clone();
                let mut answers = found["items"].as_array().into_iter().flatten();
                let last = answers.rfind(|item| item["type"] == "agentMessage");
                reported["items"] = Value::from_iter(last.cloned());
                reported["itemsView"] = "summary".into();
            }
            None => {
                self.send_interrupted_items(id, turn);
                for member in ["completedAt", "startedAt", "durationMs"] {
                    if let Some(known) = found.and_then(|found| found.get(member)) {
                        reported[member] = known.clone();
                    }
                }
                reported["status"] = "interrupted".into();
            }
        }
        if let Some(loss) = &mut self.recovery.loss {
            match whole {
                Some(_) => loss.completed += 1,
                None => loss.interrupted += 1,
            }
        }
        if let Some(thread) = self.threads.get_mut(id) {
            thread.turn_ended(&turn.id);
        }
        text::notification("turn/completed", &json!({"threadId": &**id, "turn": reported}))
    }

    /// A turn completed unobserved: sends the rest of its text and its items.
    pub(super) fn send_missing_items(&mut self, id: &ThreadId, turn: &Turn, found: &Value) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        let mut texts: Vec<(&'static str, Text)> = Vec::new();
        let same = |item: &Value, known: &OpenItem| {
            // 0.169.0 assigns other ids to items when it reads a turn from disk: the kind and the text identify them.
            item["id"] == *known.id || is_continued(item, known)
        };
        let now = self.unix_ms;
        let ms = |member: &str| found[member].as_u64().map(|seconds| seconds * 1_000);
        let (turn_began, turn_ended) = (ms("startedAt"), ms("completedAt"));
        let done = |item: &&Value| item["status"] != "inProgress";
        for item in found["items"].as_array().into_iter().flatten().filter(done) {
            let known = thread.items.iter().position(|known| *known.turn == *turn.id && same(item, known));
            let begins = known.is_none() && SENT_AFTER_THE_FACT.iter().any(|kind| item["type"] == **kind);
            if thread.was_delivered(item) || (known.is_none() && !begins) {
                continue;
            }
            let mut item = item.clone();
            if let Some(known) = known.map(|at| thread.items.remove(at)) {
                if let (Some(whole), Some(partial)) = (item["text"].as_str(), known.text_so_far())
                    && let Some(rest) = whole.strip_prefix(partial).filter(|rest| !rest.is_empty())
                {
                    let params =
                        json!({"threadId": &**id, "turnId": &*turn.id, "itemId": &*known.id, "delta": rest});
                    texts.push((DELTA, text::notification(DELTA, &params)));
                }
                item["id"] = Value::from(&*known.id);
            }
            let ended = item["completedAtMs"].as_u64().or(turn_ended).unwrap_or(now);
            let began = item["startedAtMs"].as_u64().or(turn_began).unwrap_or(ended);
            let params = |member: &str, at: u64| json!({"threadId": &**id, "turnId": &*turn.id, "item": item, member: at});
            thread
                .delivered
                .extend(["id", "text"].iter().filter_map(|member| item[*member].as_str()).map(fingerprint));
            if begins {
                let params = params("startedAtMs", began);
                texts.push(("item/started", text::notification("item/started", &params)));
            }
            let params = params("completedAtMs", ended);
            texts.push(("item/completed", text::notification("item/completed", &params)));
        }
        for (method, text) in texts {
            self.send_to_viewers(id, method, &text);
        }
    }

    /// A turn was interrupted: its open items end with the text that they have.
    fn send_interrupted_items(&mut self, id: &ThreadId, turn: &Turn) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        let (open, others) =
            std::mem::take(&mut thread.items).into_iter().partition(|item| item.turn == turn.id);
        thread.items = others;
        let open: Vec<OpenItem> = open;
        self.send_ended_items(id, &open);
    }

    /// Background terminals have ended with their app-server.
    pub(super) fn end_background_terminals(&mut self, id: &ThreadId) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        let ended = |item: &OpenItem| item.background && item.orphaned;
        let (ended, others) = std::mem::take(&mut thread.items).into_iter().partition(ended);
        thread.items = others;
        let ended: Vec<OpenItem> = ended;
        self.send_ended_items(id, &ended);
    }

    /// Reports items of a lost app-server as ended, with what they have.
    fn send_ended_items(&mut self, id: &ThreadId, items: &[OpenItem]) {
        for known in items {
            let item = interrupted_item(known, self.unix_ms);
            let params = json!({
                "threadId": &**id, "turnId": &*known.turn, "item": item, "completedAtMs": self.unix_ms,
            });
            self.send_to_viewers(id, "item/completed", &text::notification("item/completed", &params));
        }
    }
}

/// An item as its app-server left it, in the form of an item that upstream interrupts (0.171.0).
fn interrupted_item(known: &OpenItem, now: u64) -> Value {
    let started: Value = serde_json::from_str(&known.started).unwrap_or(Value::Null);
    let mut item = started["params"]["item"].clone();
    let began = started["params"]["startedAtMs"].as_u64();
    if let Some(partial) = known.text_so_far() {
        item["text"] = partial.into();
    }
    if item["status"] == "inProgress" {
        item["status"] = "failed".into();
    }
    if item["type"] == "commandExecution" {
        item["exitCode"] = (-1).into();
        if item["aggregatedOutput"].is_null() {
            item["aggregatedOutput"] = known.output_so_far().into();
        }
    }
    // In releases that have these members, they are null.
    if item.get("durationMs").is_some_and(Value::is_null) {
        item["durationMs"] = began.map(|began| now.saturating_sub(began)).into();
    }
    if item.get("completedAtMs").is_some_and(Value::is_null) {
        item["completedAtMs"] = now.into();
    }
    item
}

/// Whether an item on disk continues the text that was streamed.
fn is_continued(item: &Value, known: &OpenItem) -> bool {
    let (Some(whole), Some(partial)) = (item["text"].as_str(), known.text_so_far()) else { return false };
    item["type"] == "agentMessage" && whole.starts_with(partial)
}

impl Thread {
    /// Whether clients received an item on disk before the loss.
    fn was_delivered(&self, item: &Value) -> bool {
        let by = |member: &str| {
            item[member].as_str().is_some_and(|text| self.delivered.contains(&fingerprint(text)))
        };
        by("id") || by("text")
    }
}
