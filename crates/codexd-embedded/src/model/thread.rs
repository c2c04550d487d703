//! A loaded thread: its transcript, its subscribers and its running turn.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::ids::{ConnectionId, ItemId, ServerRequestId, ThreadId, TurnId};
use crate::model::Action;
use crate::model::shared_state::SharedState;
use crate::model::transcript::{Item, ItemBody, Meta, Record, Transcript};
use crate::model::views::{ThreadStatus, ThreadView, usage_view};
use crate::prompt_directives::PromptDirectives;
use crate::rollout;
use crate::timestamp::Timestamp;

/// A thread of which this process is the writer.
#[derive(Debug)]
pub(crate) struct Thread {
    pub transcript: Transcript,
    pub subscribers: BTreeSet<ConnectionId>,
    pub running: Option<RunningTurn>,
    /// Commands that need no approval any more.
    pub approved: BTreeSet<String>,
    /// Whether the last turn failed.
    pub failed: bool,
    storage: Storage,
    /// Since when nobody is subscribed and nothing runs.
    idle_since: Option<Timestamp>,
}

/// The running turn of a thread.
#[derive(Debug)]
pub(crate) struct RunningTurn {
    pub turn: TurnId,
    /// When the next step of the turn is due; `None` while the turn waits for a client or is hung.
    pub due: Option<Timestamp>,
    pub stage: TurnStage,
    /// User messages that arrived while the turn ran.
    pub queued: Vec<ItemBody>,
    pub directives: PromptDirectives,
    /// The newest user message.
    pub prompt: String,
    /// Whether the command of that message has been handled.
    pub after_command: bool,
}

/// The step that the turn is in.
#[derive(Debug)]
pub(crate) enum TurnStage {
    CallingModel,
    Streaming {
        item: ItemId,
        started: Timestamp,
        sent: u32,
        text: String,
    },
    AwaitingApproval(PendingApproval),
    /// The model never answers.
    Hung,
}

/// A command that waits for the approval of a client.
#[derive(Debug)]
pub(crate) struct PendingApproval {
    pub request: ServerRequestId,
    pub params: Value,
    pub item: Item,
}

impl RunningTurn {
    /// The approval that the turn waits for.
    pub(crate) fn pending_approval(&self) -> Option<&PendingApproval> {
        match &self.stage {
            TurnStage::AwaitingApproval(approval) => Some(approval),
            _ => None,
        }
    }
}

/// Where a thread is kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Storage {
    /// Nowhere, ever.
    Memory,
    /// On the disk, as soon as something is said in it.
    DiskLater,
    /// On the disk.
    Disk,
}

impl Thread {
    /// A new one, with its first subscriber.
    pub(crate) fn start(meta: Meta, ephemeral: bool, subscriber: ConnectionId) -> Self {
        let storage = if ephemeral { Storage::Memory } else { Storage::DiskLater };
        Self::new(Transcript::new(meta), storage, BTreeSet::from([subscriber]))
    }

    /// One from the disk. What still ran when its last writer died was interrupted.
    pub(crate) fn load(transcript: Transcript) -> Self {
        Self::new(transcript.abandoned(), Storage::Disk, BTreeSet::new())
    }

    fn new(transcript: Transcript, storage: Storage, subscribers: BTreeSet<ConnectionId>) -> Self {
        let (running, approved, failed, idle_since) = (None, BTreeSet::new(), false, None);
        Self { transcript, subscribers, running, approved, failed, storage, idle_since }
    }

    pub(crate) fn id(&self) -> ThreadId {
        self.transcript.meta.id
    }

    pub(crate) fn is_ephemeral(&self) -> bool {
        self.storage == Storage::Memory
    }

    /// Whether another client could find it: upstream says "materialized".
    pub(crate) fn is_on_disk(&self) -> bool {
        self.storage == Storage::Disk
    }

    pub(crate) fn status(&self) -> ThreadStatus {
        match &self.running {
            Some(running) => {
                ThreadStatus::Active { waiting_on_approval: running.pending_approval().is_some() }
            }
            None if self.failed => ThreadStatus::SystemError,
            None => ThreadStatus::Idle,
        }
    }

