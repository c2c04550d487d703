//! Clients: `initialize`, what one client may make the gateway keep, what is replayed on another app-server, and what
//! ends with a client.
//!
//! Invariants: `initialize` is answered once per attempt; everything that one client can make grow has a bound.
//! Failure: without an app-server, `initialize` fails with `appServerUnavailable` after `QUEUED_MAX_MS` and the client
//! may retry.

pub(super) mod bounds;
pub(super) mod client;
pub(super) mod connect_notifications;
mod disconnect;
pub(super) mod initialize;
pub(super) mod replayed_settings;
pub(super) mod unanswered;
