//! The supervisor: a tiny resident process that is the parent of the app-server.
//!
//! It starts the server, reaps it, records how it ended, restarts it with backoff, bounds its logs, and ends it with
//! everything it started. Commands give it orders over a socket; it leaves when it has nothing left to keep.
//!
//! Invariants
//! - One supervisor per home: it holds `supervisor.lock` while it lives.
//! - It wakes only for events (a signal, the end of the server, a command, a grown log) and for a deadline it has set.
//! - It says in `supervisor.json` that it is about to start a server *before* it does, and writes the pid record right after,
//!   so a server that was started by a supervisor that was killed in between is found by its mark.
//! - It never asks the server anything and knows nothing of the protocol; it only looks who listens on its socket.
//! - If it dies the server lives on: its logs are plain files and it is in a group of its own. The next supervisor takes it
//!   over by identity; what it cannot know then is the exit code, which only a parent is told.
//!
//! No async runtime, no database: it must stay small enough to be forgotten.

mod actions;
mod adopt;
mod clients;
mod connection;
mod control_listener;
mod control_socket_holder;
mod current_launch_spec;
pub mod former_names;
mod generation_socket;
mod inbox;
mod managed_process;
mod missing_program;
mod observe;
mod orders;
#[cfg(test)]
mod recorded;
mod relinquish;
mod run;
mod send_order;
mod server;
mod server_socket;
mod signals;
mod sockets;
mod state;
mod state_reports;
mod sweeps;
mod thread_settings;
mod watches;
mod wire;
mod wrapper;

pub use connection::{ConnectionError, GatewaySeen, SupervisorConnection};
pub use control_socket_holder::holds_control_socket;
pub use current_launch_spec::current_launch_spec;
pub use generation_socket::free_generation_socket;
pub use observe::{Seen, answers, await_free_lock, connect, is_command, is_identified, is_one, observe};
pub use run::{SupervisorError, run};
pub use state::{
    GatewayState, OtherState, StatePhase, SupervisorState, read as read_state,
    read_of_any_place as read_state_of_any_place, settle,
};
pub use wire::{Generation, Order, Refusal, Report, line as wire_line};
