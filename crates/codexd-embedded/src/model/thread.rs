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
    /// Commands that are approved for the rest of the session.
    pub approved: BTreeSet<String>,
    /// Whether the last turn failed.
    pub failed: bool,
    storage: Storage,
    /// Since when there is no subscriber and no running turn.
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

/// Where the thread is stored.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Storage {
    /// In memory only: an ephemeral thread.
    Memory,
    /// On disk from the first record on; no file yet.
    DiskLater,
    /// On the disk.
    Disk,
}

impl Thread {
    /// A new thread with its first subscriber.
    pub(crate) fn start(meta: Meta, ephemeral: bool, subscriber: ConnectionId) -> Self {
        let storage = if ephemeral { Storage::Memory } else { Storage::DiskLater };
        Self::new(Transcript::new(meta), storage, BTreeSet::from([subscriber]))
    }

    /// A thread from disk. A turn that ran when its last writer died counts as interrupted.
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

    /// Whether the thread has a file; upstream calls this "materialized".
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

    /// Applies a record to the transcript and appends it to the file.
    pub(crate) fn record(&mut self, record: Record, shared: &mut SharedState) {
        self.transcript.apply(record.clone());
        self.materialize(shared);
        if self.storage == Storage::Disk {
            shared.act(Action::Append { thread: self.id(), record });
        }
    }

    /// Creates the file of the thread, unless the thread is ephemeral.
    pub(crate) fn materialize(&mut self, shared: &mut SharedState) {
        if self.storage == Storage::DiskLater {
            self.storage = Storage::Disk;
            let record = Record::ThreadStarted { meta: self.transcript.meta.clone() };
            shared.act(Action::Append { thread: self.id(), record });
        }
    }

    /// Broadcasts the thread's status.
    pub(crate) fn notify_status(&self, shared: &mut SharedState) {
        self.notify_status_as(self.status(), shared);
    }

    /// Sends token usage, if any, and rate limits to the subscribers.
    pub(crate) fn notify_usage(&mut self, shared: &mut SharedState) {
        if let (Some(running), Some(usage)) = (&self.running, self.transcript.usage) {
            self.record(Record::TokensTold { turn: running.turn, usage }, shared);
        }
        self.notify_usage_to(&self.subscribers, shared);
        shared.notify_rate_limits(&self.subscribers);
    }

    /// Sends token usage, if any, with the turn that last reported it.
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

    /// Starts the unload delay if the thread has neither a subscriber nor a turn; otherwise stops it.
    pub(crate) fn update_idle_since(&mut self, shared: &SharedState) {
        if self.subscribers.is_empty() && self.running.is_none() {
            self.idle_since.get_or_insert(shared.now);
        } else {
            self.idle_since = None;
        }
    }

    /// When the thread's next step is due.
    pub(crate) fn due(&self, shared: &SharedState) -> Option<Timestamp> {
        match &self.running {
            Some(running) => running.due,
            None => self.idle_since.map(|since| since.after(shared.settings.unload_delay)),
        }
    }

    /// Whether the unload delay has passed.
    pub(crate) fn is_unload_due(&self, shared: &SharedState) -> bool {
        self.running.is_none() && self.due(shared).is_some_and(|due| due <= shared.now)
    }

    /// Broadcasts the unload. The server releases the writer lock because the thread is no longer loaded.
    pub(crate) fn unload(self, shared: &mut SharedState) {
        self.notify_status_as(ThreadStatus::NotLoaded, shared);
        shared.broadcast("thread/closed", &json!({"threadId": self.id()}));
    }

    pub(crate) fn notify_status_as(&self, status: ThreadStatus, shared: &mut SharedState) {
        shared.broadcast("thread/status/changed", &json!({"threadId": self.id(), "status": status.view()}));
    }
}
