//! Clients: their identity, `initialize`, what one client may make the gateway keep, what is replayed for a client on
//! another app-server, and what ends with a client.

pub(super) mod bounds;
pub(super) mod client;
mod disconnect;
pub(super) mod initialize;
pub(super) mod replayed_settings;
