//! The server-sent events of one answer of the Responses API.

use serde_json::{Value, json};

use super::directives::Tool;

/// Writes the events of one answer, numbering them.
#[derive(Debug)]
pub(super) struct Events {
    number: usize,
    response: Value,
    sequence: usize,
}

impl Events {
    /// The events of the `number`-th answer.
    pub(super) fn new(number: usize, model: &Value) -> Events {
        let response = json!({
            "id": format!("resp_{number}"), "object": "response", "created_at": 1_700_000_000,
            "model": model, "output": [], "status": "in_progress",
        });
        Events { number, response, sequence: 0 }
    }

    /// `response.created`.
    pub(super) fn created(&mut self) -> String {
        let response = self.response.clone();
        self.event("response.created", json!({"response": response}))
    }

    /// `response.failed`.
    pub(super) fn failed(&mut self) -> String {
        let mut response = self.response.clone();
        response["status"] = json!("failed");
        response["error"] = json!({"code": "server_error", "message": "mock sse failure"});
        self.event("response.failed", json!({"response": response}))
    }

    /// The call of a tool, then the end.
    pub(super) fn tool_call(&mut self, tool: &Tool) -> String {
        let mut call = json!({
            "type": "function_call", "id": format!("fc_{}", self.number), "call_id": format!("call_{}", self.number),
            "name": tool.name, "arguments": tool.arguments, "status": "completed",
        });
        if let Some(group) = &tool.group {
            call["namespace"] = json!(group);
        }
        let mut opened = call.clone();
        opened["arguments"] = json!("");
        opened["status"] = json!("in_progress");
        self.event("response.output_item.added", json!({"output_index": 0, "item": opened}))
            + &self.event("response.output_item.done", json!({"output_index": 0, "item": call}))
            + &self.completed(call, 1)
    }

    /// The beginning of a message.
    pub(super) fn message_started(&mut self) -> String {
        let item = json!({
            "type": "message", "id": self.message_id(), "role": "assistant", "status": "in_progress", "content": [],
        });
        let part = json!({"type": "output_text", "text": "", "annotations": []});
        let place = self.place(json!({"part": part}));
        self.event("response.output_item.added", json!({"output_index": 0, "item": item}))
            + &self.event("response.content_part.added", place)
    }

    /// One piece of a message.
    pub(super) fn delta(&mut self, text: &str) -> String {
        let place = self.place(json!({"delta": text}));
        self.event("response.output_text.delta", place)
    }

    /// The end of a message, then the end.
    pub(super) fn message_finished(&mut self, text: &str, tokens: usize) -> String {
        let content = json!([{"type": "output_text", "text": text, "annotations": []}]);
        let item = json!({
            "type": "message", "id": self.message_id(), "role": "assistant", "status": "completed", "content": content,
        });
        let place = self.place(json!({"text": text}));
        self.event("response.output_text.done", place)
            + &self.event("response.output_item.done", json!({"output_index": 0, "item": item}))
            + &self.completed(item, tokens)
    }

    fn completed(&mut self, item: Value, tokens: usize) -> String {
        let mut response = self.response.clone();
        response["status"] = json!("completed");
        response["output"] = json!([item]);
        response["usage"] = json!({
            "input_tokens": 10, "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": tokens, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 10 + tokens,
        });
        self.event("response.completed", json!({"response": response}))
    }

    fn message_id(&self) -> String {
        format!("msg_{}", self.number)
    }

    fn place(&self, mut fields: Value) -> Value {
        fields["item_id"] = json!(self.message_id());
        fields["output_index"] = json!(0);
        fields["content_index"] = json!(0);
        fields
    }

    fn event(&mut self, kind: &str, mut fields: Value) -> String {
        fields["type"] = json!(kind);
        fields["sequence_number"] = json!(self.sequence);
        self.sequence += 1;
        format!("event: {kind}\ndata: {fields}\n\n")
    }
}
