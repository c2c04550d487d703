//! The supervisor: a small resident process that is the parent of the app-server and the gateway.
//!
//! It starts the app-server, reaps it, records its exit, restarts it with backoff, bounds its logs, and ends it together with all
//! processes that it started. Commands send it orders over a socket. It exits when it has no process left to manage.
//!
//! Invariants
//! - One supervisor per home: it holds `supervisor.lock` while it runs.
//! - It wakes only for events (a signal, an exit, a command, a grown log) and for a deadline that it has set.
//! - It writes to `supervisor.json` that it is about to start an app-server *before* it does, and writes the pid record right after.
//!   So the app-server of a supervisor that was killed in between is found by its generation id.
//! - It knows nothing of the app-server protocol; it only checks which process listens on a socket.
//! - If it dies, the app-server keeps running: its logs are plain files and it has its own process group. The next supervisor adopts it by
//!   identity. Only its exit code is lost, because only a parent gets it.
//!
//! It has no async runtime and no database, so that it stays small.

mod actions;
mod adopt;
mod child_commands;
mod clients;
mod connection;
mod control_listener;
mod control_socket_holder;
mod current_launch_spec;
mod exits;
mod foreground;
pub mod former_names;
mod framing;
mod generation_socket;
mod inbox;
mod launch_plan;
mod launch_unit;
pub mod launcher;
mod launches;
mod managed_process;
mod memory_ceiling;
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
mod spawner;
mod stale_socket;
mod standalone;
mod state;
mod state_reports;
mod supervisor_socket;
mod sweeps;
mod thread_settings;
pub mod upgrade;
mod watches;
mod wire;
mod wrapper;

use std::fs::File;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use codexd_core::clock::Monotonic;
use codexd_core::generations::Generations;
use codexd_core::identity::Pid;

use crate::events::EventLog;
use crate::home::Home;
use child_commands::ChildCommands;
use clients::Clients;
use control_listener::ControlListener;
use foreground::Foreground;
use launches::Launches;
use managed_process::ManagedProcess;
use memory_ceiling::MemoryCheck;
use signals::Signals;
use sockets::ListenerSearch;
use spawner::Spawner;
use state_reports::PublishedState;
use sweeps::Sweeps;
use thread_settings::ThreadSettings;
use watches::Watches;

pub use child_commands::RUN_BY_SUPERVISOR;
pub use connection::{ConnectionError, GatewaySeen, SupervisorConnection};
pub use control_socket_holder::holds_control_socket;
pub use current_launch_spec::current_launch_spec;
pub use foreground::ServiceOptions;
pub use framing::line as wire_line;
pub use generation_socket::free_generation_socket;
pub use observe::{Seen, answers, await_free_lock, connect, is_command, is_identified, is_one, observe};
pub use run::{RunBy, SupervisorError, run};
pub use standalone::StandaloneOptions;
pub use state::{
    GatewayState, OtherState, StatePhase, SupervisorState, read as read_state,
    read_of_any_namespace as read_state_of_any_namespace, settle,
};
pub use wire::{Generation, LaunchedUnit, Order, Refusal, Report};

/// The state of a supervisor. The submodules implement its methods.
struct Supervisor {
    home: Home,
    log: EventLog,
    listener: UnixListener,
    signals: Signals,
    watches: Watches,
    clients: Clients,
    machine: Generations,
    table: Vec<ManagedProcess>,
    /// The control socket, once it is bound or a gateway has sent it back.
    control_listener: Option<ControlListener>,
    published: PublishedState,
    /// The processes of the previous supervisor were looked for.
    inherited: bool,
    state: SupervisorState,
    /// The last state of the previous supervisor.
    previous: Option<SupervisorState>,
    /// Some orphans could not be ended.
    orphaned: bool,
    /// Until when no connection is accepted, because no descriptor is free.
    accept_paused_until: Option<Monotonic>,
    /// Until when the removal of the state folder may still be under way.
    state_removed_until: Option<Monotonic>,
    listeners: ListenerSearch,
    thread_settings: ThreadSettings,
    sweeps: Sweeps,
    spawner: Spawner,
    launches: Launches,
    /// The gateway that listens on another socket than the one that systemd has bound.
    unreachable_gateway: Option<Pid>,
    /// `None` for a supervisor that a command has started.
    foreground: Option<Foreground>,
    /// The binary whose commands it runs. A newer one may have replaced its own.
    codexd: PathBuf,
    commands: ChildCommands,
    memory_check: MemoryCheck,
    /// The stop is due to a failed start.
    give_up: bool,
    /// It is about to exit.
    has_left: bool,
    lock: File,
}
