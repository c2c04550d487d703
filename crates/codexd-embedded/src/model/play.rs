//! A running turn, played as its script says.
//!
//! A turn is a chain of calls of the model. Each call thinks, then either speaks (and the turn is over), asks for a
//! command (and the next call follows), or fails. The user may steer in between: that cuts the call that runs, what it
//! has said so far is forgotten, and the next call answers the newest message.

use std::time::Duration;

use serde_json::json;

use crate::ids::{ItemId, TurnId};
use crate::limits::{BATCH_BYTES, BATCH_INTERVAL_US, DELTAS_PER_BATCH};
use crate::model::Action;
use crate::model::approvals::Question;
use crate::model::hall::Hall;
use crate::model::thread::Thread;
use crate::model::transcript::{Item, ItemBody, Record, TurnError, TurnStatus, Usage};
use crate::model::views::{ended_turn_view, item_view, turn_view};
use crate::moment::Moment;
use crate::params::ItemsView;
use crate::script::{Failure, Script};

/// What is answered when the user says nothing at all.
const USUAL: &str = "[[]]";

/// The running turn of a thread.
#[derive(Debug)]
pub(crate) struct Running {
    pub turn: TurnId,
    /// When the turn goes on by itself; `None` while it waits for somebody.
    pub due: Option<Moment>,
    pub stage: Stage,
    /// Messages of the user that came while the turn ran.
    pub queued: Vec<ItemBody>,
    script: Script,
    /// The newest message of the user.
    prompt: String,
    /// Whether a command was dealt with since then.
    after_command: bool,
}

/// What the turn does.
#[derive(Debug)]
pub(crate) enum Stage {
    /// The model was called.
    Thinking,
    /// The model speaks.
    Speaking { item: ItemId, started: Moment, said: u32, text: String },
    /// Somebody has to approve a command.
    Asking(Question),
    /// The model is silent for ever.
    Hanging,
}

impl Running {
    /// The question that is open.
    pub(crate) fn asks(&self) -> Option<&Question> {
        match &self.stage {
            Stage::Asking(question) => Some(question),
            _ => None,
        }
    }
}

impl Thread {
    /// Starts a turn; `turn` was told to the asker already.
    pub(crate) fn begin(&mut self, turn: TurnId, message: Option<ItemBody>, hall: &mut Hall) {
        self.remember(Record::TurnStarted { turn, at: hall.now }, hall);
        self.failed = false;
        self.running = Some(Running {
            turn,
            due: None,
            stage: Stage::Thinking,
            queued: message.into_iter().collect(),
            script: Script::parse(USUAL),
            prompt: USUAL.to_owned(),
            after_command: false,
        });
        self.note_idleness(hall);
        self.tell_status(hall);
        if let Some(turn) = self.transcript.turns.last() {
            let params = json!({"threadId": self.id(), "turn": turn_view(turn, ItemsView::NotLoaded)});
            hall.tell(&self.subscribers, "turn/started", &params);
        }
        self.call_model(hall);
    }

    /// Goes on, if it is time.
    pub(crate) fn proceed(&mut self, hall: &mut Hall) {
        let Some(running) = &mut self.running else { return };
        if running.due.is_none_or(|due| due > hall.now) {
            return;
        }
        match &running.stage {
            Stage::Thinking => self.think(hall),
            Stage::Speaking { .. } => self.speak(hall),
            Stage::Asking(_) | Stage::Hanging => running.due = None,
        }
    }

    /// Calls the model with all that the user has said.
    pub(crate) fn call_model(&mut self, hall: &mut Hall) {
        let queued = self.running.as_mut().map(|running| std::mem::take(&mut running.queued));
        for body in queued.into_iter().flatten() {
            let item = Item { id: hall.minter.item(hall.now), started: hall.now, completed: None, body };
            self.tell_started(&item, hall);
            if let Some(running) = &mut self.running {
                running.prompt = item.user_text().unwrap_or_default();
                running.after_command = false;
            }
            self.complete(item, true, hall);
        }
        hall.count_model_call();
        if let Some(running) = &mut self.running {
            running.script = Script::parse(&running.prompt);
            running.stage = Stage::Thinking;
            running.due = Some(hall.now.after(running.script.first_delay));
        }
    }

    /// Steers: cuts the call that runs, unless a command waits for its approval.
    pub(crate) fn steer(&mut self, message: ItemBody, hall: &mut Hall) {
        let Some(running) = &mut self.running else { return };
        running.queued.push(message);
        if running.asks().is_none() {
            self.tell_usage(hall);
            self.call_model(hall);
        }
    }

    /// The command is dealt with: the model hears of it.
    pub(crate) fn after_command(&mut self, hall: &mut Hall) {
        if let Some(running) = &mut self.running {
            running.after_command = true;
        }
        self.tell_usage(hall);
        self.call_model(hall);
    }

    /// Ends the turn before its time.
    pub(crate) fn interrupt(&mut self, hall: &mut Hall) {
        let question = self.running.as_ref().and_then(Running::asks).map(|question| question.request);
        self.tell_usage(hall);
        self.end(TurnStatus::Interrupted, None, hall);
        if let Some(request) = question {
            self.tell_resolved(request, hall);
        }
    }

