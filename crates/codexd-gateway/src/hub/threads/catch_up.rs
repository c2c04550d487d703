//! Partial text of open items, kept until they complete: a late viewer receives it, because upstream does not repeat
//! it.

use serde_json::value::RawValue;

use crate::hub::event::Text;
use crate::hub::text::{self, fingerprint};
use crate::hub::threads::thread::{OpenItem, Stream, Thread};
use crate::limits::{BACKGROUND_TERMINALS_MAX, PARTIAL_TEXT_BYTES_MAX};
use crate::routes::DeltaShape;

impl Thread {
    pub fn item_started(&mut self, params: &RawValue, notification: &Text) {
        let Some(item) = text::member(params.get(), "item") else { return };
        let (Some(id), Some(turn)) = (text::string(item.get(), "id"), text::string(params.get(), "turnId"))
        else {
            return;
        };
        self.items.retain(|open| *open.id != *id);
        let (id, turn) = (id.as_ref().into(), turn.as_ref().into());
        let started = notification.clone();
        self.items.push(OpenItem {
            id,
            turn,
            started,
            streams: Vec::new(),
            background: false,
            orphaned: false,
            has_gap: false,
        });
    }

    pub fn item_completed(&mut self, params: &RawValue) {
        let Some(item) = text::member(params.get(), "item") else { return };
        if let Some(id) = text::string(item.get(), "id") {
            self.items.retain(|open| *open.id != *id);
            self.delivered.push(fingerprint(&id));
        }
        if let Some(whole) = text::string(item.get(), "text") {
            self.delivered.push(fingerprint(&whole));
        }
    }

    /// A turn has ended: its open items are dropped, except commands, which continue as background terminals.
    pub fn retain_background_terminals(&mut self, turn: &str) {
        self.items.retain(|item| *item.turn != *turn || item.is_command());
        self.items.iter_mut().filter(|item| *item.turn == *turn).for_each(|item| item.background = true);
        let background = self.items.iter().filter(|item| item.background).count();
        let mut surplus = background.saturating_sub(BACKGROUND_TERMINALS_MAX);
        self.items.retain(|item| {
            let goes = item.background && surplus > 0;
            surplus -= usize::from(goes);
            !goes
        });
    }

    /// A running turn whose start was not seen: its end is reported even if the app-server is lost.
    pub fn on_turn_activity(&mut self, names: &text::Names<'_>) {
        let Some(turn) = names.turn_id.as_ref().filter(|_| self.turns.is_empty() && self.is_active()) else {
            return;
        };
        let raw =
            serde_json::json!({"id": turn.0, "items": [], "itemsView": "notLoaded", "status": "inProgress"});
        self.turn_began(&turn.0, &raw.to_string());
    }

    /// The missing end of an item's text, now that the item is complete.
    pub fn missing_text(&self, params: &RawValue) -> Option<Text> {
        let item = text::member(params.get(), "item")?;
        let id = text::string(item.get(), "id")?;
        let open = self.items.iter().find(|open| open.has_gap && *open.id == *id)?;
        let whole = text::string(item.get(), "text")?;
        let rest =
            whole.strip_prefix(open.text_so_far().unwrap_or_default()).filter(|rest| !rest.is_empty())?;
        let params =
            serde_json::json!({"threadId": &*self.id, "turnId": &*open.turn, "itemId": &*id, "delta": rest});
        Some(text::notification("item/agentMessage/delta", &params))
    }

    /// Records a delta. Returns whether to send it now: not behind a gap, where the rest is sent when the item
    /// completes. A delta of an item whose start was not seen is not recorded, because a late viewer would take it
    /// for the whole text.
    pub fn streamed(
        &mut self,
        method: &str,
        shape: DeltaShape,
        params: &RawValue,
        item: &str,
        notification: &Text,
    ) -> bool {
        let Some(open) = self.items.iter_mut().rfind(|open| *open.id == *item) else { return !self.has_gap };
        if open.has_gap && method == "item/agentMessage/delta" {
            return false;
        }
        let Some(delta) = text::string(params.get(), shape.text) else { return true };
        let part = shape.part.and_then(|part| text::member(params.get(), part)).map_or("", RawValue::get);
        let known = open.streams.iter().position(|stream| *stream.method == *method && *stream.part == *part);
        let stream = match known {
            Some(at) => &mut open.streams[at],
            None => {
                open.streams.push(Stream {
                    method: method.into(),
                    part: part.into(),
                    text: String::new(),
                    last: notification.clone(),
                    is_over_limit: false,
                });
                let last = open.streams.len() - 1;
                &mut open.streams[last]
            }
        };
        if stream.text.len() + delta.len() > PARTIAL_TEXT_BYTES_MAX {
            stream.is_over_limit = true;
            stream.text = String::new();
        }
        if !stream.is_over_limit {
            stream.text.push_str(&delta);
            stream.last = notification.clone();
        }
        true
    }
}

impl Stream {
    /// One notification with all the text so far.
    pub fn whole(&self) -> Option<Text> {
        if self.is_over_limit {
            return None;
        }
        let params = text::member(&self.last, "params")?;
        let shape = crate::routes::delta_of(&self.method)?;
        let delta = text::member(params.get(), shape.text)?;
        let all = serde_json::Value::from(self.text.as_str()).to_string();
        Some(text::splice(&self.last, delta.get(), &all))
    }
}

impl OpenItem {
    /// The text of an answer that was streamed so far.
    pub fn text_so_far(&self) -> Option<&str> {
        match self.streams.iter().find(|stream| &*stream.method == "item/agentMessage/delta") {
            Some(stream) => (!stream.is_over_limit).then_some(&stream.text),
            None => self.is_answer().then_some(""),
        }
    }

    /// The output of a command so far.
    pub fn output_so_far(&self) -> Option<&str> {
        let stream =
            self.streams.iter().find(|stream| &*stream.method == "item/commandExecution/outputDelta")?;
        (!stream.is_over_limit).then_some(&stream.text)
    }

    fn is_answer(&self) -> bool {
        self.is_of_type("agentMessage")
    }

    pub fn is_command(&self) -> bool {
        self.is_of_type("commandExecution")
    }

    fn is_of_type(&self, kind: &str) -> bool {
        let params = text::member(&self.started, "params");
        let item = params.and_then(|params| text::member(params.get(), "item"));
        item.and_then(|item| text::string(item.get(), "type")).is_some_and(|known| known == kind)
    }
}
