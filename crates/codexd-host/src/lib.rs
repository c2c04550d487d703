//! This machine: process identity, locks, files, logs, and the service manager that runs the app-server.
//!
//! Invariants: a pid is never trusted without its boot id and start ticks; a file that matters is replaced as a whole; no other program
//! is needed, except `systemctl` where systemd runs the processes. Linux comes first: `/proc` and pidfds are used in [`process`], [`process_table`], [`orphans`] and
//! [`service::supervisor`], behind types that another platform can implement. macOS is untested.

pub mod atomic;
pub mod clock;
pub mod cloexec;
pub mod config_file;
pub mod elsewhere;
pub mod events;
pub mod home;
pub mod home_ownership;
pub mod launch;
pub mod lock;
pub mod logs;
pub mod memory_trim;
pub mod orphans;
pub mod ownership;
pub mod pid_namespace;
pub mod pid_record;
pub mod poll;
pub mod process;
pub mod process_context;
pub mod process_table;
pub mod service;
pub mod settings_file;
pub mod socket_path;
pub mod upstream_files;
pub mod users;

pub use home::Home;
