//! What follows from an event. A handler changes the state that it owns and records in [`Changes`] what has changed; at
//! the end of each step [`Hub::settle`] does everything that follows: scheduling, migration, loads, goals, retirement of
//! app-servers and persistence. It repeats this until nothing has changed any more.
//!
//! Invariants
//! - No handler calls one of these steps itself.
//! - A thread that may migrate is looked at before queued requests are dispatched: a client that sends requests about it
//!   without a pause would keep it on the old app-server.
//! - Queued requests are dispatched before threads are loaded: the dispatch records which threads clients wait for.
//! - Goals are persisted last. Until then a request that changes a goal is held back (`goals/persist.rs`).
//! - An event that changes nothing here, such as a delta, costs a few comparisons.

use std::collections::BTreeSet;

use crate::hub::Hub;
use crate::hub::event::{ClientId, ThreadId};

/// What has changed since the hub settled last.
#[derive(Debug, Default)]
pub struct Changes {
    servers: bool,
    threads: BTreeSet<ThreadId>,
    requests: bool,
    demands: bool,
    migration: bool,
    loads: bool,
    unloaded_goals: bool,
    attaches: bool,
    dedicated: BTreeSet<ClientId>,
    holdings: bool,
    recovery: bool,
    goals: bool,
}

impl Changes {
    /// An app-server came, went or was retired, its shared connection opened, or it answered a readiness probe.
    pub fn servers_changed(&mut self) {
        self.servers = true;
    }

    /// Something happened to a thread: it may be able to migrate or to be unloaded now.
    pub fn thread_changed(&mut self, thread: &ThreadId) {
        if !self.threads.contains(thread) {
            self.threads.insert(thread.clone());
        }
    }

    /// A thread is in another state, or is not loaded any more: requests about it may be dispatched, the next one may
    /// migrate, and its app-server may hold nothing.
    pub fn thread_state_changed(&mut self) {
        self.requests = true;
        self.migration = true;
        self.holdings = true;
        self.recovery = true;
    }

    /// A request was queued, or one that is queued may be dispatched now.
    pub fn requests_changed(&mut self) {
        self.requests = true;
    }

    /// A client waits for a thread that is not loaded.
    pub fn demand_added(&mut self) {
        self.demands = true;
    }

    /// A thread waits to be loaded, or a load has ended.
    pub fn loads_changed(&mut self) {
        self.loads = true;
    }

    /// A thread is to be attached, or one has been.
    pub fn attach_changed(&mut self) {
        self.attaches = true;
    }

    /// An active goal may have no loaded thread.
    pub fn goal_unloaded(&mut self) {
        self.unloaded_goals = true;
    }

    /// Something that a client's dedicated connections were needed for may have ended.
    pub fn dedicated_released(&mut self, client: ClientId) {
        self.dedicated.insert(client);
    }

    /// A connection or a request that an app-server was needed for has ended.
    pub fn holding_released(&mut self) {
        self.holdings = true;
    }

    /// A goal is in another state, or a client wants it to be.
    pub fn goals_changed(&mut self) {
        self.goals = true;
    }

    /// Whether goals have to be persisted in this step.
    pub fn have_goals_changed(&self) -> bool {
        self.goals
    }

    /// Whether nothing is left to do but to persist goals and to report a recovery.
    fn is_settled(&self) -> bool {
        let Self { servers, requests, demands, migration, loads, unloaded_goals, attaches, holdings, .. } =
            self;
        self.threads.is_empty()
            && self.dedicated.is_empty()
            && !(*servers
                || *requests
                || *demands
                || *migration
                || *loads
                || *unloaded_goals
                || *attaches
                || *holdings)
    }
}

impl Hub {
    /// Does what follows from what has changed, until nothing changes any more.
    pub(super) fn settle(&mut self) {
        #[cfg(debug_assertions)]
        let mut rounds = 0..crate::limits::SETTLE_ROUNDS_MAX;
        while !self.changes.is_settled() {
            #[cfg(debug_assertions)]
            assert!(rounds.next().is_some(), "the hub does not settle: {:?}", self.changes);
            self.settle_once();
        }
        if std::mem::take(&mut self.changes.recovery) {
            self.report_recovery_if_complete();
        }
        if std::mem::take(&mut self.changes.goals) {
            self.persist_goals();
        }
    }

    fn settle_once(&mut self) {
        if std::mem::take(&mut self.changes.servers) {
            self.changes.thread_state_changed();
            self.changes.loads_changed();
            self.changes.goal_unloaded();
            self.ensure_handover();
        }
        if !self.changes.threads.is_empty() {
            while let Some(thread) = self.changes.threads.pop_first() {
                self.evaluate_thread(&thread);
            }
            self.migrate_next();
        }
        if std::mem::take(&mut self.changes.requests) {
            self.schedule();
        }
        if std::mem::take(&mut self.changes.demands) {
            self.attach_demanded();
            self.changes.loads_changed();
        }
        if std::mem::take(&mut self.changes.attaches) {
            self.attach_next();
        }
        if std::mem::take(&mut self.changes.migration) {
            self.migrate_next();
        }
        if std::mem::take(&mut self.changes.loads) {
            self.recover_orphaned();
            self.changes.recovery = true;
        }
        if std::mem::take(&mut self.changes.unloaded_goals) {
            self.load_goals();
        }
        while let Some(client) = self.changes.dedicated.pop_first() {
            self.close_drained(client);
        }
        if std::mem::take(&mut self.changes.holdings) {
            self.retire_drained_servers();
        }
    }
}