    /// Ends the turn.
    pub(crate) fn end(&mut self, status: TurnStatus, error: Option<TurnError>, hall: &mut Hall) {
        let Some(running) = self.running.take() else { return };
        let told_error = error.clone();
        self.remember(Record::TurnEnded { turn: running.turn, at: hall.now, status, error }, hall);
        self.failed = status == TurnStatus::Failed;
        self.tell_status(hall);
        let thread = self.id();
        if let Some(error) = told_error {
            let params = json!({
                "error": error, "willRetry": false, "threadId": thread, "turnId": running.turn,
            });
            hall.tell(&self.subscribers, "error", &params);
        }
        if let Some(turn) = self.transcript.turns.last() {
            let params = json!({"threadId": thread, "turn": ended_turn_view(turn)});
            hall.tell(&self.subscribers, "turn/completed", &params);
        }
        self.note_idleness(hall);
    }

    /// Tells that an item began.
    pub(crate) fn tell_started(&self, item: &Item, hall: &mut Hall) {
        let turn = self.running.as_ref().map(|running| running.turn);
        let params = json!({
            "item": item_view(item), "threadId": self.id(), "turnId": turn, "startedAtMs": item.started.millis(),
        });
        hall.tell(&self.subscribers, "item/started", &params);
    }

    /// Completes an item, and keeps it if it belongs into the history.
    pub(crate) fn complete(&mut self, mut item: Item, keep: bool, hall: &mut Hall) {
        let Some(turn) = self.running.as_ref().map(|running| running.turn) else { return };
        item.completed = Some(hall.now);
        if keep {
            self.remember(Record::ItemCompleted { turn, item: item.clone() }, hall);
        }
        let params = json!({
            "item": item_view(&item), "threadId": self.id(), "turnId": turn, "contentTokenCount": null,
            "completedAtMs": hall.now.millis(),
        });
        hall.tell(&self.subscribers, "item/completed", &params);
    }

    fn think(&mut self, hall: &mut Hall) {
        let Some(running) = &mut self.running else { return };
        if running.script.crash {
            hall.act(Action::Abort);
            return;
        }
        if let Some(failure) = running.script.failure {
            if !matches!(failure, Failure::Status(_)) {
                self.tell_usage(hall);
            }
            return self.end(TurnStatus::Failed, Some(turn_error(failure)), hall);
        }
        if let Some(shell) = running.script.shell.clone().filter(|_| !running.after_command) {
            self.count_tokens(1);
            return self.want_command(&shell, hall);
        }
        if running.script.hang && running.script.speech.pieces() == 0 {
            (running.stage, running.due) = (Stage::Hanging, None);
            return;
        }
        let (id, text) = (hall.model_item("msg"), String::new());
        running.stage = Stage::Speaking { item: id.clone(), started: hall.now, said: 0, text: String::new() };
        let item = Item { id, started: hall.now, completed: None, body: ItemBody::AgentMessage { text } };
        self.tell_started(&item, hall);
        self.speak(hall);
    }

    /// Says what is due. Without a delay a batch is said at once, so that a long answer does not stop the server.
    fn speak(&mut self, hall: &mut Hall) {
        let thread = self.id();
        let Some(Running { turn, due, stage: Stage::Speaking { item, said, text, .. }, script, .. }) =
            &mut self.running
        else {
            return;
        };
        let pieces = script.speech.pieces();
        if *said >= pieces {
            return self.fall_silent(hall);
        }
        let batch = if script.delay.is_zero() { DELTAS_PER_BATCH } else { 1 };
        let (end, full) = (said.saturating_add(batch).min(pieces), text.len() + BATCH_BYTES);
        while *said < end && text.len() < full {
            let delta = script.speech.piece(*said);
            *said += 1;
            text.push_str(&delta);
            let params = json!({"threadId": thread, "turnId": turn, "itemId": item, "delta": delta});
            hall.tell(&self.subscribers, "item/agentMessage/delta", &params);
        }
        *due = match (*said == pieces, script.delay) {
            (true, Duration::ZERO) => Some(hall.now),
            (false, Duration::ZERO) => Some(hall.now.after(Duration::from_micros(BATCH_INTERVAL_US))),
            (_, delay) => due.map(|due| due.after(delay)),
        };
    }

    fn fall_silent(&mut self, hall: &mut Hall) {
        let Some(running) = &mut self.running else { return };
        if running.script.hang {
            (running.stage, running.due) = (Stage::Hanging, None);
            return;
        }
        let said = u64::from(running.script.speech.pieces());
        if let Stage::Speaking { item, started, text, .. } = &mut running.stage {
            let body = ItemBody::AgentMessage { text: std::mem::take(text) };
            let item = Item { id: item.clone(), started: *started, completed: None, body };
            self.complete(item, true, hall);
        }
        self.count_tokens(said);
        self.tell_usage(hall);
        self.end(TurnStatus::Completed, None, hall);
    }

    /// Counts a call of the model as the mock model does: ten tokens in, and out one for each piece, or one for a
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

/// What upstream tells of a call that failed.
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

/// The words that go with a status, after a blank; nothing for one that is not listed.
fn reason_phrase(status: u16) -> String {
    use tokio_tungstenite::tungstenite::http::StatusCode;
    let reason = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    reason.map(|reason| format!(" {reason}")).unwrap_or_default()
}
