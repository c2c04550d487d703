//! The threads that the gateway knows, and which of them are to be attached or loaded next.

use std::collections::{HashMap, VecDeque};

use crate::hub::event::{Now, ThreadId};
use crate::hub::threads::state::ThreadState;
use crate::hub::threads::thread::Thread;

/// All threads that the gateway knows.
#[derive(Debug, Default)]
pub struct ThreadTable {
    threads: HashMap<ThreadId, Thread>,
    /// Threads that were found loaded and are not subscribed yet.
    attach_queue: VecDeque<ThreadId>,
    /// Number of demands of clients for unloaded threads so far.
    demand_count: u64,
    /// Until then only one thread at a time is loaded in the background.
    background_yields_until: Now,
    /// The user's `thread_unload_delay_secs` in milliseconds; `None` if not configured.
    unload_delay_ms: Option<u64>,
}

impl ThreadTable {
    pub fn get(&self, id: &str) -> Option<&Thread> {
        self.threads.get(id)
    }

    pub fn get_mut(&mut self, id: &str) -> Option<&mut Thread> {
        self.threads.get_mut(id)
    }

    pub fn contains_key(&self, id: &str) -> bool {
        self.threads.contains_key(id)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&ThreadId, &Thread)> {
        self.threads.iter()
    }

    pub fn values(&self) -> impl Iterator<Item = &Thread> {
        self.threads.values()
    }

    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut Thread> {
        self.threads.values_mut()
    }

    pub fn insert(&mut self, thread: Thread) {
        self.threads.insert(thread.id.clone(), thread);
    }

    pub fn get_or_insert_with(&mut self, id: &ThreadId, thread: impl FnOnce() -> Thread) -> &mut Thread {
        self.threads.entry(id.clone()).or_insert_with(thread)
    }

    pub fn remove(&mut self, id: &str) -> Option<Thread> {
        self.threads.remove(id)
    }

    /// The thread is to be attached, after those that are queued already.
    pub fn queue_attach(&mut self, id: ThreadId) {
        self.attach_queue.push_back(id);
    }

    pub fn unqueue_attach(&mut self, id: &str) {
        self.attach_queue.retain(|queued| **queued != *id);
    }

    pub fn is_queued_to_attach(&self, id: &ThreadId) -> bool {
        self.attach_queue.contains(id)
    }

    pub fn has_queued_attaches(&self) -> bool {
        !self.attach_queue.is_empty()
    }

    /// The thread that is attached next.
    pub fn next_to_attach(&mut self) -> Option<ThreadId> {
        self.attach_queue.pop_front()
    }

    /// Takes the threads that are to be attached and that clients wait for.
    pub fn take_demanded_attaches(&mut self) -> VecDeque<ThreadId> {
        let threads = &self.threads;
        let is_demanded = |id: &ThreadId| {
            threads
                .get(id)
                .is_some_and(|thread| thread.state == ThreadState::Attaching && thread.demand.is_some())
        };
        let (demanded, others) = std::mem::take(&mut self.attach_queue).into_iter().partition(is_demanded);
        self.attach_queue = others;
        demanded
    }

    /// The number of the next demand of a client for an unloaded thread. Until `yields_until`, only one thread at a
    /// time is loaded in the background.
    pub fn next_demand(&mut self, yields_until: Now) -> u64 {
        self.background_yields_until = yields_until;
        self.demand_count += 1;
        self.demand_count
    }

    /// Whether only one thread at a time is loaded in the background.
    pub fn background_yields(&self, now: Now) -> bool {
        now < self.background_yields_until
    }

    /// The user's `thread_unload_delay_secs` in milliseconds; `None` if not configured.
    pub fn unload_delay_ms(&self) -> Option<u64> {
        self.unload_delay_ms
    }

    pub fn set_unload_delay_ms(&mut self, delay_ms: Option<u64>) {
        self.unload_delay_ms = delay_ms;
    }
}
