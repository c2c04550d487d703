//! What runs the processes of a home: the supervisor, and systemd above it where that is used.

pub mod backend;
pub mod launchd;
pub mod supervisor;
pub mod systemd;
