//! Commands that somebody has to approve.
//!
//! The question goes to all subscribers under one number, is repeated to who resumes the thread later, and may be
//! answered by any client that has introduced itself, subscribed or not. The first answer decides, later ones are
//! ignored.

use serde_json::{Value, json};

use crate::ids::{ConnectionId, ServerRequestId};
use crate::model::State;
use crate::model::hall::Hall;
use crate::model::play::Stage;
use crate::model::thread::Thread;
use crate::model::transcript::{Command, CommandStatus, Item, ItemBody, TurnStatus};
use crate::model::views::approval_params;
use crate::script::Shell;
use crate::shell;

const METHOD: &str = "item/commandExecution/requestApproval";

/// An open question.
#[derive(Debug)]
pub(crate) struct Question {
    pub request: ServerRequestId,
    params: Value,
    item: Item,
}

/// The answer of a client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Decision {
    Accept,
    /// And do not ask for this command again.
    AcceptAlways,
    Decline,
    Cancel,
    /// An error, or something that is no decision.
    Malformed,
}

impl Decision {
    /// Reads the `result` of an answer; `None` for an error.
    pub(crate) fn parse(result: Option<&Value>) -> Self {
        let decision = result.map(|result| &result["decision"]);
        match decision.and_then(Value::as_str) {
            Some("accept") => Self::Accept,
            Some("acceptForSession") => Self::AcceptAlways,
            Some("decline") => Self::Decline,
            Some("cancel") => Self::Cancel,
            _ if decision.is_some_and(|it| it["acceptWithExecpolicyAmendment"].is_object()) => {
                Self::AcceptAlways
            }
            _ => Self::Malformed,
        }
    }
}

impl State {
    /// Takes an answer. Nothing happens if the question is settled, or unknown, or the client a stranger.
    pub(crate) fn decide(&mut self, connection: ConnectionId, request: ServerRequestId, decision: Decision) {
        let Self { hall, threads } = self;
        if hall.connections.client(connection).is_none() {
            return;
        }
        let thread = hall.approvals.get(&request).and_then(|thread| threads.get_mut(thread));
        if let Some(thread) = thread {
            thread.decide(decision, hall);
        }
    }
}

impl Thread {
    /// The model wants a command: it is run at once, or somebody is asked.
    pub(crate) fn want_command(&mut self, wanted: &Shell, hall: &mut Hall) {
        let command = Command {
            command: wanted.command.clone(),
            cwd: self.transcript.meta.cwd.clone(),
            status: CommandStatus::InProgress,
            process: None,
            exit_code: None,
            output: None,
        };
        let body = ItemBody::CommandExecution(command);
        let mut item = Item { id: hall.model_item("call"), started: hall.now, completed: None, body };
        let never = self.transcript.meta.approval_policy == "never";
        if wanted.escalate && !never && !self.approved.contains(&wanted.command) {
            return self.ask(item, &wanted.command, hall);
        }
        launch(&mut item, hall);
        self.tell_started(&item, hall);
        finish(&mut item);
        self.complete(item, true, hall);
        self.after_command(hall);
    }

    /// Repeats the open question to a subscriber that came late.
    pub(crate) fn repeat_question(&self, connection: ConnectionId, hall: &mut Hall) {
        if let Some(question) = self.running.as_ref().and_then(|running| running.asks()) {
            hall.ask(&[connection].into(), question.request, METHOD, &question.params);
        }
    }

    /// Tells that a question is settled.
    pub(crate) fn tell_resolved(&self, request: ServerRequestId, hall: &mut Hall) {
        hall.approvals.remove(&request);
        let params = json!({"threadId": self.id(), "requestId": request});
        hall.tell(&self.subscribers, "serverRequest/resolved", &params);
    }

    fn ask(&mut self, item: Item, command: &str, hall: &mut Hall) {
        let request = hall.next_request(self.id());
        let Some(running) = &mut self.running else { return };
        let mut params = json!({
            "kind": "command", "threadId": self.transcript.meta.id, "turnId": running.turn, "itemId": item.id,
            "startedAtMs": item.started.millis(),
        });
        if let (Value::Object(params), Value::Object(more)) =
            (&mut params, approval_params(command, &self.transcript.meta.cwd))
        {
            params.extend(more);
        }
        running.due = None;
        running.stage = Stage::Asking(Question { request, params: params.clone(), item: item.clone() });
        self.tell_status(hall);
        self.tell_started(&item, hall);
        hall.ask(&self.subscribers, request, METHOD, &params);
    }

    fn decide(&mut self, decision: Decision, hall: &mut Hall) {
        let Some(running) = self.running.as_mut().filter(|running| running.asks().is_some()) else { return };
        let stage = std::mem::replace(&mut running.stage, Stage::Thinking);
        let Stage::Asking(Question { request, mut item, .. }) = stage else { return };
        self.tell_resolved(request, hall);
        match decision {
            Decision::Accept | Decision::AcceptAlways => {
                if let (Decision::AcceptAlways, ItemBody::CommandExecution(command)) = (decision, &item.body)
                {
                    self.approved.insert(command.command.clone());
                }
                self.tell_status(hall);
                launch(&mut item, hall);
                finish(&mut item);
                self.complete(item, true, hall);
                self.after_command(hall);
            }
            Decision::Decline | Decision::Malformed | Decision::Cancel => {
                let malformed = decision == Decision::Malformed;
                set_status(
                    &mut item,
                    if malformed { CommandStatus::Failed } else { CommandStatus::Declined },
                );
                self.complete(item, false, hall);
                self.tell_status(hall);
                if decision == Decision::Cancel {
                    self.tell_usage(hall);
                    self.end(TurnStatus::Interrupted, None, hall);
                } else {
                    self.after_command(hall);
                }
            }
        }
    }
}

fn set_status(item: &mut Item, status: CommandStatus) {
    if let ItemBody::CommandExecution(command) = &mut item.body {
        command.status = status;
    }
}

fn launch(item: &mut Item, hall: &mut Hall) {
    if let ItemBody::CommandExecution(command) = &mut item.body {
        command.process = Some(hall.minter.process());
    }
}

fn finish(item: &mut Item) {
    if let ItemBody::CommandExecution(command) = &mut item.body {
        let outcome = shell::pretend(&command.command);
        command.status =
            if outcome.exit_code == 0 { CommandStatus::Completed } else { CommandStatus::Failed };
        (command.exit_code, command.output) = (Some(outcome.exit_code), outcome.output);
    }
}
