//! Requests that change a goal are sent only after the set of active goals is on disk: if the gateway were killed in
//! between, the next one would not know of the change.

use std::collections::VecDeque;

use crate::host::PersistedGoals;
use crate::hub::event::{Action, Connection, Text, ThreadId};
use crate::hub::{Hub, Timer};
use crate::limits::GOALS_PERSIST_TIMEOUT_MS;

/// Progress of persisting goals.
#[derive(Debug, Default)]
pub struct PersistQueue {
    /// The last number that was assigned.
    last: u64,
    /// The last number that is on disk.
    stored: u64,
    /// Requests that wait, in the order of their numbers.
    unsent: VecDeque<Unsent>,
}

/// A request that waits for the disk, or behind a waiting one about the same thread.
#[derive(Debug)]
struct Unsent {
    number: u64,
    connection: Connection,
    thread: ThreadId,
    text: Text,
}

impl Hub {
    /// Sends a request about a thread. One that changes a goal waits until that is on disk, and later requests about
    /// the same thread wait behind it.
    pub(in crate::hub) fn send_about_thread(
        &mut self,
        connection: Connection,
        thread: Option<&ThreadId>,
        changes_goal: bool,
        text: Text,
    ) {
        let Some(thread) = thread else { return self.send_upstream(connection, text) };
        let have_changed = self.changes.have_goals_changed();
        let queue = &mut self.goals.queue;
        let waits_for_disk = changes_goal && (have_changed || queue.stored < queue.last);
        let is_behind = || queue.unsent.iter().any(|unsent| unsent.thread == *thread);
        if !waits_for_disk && !is_behind() {
            return self.send_upstream(connection, text);
        }
        // The change is persisted at the end of this step, under the next number.
        let number = queue.last + u64::from(have_changed);
        queue.unsent.push_back(Unsent { number, connection, thread: thread.clone(), text });
        if !have_changed {
            self.set_timer(GOALS_PERSIST_TIMEOUT_MS, Timer::PersistGoalsTimeout(number));
        }
    }

    /// Lets the host store which goals are active and suspended.
    pub(super) fn store_goals(&mut self, goals: PersistedGoals) {
        let queue = &mut self.goals.queue;
        queue.last += 1;
        let number = queue.last;
        let waits = queue.unsent.back().is_some_and(|unsent| unsent.number == number);
        self.out.push(Action::PersistGoals { number, goals });
        if waits {
            self.set_timer(GOALS_PERSIST_TIMEOUT_MS, Timer::PersistGoalsTimeout(number));
        }
    }

    /// The goals are as they were stored last: requests that wait for the next number wait for the last one.
    pub(super) fn keep_stored_goals(&mut self) {
        let PersistQueue { last, unsent, .. } = &mut self.goals.queue;
        let number = *last;
        let early = unsent.iter_mut().rev().take_while(|unsent| unsent.number > number);
        let count = early.map(|unsent| unsent.number = number).count();
        self.on_goals_persisted(0);
        if count > 0 && !self.goals.queue.unsent.is_empty() {
            self.set_timer(GOALS_PERSIST_TIMEOUT_MS, Timer::PersistGoalsTimeout(number));
        }
    }

    pub(in crate::hub) fn on_goals_persisted(&mut self, number: u64) {
        let queue = &mut self.goals.queue;
        queue.stored = queue.stored.max(number);
        while let Some(first) = self.goals.queue.unsent.front()
            && first.number <= self.goals.queue.stored
        {
            let Some(Unsent { connection, text, .. }) = self.goals.queue.unsent.pop_front() else { return };
            self.send_upstream(connection, text);
        }
    }

    /// Drops the waiting requests of a lost connection.
    pub(in crate::hub) fn drop_unsent(&mut self, connection: Connection) {
        self.goals.queue.unsent.retain(|unsent| unsent.connection != connection);
    }
}
