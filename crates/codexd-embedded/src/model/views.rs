//! Threads, turns and items as clients see them: the members of app-server 0.169.0, those that this server has nothing
//! to say about included, so that a client which expects them finds them.

use serde_json::{Value, json};

use crate::model::transcript::{Item, ItemBody, Transcript, Turn, TurnStatus, Usage};
use crate::params::ItemsView;
use crate::shell;
use crate::timestamp::Timestamp;

/// The status of a thread as clients see it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum ThreadStatus {
    NotLoaded,
    Idle,
    SystemError,
    Active { waiting_on_approval: bool },
}

impl ThreadStatus {
    pub(crate) fn view(self) -> Value {
        match self {
            Self::NotLoaded => json!({"type": "notLoaded"}),
            Self::Idle => json!({"type": "idle"}),
            Self::SystemError => json!({"type": "systemError"}),
            Self::Active { waiting_on_approval: false } => json!({"type": "active", "activeFlags": []}),
            Self::Active { waiting_on_approval: true } => {
                json!({"type": "active", "activeFlags": ["waitingOnApproval"]})
            }
        }
    }
}

/// A thread with what its view needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ThreadView<'a> {
    pub transcript: &'a Transcript,
    pub status: ThreadStatus,
    /// Where its file is; `None` of an ephemeral thread.
    pub path: Option<&'a str>,
    /// Whether the reply may say that the thread takes input (upstream says so of loaded threads, not in lists).
    pub takes_input: bool,
    pub include_turns: bool,
}

impl ThreadView<'_> {
    pub(crate) fn view(self) -> Value {
        let Transcript { meta, name, turns, updated, .. } = self.transcript;
        let turns: Vec<Value> = match self.include_turns {
            true => turns.iter().map(|turn| turn_view(turn, ItemsView::Full)).collect(),
            false => Vec::new(),
        };
        let local = json!([{"environmentId": "local", "cwd": meta.cwd, "runtimeWorkspaceRoots": [meta.cwd]}]);
        json!({
            "id": meta.id,
            "environments": (self.status != ThreadStatus::NotLoaded).then_some(local),
            "extra": null,
            "sessionId": meta.id,
            "forkedFromId": null,
            "attachedToThreadId": null,
            "parentThreadId": null,
            "preview": self.path.map(|_| self.transcript.preview()).unwrap_or_default(),
            "ephemeral": self.path.is_none(),
            "section": null,
            "sectionEnteredAt": null,
            "projectId": null,
            "historyMode": "paginated",
            "modelProvider": meta.model_provider,
            "model": meta.model,
            "reasoningEffort": null,
            "createdAt": meta.created.secs(),
            "updatedAt": updated.secs(),
            "recencyAt": updated.secs(),
            "status": self.status.view(),
            "path": self.path,
            "cwd": meta.cwd,
            "cliVersion": meta.version,
            "originator": meta.originator,
            "source": "vscode",
            "canAcceptDirectInput": self.takes_input.then_some(true),
            "threadSource": null,
            "agentNickname": null,
            "agentRole": null,
            "gitInfo": null,
            "name": name,
            "daybreakEnabled": null,
            "turns": turns,
        })
    }
}

/// The settings that the replies to thread/start and thread/resume carry beside the thread.
pub(crate) fn settings(transcript: &Transcript) -> Value {
    let meta = &transcript.meta;
    json!({
        "model": meta.model,
        "modelProvider": meta.model_provider,
        "serviceTier": null,
        "disabledPluginIds": [],
        "cwd": meta.cwd,
        "runtimeWorkspaceRoots": [meta.cwd],
        "instructionSources": [],
        "approvalPolicy": meta.approval_policy,
        "approvalsReviewer": "user",
        "sandbox": {
            "type": "workspaceWrite",
            "writableRoots": [],
            "networkAccess": false,
            "excludeTmpdirEnvVar": false,
            "excludeSlashTmp": false,
        },
        "activePermissionProfile": null,
        "reasoningEffort": null,
        "multiAgentMode": "explicitRequestOnly",
    })
}

