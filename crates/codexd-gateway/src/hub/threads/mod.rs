//! Threads: the state of each thread, its notifications and viewers, what a late viewer receives, its settings, and
//! when it is loaded and unloaded.
//!
//! Invariants: one upstream subscription per thread; a thread is not unloaded while that could cut a turn. Failure: a
//! thread whose app-server is lost is `Orphaned` until `recovery` loads it again; a refused load is retried with
//! backoff.

pub(super) mod attaching;
pub(super) mod catch_up;
pub(super) mod deferred;
pub(super) mod lineage;
pub(super) mod loading;
pub(super) mod notifications;
pub(super) mod profile;
pub(super) mod state;
pub(super) mod table;
pub(super) mod thread;
pub(super) mod thread_events;
pub(super) mod thread_lists;
pub(super) mod thread_settings;
pub(super) mod unload;