    /// The thread as clients see it.
    pub(crate) fn view(&self, include_turns: bool, shared: &SharedState) -> Value {
        let path = rollout::path(&shared.settings.codex_home, self.id(), false).display().to_string();
        let path = (!self.is_ephemeral()).then_some(path);
        let status = self.status();
        ThreadView {
            transcript: &self.transcript,
            status,
            path: path.as_deref(),
            takes_input: status != ThreadStatus::NotLoaded,
            include_turns,
        }
        .view()
    }

    /// Remembers something, here and on the disk.
    pub(crate) fn remember(&mut self, record: Record, shared: &mut SharedState) {
        self.transcript.apply(record.clone());
        self.materialize(shared);
        if self.storage == Storage::Disk {
            shared.act(Action::Append { thread: self.id(), record });
        }
    }

    /// Makes sure that the thread has a file, unless it is ephemeral.
    pub(crate) fn materialize(&mut self, shared: &mut SharedState) {
        if self.storage == Storage::DiskLater {
            self.storage = Storage::Disk;
            let record = Record::ThreadStarted { meta: self.transcript.meta.clone() };
            shared.act(Action::Append { thread: self.id(), record });
        }
    }

    /// Tells everybody how the thread stands.
    pub(crate) fn notify_status(&self, shared: &mut SharedState) {
        self.notify_status_as(self.status(), shared);
    }

    /// Tells the subscribers how many tokens were used, if any were, and what limits there are.
    pub(crate) fn notify_usage(&mut self, shared: &mut SharedState) {
        if let (Some(running), Some(usage)) = (&self.running, self.transcript.usage) {
            self.remember(Record::TokensTold { turn: running.turn, usage }, shared);
        }
        self.notify_usage_to(&self.subscribers, shared);
        shared.notify_rate_limits(&self.subscribers);
    }

    /// Tells how many tokens were used, if any were, and in which turn that was last said.
    pub(crate) fn notify_usage_to(&self, who: &BTreeSet<ConnectionId>, shared: &mut SharedState) {
        let running = self.running.as_ref().map(|running| running.turn);
        if let (Some(usage), Some(turn)) = (self.transcript.usage, self.transcript.usage_turn.or(running)) {
            let params = json!({"threadId": self.id(), "turnId": turn, "tokenUsage": usage_view(usage)});
            shared.notify(who, "thread/tokenUsage/updated", &params);
        }
    }

    pub(crate) fn subscribe(&mut self, connection: ConnectionId) {
        self.subscribers.insert(connection);
        self.idle_since = None;
    }

    /// Returns whether the connection was a subscriber.
    pub(crate) fn unsubscribe(&mut self, connection: ConnectionId, shared: &SharedState) -> bool {
        let was = self.subscribers.remove(&connection);
        self.update_idle_since(shared);
        was
    }

    /// Starts the clock for the unloading when nobody needs the thread any more, and stops it when somebody does.
    pub(crate) fn update_idle_since(&mut self, shared: &SharedState) {
        if self.subscribers.is_empty() && self.running.is_none() {
            self.idle_since.get_or_insert(shared.now);
        } else {
            self.idle_since = None;
        }
    }

    /// When the thread next has something to do.
    pub(crate) fn due(&self, shared: &SharedState) -> Option<Timestamp> {
        match &self.running {
            Some(running) => running.due,
            None => self.idle_since.map(|since| since.after(shared.settings.unload_delay)),
        }
    }

    /// Whether it is time to unload it.
    pub(crate) fn is_unload_due(&self, shared: &SharedState) -> bool {
        self.running.is_none() && self.due(shared).is_some_and(|due| due <= shared.now)
    }

    /// Says goodbye; the writer lock is let go by the server, which sees that the thread is no longer loaded.
    pub(crate) fn unload(self, shared: &mut SharedState) {
        self.notify_status_as(ThreadStatus::NotLoaded, shared);
        shared.broadcast("thread/closed", &json!({"threadId": self.id()}));
    }

    pub(crate) fn notify_status_as(&self, status: ThreadStatus, shared: &mut SharedState) {
        shared.broadcast("thread/status/changed", &json!({"threadId": self.id(), "status": status.view()}));
    }
}
