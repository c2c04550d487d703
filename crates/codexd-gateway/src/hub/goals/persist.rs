//! What is sent only when goals are on disk: a pause that the gateway makes, and what a client says of a goal. If the gateway
//! were killed in between, the next one would not know of it.

use std::collections::VecDeque;

use crate::hub::event::{Connection, Text};
use crate::hub::threads::thread::ThreadId;
use crate::hub::{Hub, Timer};
use crate::limits::GOALS_STORED_WITHIN_MS;

/// How far the disk is.
#[derive(Debug, Default)]
pub struct Storing {
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
    link: Connection,
    thread: ThreadId,
    text: Text,
}

impl Storing {
    pub fn begin(&mut self) -> u64 {
        self.last += 1;
        self.last
    }
}

impl Hub {
    /// Sends a request about a thread: at once, unless one about the same thread waits; or, if it changes a goal, when that is on
    /// disk.
    pub(in crate::hub) fn say_of_thread(
        &mut self,
        link: Connection,
        thread: Option<&ThreadId>,
        changes_goal: bool,
        text: Text,
    ) {
        let Some(thread) = thread else { return self.say(link, text) };
        let storing = &mut self.goals.storing;
        let waits_for_disk = changes_goal && storing.stored < storing.last;
        let is_behind = || storing.unsent.iter().any(|unsent| unsent.thread == *thread);
        if !waits_for_disk && !is_behind() {
            return self.say(link, text);
        }
        let number = storing.last;
        storing.unsent.push_back(Unsent { number, link, thread: thread.clone(), text });
        self.timer(GOALS_STORED_WITHIN_MS, Timer::GoalsStored(number));
    }

    pub(in crate::hub) fn goals_stored(&mut self, number: u64) {
        let storing = &mut self.goals.storing;
        storing.stored = storing.stored.max(number);
        while let Some(first) = self.goals.storing.unsent.front()
            && first.number <= self.goals.storing.stored
        {
            let Some(Unsent { link, text, .. }) = self.goals.storing.unsent.pop_front() else { return };
            self.say(link, text);
        }
    }

    /// Nothing more is sent over a link.
    pub(in crate::hub) fn forget_unsent(&mut self, link: Connection) {
        self.goals.storing.unsent.retain(|unsent| unsent.link != link);
    }
}
