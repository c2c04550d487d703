//! Which thread is loaded next, after the loss of an app-server or for active goals.
//!
//! A load may cost a login shell, and concurrent loads slow each other down (0.171.0, two cores: 56 ms alone, 99 ms
//! beside one other, 196 ms beside two, 360 ms beside eight). So few threads load in the background, and a load that
//! a client waits for is sent at once, before all others. A thread without viewers and without work is not loaded
//! until a client asks for it.

use crate::hub::Hub;
use crate::hub::Timer;
use crate::hub::event::{ClientId, ServerId, ThreadId};
use crate::hub::threads::state::{LoadDemand, ThreadState};
use crate::hub::threads::thread::Thread;
use crate::hub::upstream::servers::ConnectionState;
use crate::limits::{BACKGROUND_LOADS_MAX, BACKGROUND_LOADS_YIELD_MS, DEMANDED_LOADS_MAX};

/// Urgency of a load; the least value is the most urgent.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Urgency {
    Demanded(LoadDemand),
    /// A turn was running: its viewers wait for its end.
    Running,
    GoalAtWork,
    Watched,
}

impl Hub {
    /// A client's request waits for a thread that is not loaded.
    pub(in crate::hub) fn demand(&mut self, client: ClientId, id: &str) {
        let of_client = |thread: &&Thread| thread.demand.is_some_and(|demand| demand.client == client);
        let known = self.threads.get(id).filter(|thread| thread.demand.is_none());
        let Some(state) = known.map(|thread| &thread.state) else { return };
        if !matches!(state, ThreadState::Orphaned | ThreadState::Recovering { .. } | ThreadState::Attaching) {
            return;
        }
        let earlier = self.threads.values().filter(of_client).count();
        let number = self.threads.next_demand(self.now + BACKGROUND_LOADS_YIELD_MS);
        let demand = LoadDemand { earlier, number, client };
        let Some(thread) = self.threads.get_mut(id) else { return };
        thread.demand = Some(demand);
        if thread.is_refused() {
            // The cause of the refusal may be gone.
            thread.retry_at = self.now;
        }
        self.changes.demand_added();
        self.set_timer(BACKGROUND_LOADS_YIELD_MS, Timer::BackgroundLoads);
    }

    /// Loads lost threads: on their app-server if that is alive and only the connection broke; otherwise on the
    /// serving one.
    pub(in crate::hub) fn recover_orphaned(&mut self) {
        self.close_unneeded_threads();
        let heir = self.servers.serving_current().filter(|heir| self.accepts_work(*heir));
        let home = |thread: &Thread| match self.servers.get(&thread.server) {
            // A refused thread is loaded nowhere: an outgoing app-server is asked again only for a thread that it had
            // until now.
            Some(server)
                if !(server.is_retired
                    || server.is_outgoing && thread.is_refused() && thread.unloaded_from.is_none()) =>
            {
                (server.shared == ConnectionState::Open && !server.is_draining).then_some(thread.server)
            }
            _ => heir.or(thread.unloaded_from.filter(|before| self.accepts_work(*before))),
        };
        let (mut demanded, mut background) = (0, 0);
        let mut lost: Vec<(Urgency, &ThreadId, ServerId)> = Vec::new();
        let mut ephemeral: Vec<(ThreadId, ServerId)> = Vec::new();
        for thread in self.threads.values() {
            match thread.state {
                ThreadState::Recovering { .. } if thread.demand.is_some() => demanded += 1,
                ThreadState::Recovering { .. } => background += 1,
                ThreadState::Orphaned if thread.is_ephemeral() => {
                    ephemeral.extend(home(thread).map(|server| (thread.id.clone(), server)));
                }
                ThreadState::Orphaned if thread.retry_at <= self.now => {
                    lost.extend(home(thread).map(|server| (self.urgency_of(thread), &thread.id, server)));
                }
                _ => {}
            }
        }
        let are_demanded =
            lost.iter().filter(|(urgency, ..)| matches!(urgency, Urgency::Demanded(_))).count();
        let take_demanded = are_demanded.min(DEMANDED_LOADS_MAX.saturating_sub(demanded));
        // One background load continues whatever clients wait for, because their loads may hang. A background load
        // may become a demanded one.
        let background_max = match demanded + take_demanded {
            0 if self.threads.background_yields(self.now) => 1,
            0 => BACKGROUND_LOADS_MAX,
            demanded => usize::saturating_sub(DEMANDED_LOADS_MAX + 1, demanded).min(1),
        };
        let take_background =
            (lost.len() - are_demanded).min(usize::saturating_sub(background_max, background));
        if take_demanded + take_background > 0 {
            lost.sort_unstable();
        }
        let next = lost.iter().take(take_demanded);
        let next = next.chain(lost.iter().skip(are_demanded).take(take_background));
        let next: Vec<(ThreadId, ServerId)> = next.map(|(_, id, server)| ((*id).clone(), *server)).collect();
        // These end at once: they cannot be loaded.
        ephemeral.sort_unstable();
        for (id, server) in ephemeral.into_iter().chain(next) {
            self.recover_thread(&id, server);
        }
    }

    fn urgency_of(&self, thread: &Thread) -> Urgency {
        match thread.demand {
            Some(demand) => Urgency::Demanded(demand),
            None if !thread.turns.is_empty() => Urgency::Running,
            None if self.goals.has_work_in(thread) => Urgency::GoalAtWork,
            None => Urgency::Watched,
        }
    }

    /// A client disconnected: its demands end.
    pub(in crate::hub) fn withdraw_demands(&mut self, client: ClientId) {
        for thread in self.threads.values_mut() {
            thread.demand = thread.demand.filter(|demand| demand.client != client);
        }
    }

    /// Whether a lost thread is not loaded again yet.
    pub(in crate::hub) fn is_recovering(&self) -> bool {
        self.threads
            .values()
            .any(|thread| matches!(thread.state, ThreadState::Orphaned | ThreadState::Recovering { .. }))
    }

    /// Closes lost threads that no client needs any more.
    fn close_unneeded_threads(&mut self) {
        let is_needed = |thread: &Thread| {
            thread.is_watched()
                || thread.demand.is_some()
                || !thread.turns.is_empty()
                || self.goals.has_work_in(thread)
        };
        let threads = self.threads.values();
        // A draining app-server that is not connected may still run their turns.
        let drains =
            |server: &crate::hub::upstream::servers::Server| server.is_draining && !server.is_retired;
        let may_work = |thread: &Thread| self.servers.get(&thread.server).is_some_and(drains);
        let lost = threads.filter(|thread| thread.state == ThreadState::Orphaned);
        let lost = lost.filter(|thread| !is_needed(thread) && !may_work(thread));
        let mut closed: Vec<ThreadId> = lost.map(|thread| thread.id.clone()).collect();
        closed.sort_unstable();
        for id in &closed {
            self.park_settings(id);
            self.close_thread(id);
        }
    }
}
