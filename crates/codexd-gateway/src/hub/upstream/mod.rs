//! App-servers and the connections to them: one shared connection for each app-server, one dedicated connection for each
//! client that needs one, and the resources that are bound to a connection.

pub(super) mod backoff;
pub(super) mod connection_bound;
pub(super) mod dedicated;
pub(super) mod dedicated_requests;
pub(super) mod process_state;
pub(super) mod servers;
