//! Decisions and contract types of codexd.
//!
//! Nothing in this crate touches a file, a socket, a clock or another process: every decision is a function of what it
//! is handed, so property tests can drive it through hundreds of thousands of histories. What the outside world reads
//! (JSON fields, error codes, file formats) is defined here too, in [`contract`] and the record modules.

pub mod clock;
pub mod config;
pub mod contract;
pub mod foreign_text;
pub mod generations;
pub mod home_state;
pub mod identity;
pub mod launch_spec;
pub mod lifecycle;
pub mod limits;
pub mod lstart;
pub mod os_text;
pub mod plural;
pub mod record;
pub mod supervise;
