//! Runs a turn as the directives of its prompt say.
//!
//! A turn is a chain of model calls. Each call either streams a message (and the turn ends), asks for a
//! command (and the next call follows), or fails. A steer cancels the running call, discards what it has
//! sent so far, and the next call answers the newest message.

use std::time::Duration;

use serde_json::json;

use crate::ids::TurnId;
use crate::limits::{BATCH_BYTES, BATCH_INTERVAL_US, DELTAS_PER_BATCH};
use crate::model::Action;
use crate::model::shared_state::SharedState;
use crate::model::thread::{RunningTurn, Thread, TurnStage};
use crate::model::transcript::{Item, ItemBody, Record, TurnError, TurnStatus, Usage};
use crate::model::views::{ended_turn_view, item_view, turn_view};
use crate::params::ItemsView;
use crate::prompt_directives::{Failure, PromptDirectives};

/// The prompt of a turn without a user message.
const DEFAULT_PROMPT: &str = "[[]]";

impl Thread {
    /// Starts a turn. The response that names `turn` has been sent already.
    pub(crate) fn begin(&mut self, turn: TurnId, message: Option<ItemBody>, shared: &mut SharedState) {
        self.record(Record::TurnStarted { turn, at: shared.now }, shared);
        self.failed = false;
        self.running = Some(RunningTurn {
            turn,
            due: None,
            stage: TurnStage::CallingModel,
            queued: message.into_iter().collect(),
            directives: PromptDirectives::parse(DEFAULT_PROMPT),
            prompt: DEFAULT_PROMPT.to_owned(),
            after_command: false,
        });
        self.update_idle_since(shared);
        self.notify_status(shared);
        if let Some(turn) = self.transcript.turns.last() {
            let params = json!({"threadId": self.id(), "turn": turn_view(turn, ItemsView::NotLoaded)});
            shared.notify(&self.subscribers, "turn/started", &params);
        }
        self.call_model(shared);
    }

    /// Runs the next step if it is due.
    pub(crate) fn run_due_step(&mut self, shared: &mut SharedState) {
        let Some(running) = &mut self.running else { return };
        if running.due.is_none_or(|due| due > shared.now) {
            return;
        }
        match &running.stage {
            TurnStage::CallingModel => self.run_model_call(shared),
            TurnStage::Streaming { .. } => self.stream_pieces(shared),
            TurnStage::AwaitingApproval(_) | TurnStage::Hung => running.due = None,
        }
    }

    /// Calls the model with all queued user messages.
    pub(crate) fn call_model(&mut self, shared: &mut SharedState) {
        let queued = self.running.as_mut().map(|running| std::mem::take(&mut running.queued));
        for body in queued.into_iter().flatten() {
            let item =
                Item { id: shared.id_generator.item(shared.now), started: shared.now, completed: None, body };
            self.notify_item_started(&item, shared);
            if let Some(running) = &mut self.running {
                running.prompt = item.user_text().unwrap_or_default();
                running.after_command = false;
            }
            self.complete(item, true, shared);
        }
        shared.count_model_call();
        if let Some(running) = &mut self.running {
            running.directives = PromptDirectives::parse(&running.prompt);
            running.stage = TurnStage::CallingModel;
            running.due = Some(shared.now.after(running.directives.first_delay));
        }
    }

    /// Steers: cancels the running call, unless a command waits for approval.
    pub(crate) fn steer(&mut self, message: ItemBody, shared: &mut SharedState) {
        let Some(running) = &mut self.running else { return };
        running.queued.push(message);
        if running.pending_approval().is_none() {
            self.notify_usage(shared);
            self.call_model(shared);
        }
    }

    /// Calls the model again after the command was handled.
    pub(crate) fn after_command(&mut self, shared: &mut SharedState) {
        if let Some(running) = &mut self.running {
            running.after_command = true;
        }
        self.notify_usage(shared);
        self.call_model(shared);
    }

    /// Interrupts the turn.
    pub(crate) fn interrupt(&mut self, shared: &mut SharedState) {
        let question =
            self.running.as_ref().and_then(RunningTurn::pending_approval).map(|question| question.request);
        self.notify_usage(shared);
        self.end(TurnStatus::Interrupted, None, shared);
        if let Some(request) = question {
            self.notify_request_resolved(request, shared);
        }
    }

    /// Ends the turn.
    pub(crate) fn end(&mut self, status: TurnStatus, error: Option<TurnError>, shared: &mut SharedState) {
        let Some(running) = self.running.take() else { return };
        let told_error = error.clone();
        self.record(Record::TurnEnded { turn: running.turn, at: shared.now, status, error }, shared);
        self.failed = status == TurnStatus::Failed;
        self.notify_status(shared);
        let thread = self.id();
        if let Some(error) = told_error {
            let params = json!({
                "error": error, "willRetry": false, "threadId": thread, "turnId": running.turn,
            });
            shared.notify(&self.subscribers, "error", &params);
        }
        if let Some(turn) = self.transcript.turns.last() {
            let params = json!({"threadId": thread, "turn": ended_turn_view(turn)});
            shared.notify(&self.subscribers, "turn/completed", &params);
        }
        self.update_idle_since(shared);
    }

    /// Notifies the subscribers that an item began.
    pub(crate) fn notify_item_started(&self, item: &Item, shared: &mut SharedState) {
        let turn = self.running.as_ref().map(|running| running.turn);
        let params = json!({
            "item": item_view(item), "threadId": self.id(), "turnId": turn, "startedAtMs": item.started.millis(),
        });
        shared.notify(&self.subscribers, "item/started", &params);
    }

