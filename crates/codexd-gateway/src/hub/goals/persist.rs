//! What is sent only when goals are on disk: a pause that the gateway makes, and what a client says of a goal. If the gateway
//! were killed in between, the next one would not know of it.

use std::collections::VecDeque;

use crate::host::PersistedGoals;
use crate::hub::event::{Action, Connection, Text};
use crate::hub::threads::thread::ThreadId;
use crate::hub::{Hub, Timer};
use crate::limits::GOALS_STORED_WITHIN_MS;

/// How far the disk is.
#[derive(Debug, Default)]
pub struct PersistQueue {
    /// The last number that was given out.
    last: u64,
    /// The last one that is on disk.
    stored: u64,
    /// In the order of their numbers.
    unsent: VecDeque<Unsent>,
}

/// A request that waits for the disk, or behind one about the same thread that does.
#[derive(Debug)]
struct Unsent {
    number: u64,
    connection: Connection,
    thread: ThreadId,
    text: Text,
}

impl Hub {
    /// Sends a request about a thread: at once, unless one about the same thread waits; or, if it changes a goal, when that is on
    /// disk.
    pub(in crate::hub) fn send_about_thread(
        &mut self,
        connection: Connection,
        thread: Option<&ThreadId>,
        changes_goal: bool,
        text: Text,
    ) {
        let Some(thread) = thread else { return self.send_upstream(connection, text) };
        let have_changed = self.changes.have_goals_changed();
        let storing = &mut self.goals.storing;
        let waits_for_disk = changes_goal && (have_changed || storing.stored < storing.last);
        let is_behind = || storing.unsent.iter().any(|unsent| unsent.thread == *thread);
        if !waits_for_disk && !is_behind() {
            return self.send_upstream(connection, text);
        }
        // What has changed is persisted at the end of this step, under the next number.
        let number = storing.last + u64::from(have_changed);
        storing.unsent.push_back(Unsent { number, connection, thread: thread.clone(), text });
        if !have_changed {
            self.set_timer(GOALS_STORED_WITHIN_MS, Timer::PersistGoalsTimeout(number));
        }
    }

    /// Has the host store which goals are active and suspended.
    pub(super) fn store_goals(&mut self, goals: PersistedGoals) {
        let storing = &mut self.goals.storing;
        storing.last += 1;
        let number = storing.last;
        let waits = storing.unsent.back().is_some_and(|unsent| unsent.number == number);
        self.out.push(Action::PersistGoals { number, goals });
        if waits {
            self.set_timer(GOALS_STORED_WITHIN_MS, Timer::PersistGoalsTimeout(number));
        }
    }

    /// The goals are as they were stored last: what waits for a next number waits for the last one.
    pub(super) fn keep_stored_goals(&mut self) {
        let PersistQueue { last, unsent, .. } = &mut self.goals.storing;
        let number = *last;
        let early = unsent.iter_mut().rev().take_while(|unsent| unsent.number > number);
        let count = early.map(|unsent| unsent.number = number).count();
        self.on_goals_persisted(0);
        if count > 0 && !self.goals.storing.unsent.is_empty() {
            self.set_timer(GOALS_STORED_WITHIN_MS, Timer::PersistGoalsTimeout(number));
        }
    }

    pub(in crate::hub) fn on_goals_persisted(&mut self, number: u64) {
        let storing = &mut self.goals.storing;
        storing.stored = storing.stored.max(number);
        while let Some(first) = self.goals.storing.unsent.front()
            && first.number <= self.goals.storing.stored
        {
            let Some(Unsent { connection, text, .. }) = self.goals.storing.unsent.pop_front() else { return };
            self.send_upstream(connection, text);
        }
    }

    /// Nothing more is sent over a connection.
    pub(in crate::hub) fn drop_unsent(&mut self, connection: Connection) {
        self.goals.storing.unsent.retain(|unsent| unsent.connection != connection);
    }
}