/// A turn. A summary shows the first message of the user and the last of the model.
pub(crate) fn turn_view(turn: &Turn, items: ItemsView) -> Value {
    let (shown, name): (Vec<Value>, _) = match items {
        ItemsView::NotLoaded => (Vec::new(), "notLoaded"),
        ItemsView::Full => (turn.items.iter().map(item_view).collect(), "full"),
        ItemsView::Summary => {
            let first = turn.items.iter().find(|item| item.user_text().is_some());
            let last = turn.items.iter().rfind(|item| item.agent_text().is_some());
            (first.into_iter().chain(last).map(item_view).collect(), "summary")
        }
    };
    turn_members(turn, shown, name)
}

/// A turn as turn/completed tells it: with the last message of the model if the turn went well and ended with one.
pub(crate) fn ended_turn_view(turn: &Turn) -> Value {
    let last = turn.items.iter().rfind(|item| item.agent_text().is_some_and(|text| !text.is_empty()));
    match last {
        Some(item) if turn.status == TurnStatus::Completed => {
            turn_members(turn, vec![item_view(item)], "summary")
        }
        _ => turn_members(turn, Vec::new(), "notLoaded"),
    }
}

/// A turn as the reply to turn/start shows it: upstream does not say yet when it started.
pub(crate) fn accepted_turn_view(turn: &Turn) -> Value {
    let mut view = turn_view(turn, ItemsView::NotLoaded);
    view["startedAt"] = Value::Null;
    view
}

fn turn_members(turn: &Turn, items: Vec<Value>, items_view: &str) -> Value {
    json!({
        "id": turn.id,
        "rootTurnId": turn.id,
        "items": items,
        "itemsView": items_view,
        "status": turn.status,
        "error": turn.error,
        "startedAt": turn.started.secs(),
        "completedAt": turn.ended.map(Timestamp::secs),
        "durationMs": turn.ended.map(|ended| ended.since(turn.started).as_millis() as u64),
    })
}

/// An item.
pub(crate) fn item_view(item: &Item) -> Value {
    let mut view = match &item.body {
        ItemBody::UserMessage { client_id, content } => {
            json!({"type": "userMessage", "id": item.id, "clientId": client_id, "content": content})
        }
        ItemBody::AgentMessage { text } => json!({
            "type": "agentMessage", "moderation": null, "id": item.id, "text": text, "phase": null,
            "memoryCitation": null, "delivery": null, "questions": null,
        }),
        ItemBody::CommandExecution(command) => json!({
            "type": "commandExecution",
            "id": item.id,
            "pluginId": null,
            "scriptPath": null,
            "command": shell::login_shell(&command.command),
            "cwd": command.cwd,
            "processId": command.process,
            "source": if command.process.is_some() { "unifiedExecStartup" } else { "agent" },
            "status": command.status,
            "commandActions": [{"type": "unknown", "command": command.command}],
            "aggregatedOutput": command.output,
            "exitCode": command.exit_code,
            "durationMs": command.exit_code.map(|_| 0),
        }),
    };
    view["startedAtMs"] = item.started.millis().into();
    view["completedAtMs"] = item.completed.map(Timestamp::millis).into();
    view
}

/// The parameters of an approval request for a command.
pub(crate) fn approval_params(command: &str, cwd: &str) -> Value {
    let words = shell::words(command).filter(|words| !words.is_empty());
    let amendment =
        words.as_ref().map(|words| json!({"acceptWithExecpolicyAmendment": {"execpolicy_amendment": words}}));
    let decisions: Vec<Value> =
        [Some(json!("accept")), amendment, Some(json!("cancel"))].into_iter().flatten().collect();
    json!({
        "environmentId": "local",
        "reason": "the mock model wants it",
        "command": shell::login_shell(command),
        "cwd": cwd,
        "commandActions": [{"type": "unknown", "command": command}],
        "proposedExecpolicyAmendment": words,
        "availableDecisions": decisions,
    })
}

/// Token counts.
pub(crate) fn usage_view(usage: Usage) -> Value {
    let counts = |input: u64, output: u64| {
        json!({
            "totalTokens": input + output, "inputTokens": input, "cachedInputTokens": 0,
            "cacheWriteInputTokens": 0, "outputTokens": output, "reasoningOutputTokens": 0,
        })
    };
    json!({
        "total": counts(usage.input, usage.output),
        "last": counts(usage.last_input, usage.last_output),
        "modelContextWindow": 258_400,
    })
}
