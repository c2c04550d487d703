//! App-servers and the connections to them: one shared connection per app-server, one dedicated connection per client
//! that needs one, and the resources that are bound to a connection.
//!
//! Invariants: nothing is sent over a connection that is not open; a dedicated connection to an outgoing app-server
//! closes once nothing runs on it. Failure: a lost connection is opened again with backoff; a refused client identity
//! is replaced by another client's.

pub(super) mod backoff;
pub(super) mod connection_bound;
pub(super) mod dedicated;
pub(super) mod dedicated_requests;
pub(super) mod identity;
pub(super) mod process_state;
pub(super) mod servers;
