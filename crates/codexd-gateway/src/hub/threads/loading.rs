//! Which thread is loaded next, where many are to be: after the loss of an app-server, or for their goals' sake.
//!
//! Each load may cost a login shell, and several at once slow each other down (0.171.0 on two cores: a load that takes 56 ms
//! alone takes 99 ms beside one other, 196 ms beside two and 360 ms beside eight). So only a few are loaded in the
//! background, and a load that a client waits for is sent at once, before all others. A thread that no client watches and
//! in which nothing is at work is not loaded at all, until a client asks for it.

use crate::hub::Hub;
use crate::hub::Timer;
use crate::hub::event::{ClientId, ServerId};
use crate::hub::threads::thread::{Thread, ThreadId, ThreadState};
use crate::hub::upstream::servers::ConnectionState;
use crate::limits::{BACKGROUND_LOADS_MAX, BACKGROUND_LOADS_YIELD_MS, DEMANDED_LOADS_MAX};

/// A client waits for a thread to be loaded.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct LoadDemand {
    /// How many other threads that client was waiting for: a client that asks for one thread is not queued behind a client that asks for hundreds.
    earlier: usize,
    /// The order of the demands.
    number: u64,
    client: ClientId,
}

/// How urgent a load is; the least is the most urgent.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Urgency {
    Demanded(LoadDemand),
    /// A turn ran: its viewers wait to be told how it ended.
    Running,
    GoalAtWork,
    Watched,
}

impl Hub {
    /// A request waits for a thread that is not loaded yet.
    pub(in crate::hub) fn demand(&mut self, client: ClientId, id: &str) {
        let of_client = |thread: &&Thread| thread.demand.is_some_and(|demand| demand.client == client);
        let known = self.threads.get(id).filter(|thread| thread.demand.is_none());
        let Some(state) = known.map(|thread| &thread.state) else { return };
        if !matches!(state, ThreadState::Orphaned | ThreadState::Recovering | ThreadState::Attaching) {
            return;
        }
        let earlier = self.threads.values().filter(of_client).count();
        self.demand_count += 1;
        let demand = LoadDemand { earlier, number: self.demand_count, client };
        let Some(thread) = self.threads.get_mut(id) else { return };
        thread.demand = Some(demand);
        if thread.is_refused() {
            // The cause may be repaired.
            thread.retry_at = self.now;
        }
        self.changes.demand_added();
        self.background_yields_until = self.now + BACKGROUND_LOADS_YIELD_MS;
        self.set_timer(BACKGROUND_LOADS_YIELD_MS, Timer::BackgroundLoads);
    }

    /// Loads what was lost: where it was, if that process lives and only the connection broke; else in the app-server that
    /// serves.
    pub(in crate::hub) fn recover_orphaned(&mut self) {
        self.close_unneeded_threads();
        let heir = self.serving.filter(|heir| self.current == Some(*heir) && self.accepts_work(*heir));
        let home = |thread: &Thread| match self.servers.get(&thread.server) {
            // One that was refused is loaded nowhere: an outgoing app-server is asked again only for what it had until now.
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
                ThreadState::Recovering if thread.demand.is_some() => demanded += 1,
                ThreadState::Recovering => background += 1,
                ThreadState::Orphaned if thread.is_ephemeral => {
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
        // One goes on in the background whatever clients wait for: a load of theirs may hang. But one that goes on there may
        // be demanded meanwhile.
        let background_max = match demanded + take_demanded {
            0 if self.now < self.background_yields_until => 1,
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
        // These end at once: nothing of them can be loaded.
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

    /// A client has left: what only that one waited for is not urgent any more.
    pub(in crate::hub) fn withdraw_demands(&mut self, client: ClientId) {
        for thread in self.threads.values_mut() {
            thread.demand = thread.demand.filter(|demand| demand.client != client);
        }
    }

    /// Whether a thread that was lost is not loaded again yet.
    pub(in crate::hub) fn is_recovering(&self) -> bool {
        self.threads
            .values()
            .any(|thread| matches!(thread.state, ThreadState::Orphaned | ThreadState::Recovering))
    }

    /// What was lost and is wanted by no client any more is not loaded again.
    fn close_unneeded_threads(&mut self) {
        let is_needed = |thread: &Thread| {
            thread.is_watched()
                || thread.demand.is_some()
                || !thread.turns.is_empty()
                || self.goals.has_work_in(thread)
        };
        let threads = self.threads.values();
        // A server that drains may be at work there still, and knows it alone.
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
