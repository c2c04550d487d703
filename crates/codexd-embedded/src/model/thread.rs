//! A loaded thread: its transcript, its subscribers and its running turn.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::ids::{ConnectionId, ThreadId};
use crate::model::Action;
use crate::model::hall::Hall;
use crate::model::play::Running;
use crate::model::transcript::{Meta, Record, Transcript};
use crate::model::views::{ThreadStatus, ThreadView, usage_view};
use crate::moment::Moment;
use crate::rollout;

/// A thread of which this process is the writer.
#[derive(Debug)]
pub(crate) struct Thread {
    pub transcript: Transcript,
    pub subscribers: BTreeSet<ConnectionId>,
    pub running: Option<Running>,
    /// Commands that need no approval any more.
    pub approved: BTreeSet<String>,
    /// Whether the last turn failed.
    pub failed: bool,
    storage: Storage,
    /// Since when nobody is subscribed and nothing runs.
    idle_since: Option<Moment>,
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
            Some(running) => ThreadStatus::Active { waiting_on_approval: running.asks().is_some() },
            None if self.failed => ThreadStatus::SystemError,
            None => ThreadStatus::Idle,
        }
    }

    /// The thread as clients see it.
    pub(crate) fn view(&self, include_turns: bool, hall: &Hall) -> Value {
        let path = rollout::path(&hall.settings.codex_home, self.id(), false).display().to_string();
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
    pub(crate) fn remember(&mut self, record: Record, hall: &mut Hall) {
        self.transcript.apply(record.clone());
        self.materialize(hall);
        if self.storage == Storage::Disk {
            hall.act(Action::Append { thread: self.id(), record });
        }
    }

    /// Makes sure that the thread has a file, unless it is ephemeral.
    pub(crate) fn materialize(&mut self, hall: &mut Hall) {
        if self.storage == Storage::DiskLater {
            self.storage = Storage::Disk;
            let record = Record::ThreadStarted { meta: self.transcript.meta.clone() };
            hall.act(Action::Append { thread: self.id(), record });
        }
    }

    /// Tells everybody how the thread stands.
    pub(crate) fn tell_status(&self, hall: &mut Hall) {
        self.tell_status_as(self.status(), hall);
    }

    /// Tells the subscribers how many tokens were used, if any were, and what limits there are.
    pub(crate) fn tell_usage(&mut self, hall: &mut Hall) {
        if let (Some(running), Some(usage)) = (&self.running, self.transcript.usage) {
            self.remember(Record::TokensTold { turn: running.turn, usage }, hall);
        }
        self.tell_usage_to(&self.subscribers, hall);
        hall.tell_rate_limits(&self.subscribers);
    }

    /// Tells how many tokens were used, if any were, and in which turn that was last said.
    pub(crate) fn tell_usage_to(&self, who: &BTreeSet<ConnectionId>, hall: &mut Hall) {
        let running = self.running.as_ref().map(|running| running.turn);
        if let (Some(usage), Some(turn)) = (self.transcript.usage, self.transcript.usage_turn.or(running)) {
            let params = json!({"threadId": self.id(), "turnId": turn, "tokenUsage": usage_view(usage)});
            hall.tell(who, "thread/tokenUsage/updated", &params);
        }
    }

    pub(crate) fn subscribe(&mut self, connection: ConnectionId) {
        self.subscribers.insert(connection);
        self.idle_since = None;
    }

    /// Returns whether the connection was a subscriber.
    pub(crate) fn unsubscribe(&mut self, connection: ConnectionId, hall: &Hall) -> bool {
        let was = self.subscribers.remove(&connection);
        self.note_idleness(hall);
        was
    }

    /// Starts the clock for the unloading when nobody needs the thread any more, and stops it when somebody does.
    pub(crate) fn note_idleness(&mut self, hall: &Hall) {
        if self.subscribers.is_empty() && self.running.is_none() {
            self.idle_since.get_or_insert(hall.now);
        } else {
            self.idle_since = None;
        }
    }

    /// When the thread next has something to do.
    pub(crate) fn due(&self, hall: &Hall) -> Option<Moment> {
        match &self.running {
            Some(running) => running.due,
            None => self.idle_since.map(|since| since.after(hall.settings.unload_delay)),
        }
    }

    /// Whether it is time to unload it.
    pub(crate) fn is_forgotten(&self, hall: &Hall) -> bool {
        self.running.is_none() && self.due(hall).is_some_and(|due| due <= hall.now)
    }

    /// Says goodbye; the writer lock is let go by the server, which sees that the thread is no longer loaded.
    pub(crate) fn unload(self, hall: &mut Hall) {
        self.tell_status_as(ThreadStatus::NotLoaded, hall);
        hall.tell_all("thread/closed", &json!({"threadId": self.id()}));
    }

    pub(crate) fn tell_status_as(&self, status: ThreadStatus, hall: &mut Hall) {
        hall.tell_all("thread/status/changed", &json!({"threadId": self.id(), "status": status.view()}));
    }
}
