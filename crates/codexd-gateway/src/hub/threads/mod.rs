//! Threads: the state of each thread, its notifications and viewers, what a viewer that joins late gets, and when a thread
//! is loaded and unloaded.

pub(super) mod catch_up;
pub(super) mod lineage;
pub(super) mod loading;
pub(super) mod notifications;
pub(super) mod thread;
pub(super) mod thread_events;
pub(super) mod thread_lists;
pub(super) mod thread_settings;
pub(super) mod unload;
