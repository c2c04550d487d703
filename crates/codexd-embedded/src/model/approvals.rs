//! Commands that a client has to approve.
//!
//! The request goes to all subscribers under one id and again to each client that resumes the thread later. It may be
//! answered by any initialized client, subscribed or not. The first answer decides, later ones are
//! ignored.

use serde_json::{Value, json};

use crate::ids::{ConnectionId, ServerRequestId};
use crate::model::State;
use crate::model::shared_state::SharedState;
use crate::model::thread::{PendingApproval, Thread, TurnStage};
use crate::model::transcript::{Command, CommandStatus, Item, ItemBody, TurnStatus};
use crate::model::views::approval_params;
use crate::prompt_directives::Shell;
use crate::shell;

const METHOD: &str = "item/commandExecution/requestApproval";

/// The answer of a client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Decision {
    Accept,
    /// Accept, and do not ask for this command again.
    AcceptAlways,
    Decline,
    Cancel,
    /// An error response, or a result without a valid decision.
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
    /// Applies an answer. It is ignored if the approval is settled or unknown, or the client is not initialized.
    pub(crate) fn decide(&mut self, connection: ConnectionId, request: ServerRequestId, decision: Decision) {
        let Self { shared, threads } = self;
        if shared.connections.client(connection).is_none() {
            return;
        }
        let thread = shared.approvals.get(&request).and_then(|thread| threads.get_mut(thread));
        if let Some(thread) = thread {
            thread.decide(decision, shared);
        }
    }
}

impl Thread {
    /// Runs the command that the model asks for, or requests an approval for it.
    pub(crate) fn want_command(&mut self, wanted: &Shell, shared: &mut SharedState) {
        let command = Command {
            command: wanted.command.clone(),
            cwd: self.transcript.meta.cwd.clone(),
            status: CommandStatus::InProgress,
            process: None,
            exit_code: None,
            output: None,
        };
        let body = ItemBody::CommandExecution(command);
        let mut item = Item { id: shared.model_item("call"), started: shared.now, completed: None, body };
        let never = self.transcript.meta.approval_policy == "never";
        if wanted.escalate && !never && !self.approved.contains(&wanted.command) {
            return self.request_approval(item, &wanted.command, shared);
        }
        launch(&mut item, shared);
        self.notify_item_started(&item, shared);
        finish(&mut item);
        self.complete(item, true, shared);
        self.after_command(shared);
    }

    /// Sends the pending approval to a subscriber that joined later.
    pub(crate) fn resend_approval(&self, connection: ConnectionId, shared: &mut SharedState) {
        if let Some(approval) = self.running.as_ref().and_then(|running| running.pending_approval()) {
            shared.send_request(&[connection].into(), approval.request, METHOD, &approval.params);
        }
    }

    /// Notifies the subscribers that the approval is settled.
    pub(crate) fn notify_request_resolved(&self, request: ServerRequestId, shared: &mut SharedState) {
        shared.approvals.remove(&request);
        let params = json!({"threadId": self.id(), "requestId": request});
        shared.notify(&self.subscribers, "serverRequest/resolved", &params);
    }

    fn request_approval(&mut self, item: Item, command: &str, shared: &mut SharedState) {
        let request = shared.next_request(self.id());
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
        running.stage = TurnStage::AwaitingApproval(PendingApproval {
            request,
            params: params.clone(),
            item: item.clone(),
        });
        self.notify_status(shared);
        self.notify_item_started(&item, shared);
        shared.send_request(&self.subscribers, request, METHOD, &params);
    }

    fn decide(&mut self, decision: Decision, shared: &mut SharedState) {
        let Some(running) = self.running.as_mut().filter(|running| running.pending_approval().is_some())
        else {
            return;
        };
        let stage = std::mem::replace(&mut running.stage, TurnStage::CallingModel);
        let TurnStage::AwaitingApproval(PendingApproval { request, mut item, .. }) = stage else { return };
        self.notify_request_resolved(request, shared);
        match decision {
            Decision::Accept | Decision::AcceptAlways => {
                if let (Decision::AcceptAlways, ItemBody::CommandExecution(command)) = (decision, &item.body)
                {
                    self.approved.insert(command.command.clone());
                }
                self.notify_status(shared);
                launch(&mut item, shared);
                finish(&mut item);
                self.complete(item, true, shared);
                self.after_command(shared);
            }
            Decision::Decline | Decision::Malformed | Decision::Cancel => {
                let malformed = decision == Decision::Malformed;
                set_status(
                    &mut item,
                    if malformed { CommandStatus::Failed } else { CommandStatus::Declined },
                );
                self.complete(item, false, shared);
                self.notify_status(shared);
                if decision == Decision::Cancel {
                    self.notify_usage(shared);
                    self.end(TurnStatus::Interrupted, None, shared);
                } else {
                    self.after_command(shared);
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

fn launch(item: &mut Item, shared: &mut SharedState) {
    if let ItemBody::CommandExecution(command) = &mut item.body {
        command.process = Some(shared.id_generator.process());
    }
}

fn finish(item: &mut Item) {
    if let ItemBody::CommandExecution(command) = &mut item.body {
        let outcome = shell::simulate(&command.command);
        command.status =
            if outcome.exit_code == 0 { CommandStatus::Completed } else { CommandStatus::Failed };
        (command.exit_code, command.output) = (Some(outcome.exit_code), outcome.output);
    }
}