    /// Completes an item and, if `keep`, records it in the history.
    pub(crate) fn complete(&mut self, mut item: Item, keep: bool, shared: &mut SharedState) {
        let Some(turn) = self.running.as_ref().map(|running| running.turn) else { return };
        item.completed = Some(shared.now);
        if keep {
            self.record(Record::ItemCompleted { turn, item: item.clone() }, shared);
        }
        let params = json!({
            "item": item_view(&item), "threadId": self.id(), "turnId": turn, "contentTokenCount": null,
            "completedAtMs": shared.now.millis(),
        });
        shared.notify(&self.subscribers, "item/completed", &params);
    }

    fn run_model_call(&mut self, shared: &mut SharedState) {
        let Some(running) = &mut self.running else { return };
        if running.directives.crash {
            shared.act(Action::Abort);
            return;
        }
        if let Some(failure) = running.directives.failure {
            if !matches!(failure, Failure::Status(_)) {
                self.notify_usage(shared);
            }
            return self.end(TurnStatus::Failed, Some(turn_error(failure)), shared);
        }
        if let Some(shell) = running.directives.shell.clone().filter(|_| !running.after_command) {
            self.count_tokens(1);
            return self.want_command(&shell, shared);
        }
        if running.directives.hang && running.directives.reply.pieces() == 0 {
            (running.stage, running.due) = (TurnStage::Hung, None);
            return;
        }
        let (id, text) = (shared.model_item("msg"), String::new());
        running.stage =
            TurnStage::Streaming { item: id.clone(), started: shared.now, sent: 0, text: String::new() };
        let item = Item { id, started: shared.now, completed: None, body: ItemBody::AgentMessage { text } };
        self.notify_item_started(&item, shared);
        self.stream_pieces(shared);
    }

    /// Sends the pieces that are due. Without a delay it sends one batch per step, so a long answer does not block the loop.
    fn stream_pieces(&mut self, shared: &mut SharedState) {
        let thread = self.id();
        let Some(RunningTurn {
            turn,
            due,
            stage: TurnStage::Streaming { item, sent, text, .. },
            directives,
            ..
        }) = &mut self.running
        else {
            return;
        };
        let pieces = directives.reply.pieces();
        if *sent >= pieces {
            return self.finish_message(shared);
        }
        let batch = if directives.delay.is_zero() { DELTAS_PER_BATCH } else { 1 };
        let (end, full) = (sent.saturating_add(batch).min(pieces), text.len() + BATCH_BYTES);
        while *sent < end && text.len() < full {
            let delta = directives.reply.piece(*sent);
            *sent += 1;
            text.push_str(&delta);
            let params = json!({"threadId": thread, "turnId": turn, "itemId": item, "delta": delta});
            shared.notify(&self.subscribers, "item/agentMessage/delta", &params);
        }
        *due = match (*sent == pieces, directives.delay) {
            (true, Duration::ZERO) => Some(shared.now),
            (false, Duration::ZERO) => Some(shared.now.after(Duration::from_micros(BATCH_INTERVAL_US))),
            (_, delay) => due.map(|due| due.after(delay)),
        };
    }

    fn finish_message(&mut self, shared: &mut SharedState) {
        let Some(running) = &mut self.running else { return };
        if running.directives.hang {
            (running.stage, running.due) = (TurnStage::Hung, None);
            return;
        }
        let sent = u64::from(running.directives.reply.pieces());
        if let TurnStage::Streaming { item, started, text, .. } = &mut running.stage {
            let body = ItemBody::AgentMessage { text: std::mem::take(text) };
            let item = Item { id: item.clone(), started: *started, completed: None, body };
            self.complete(item, true, shared);
        }
        self.count_tokens(sent);
        self.notify_usage(shared);
        self.end(TurnStatus::Completed, None, shared);
    }

    /// Counts the tokens of a call as the mock model does: ten input tokens, and one output token per piece or
    /// command.
    fn count_tokens(&mut self, output: u64) {
        let before = self.transcript.usage.unwrap_or_default();
        self.transcript.usage = Some(Usage {
            input: before.input + 10,
            output: before.output + output,
            last_input: 10,
            last_output: output,
        });
    }
}

/// Upstream's error for a failed call.
fn turn_error(failure: Failure) -> TurnError {
    let (message, info) = match failure {
        Failure::Status(500) => (
            "We\u{2019}re currently experiencing high demand, which may cause temporary errors.".to_owned(),
            json!("internalServerError"),
        ),
        Failure::Status(429) => (
            "exceeded retry limit, last status: 429 Too Many Requests".to_owned(),
            json!({"responseTooManyFailedAttempts": {"httpStatusCode": 429}}),
        ),
        Failure::Status(status) => (
            format!("unexpected status {status}{}: mock failure {status}", reason_phrase(status)),
            json!({"httpConnectionFailed": {"httpStatusCode": status}}),
        ),
        Failure::Event => {
            ("stream disconnected before completion: mock sse failure".to_owned(), json!("other"))
        }
        Failure::Dropped => (
            "stream disconnected before completion: Transport error: network error: error decoding response body"
                .to_owned(),
            json!("other"),
        ),
    };
    TurnError { message, codex_error_info: info, additional_details: None, misalignment: None }
}

/// The reason phrase of an HTTP status after a space; empty for an unknown status.
fn reason_phrase(status: u16) -> String {
    use tokio_tungstenite::tungstenite::http::StatusCode;
    let reason = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    reason.map(|reason| format!(" {reason}")).unwrap_or_default()
}
