//! kill -9 of the command, of the supervisor and of the app-server, at every step; then the command again: the same end, never two
//! servers on one home, no orphan, and no file that a user has to delete.
//!
//! Every server of these tests writes down that it serves and looks for others that do, so that two that overlap for a
//! moment are seen as surely as two that stay (see [`test_home`]).

mod command;
mod concurrent;
mod inherited;
mod recycled;
mod server;
mod supervisor;
mod test_home;

pub(crate) use test_home::sample;
mod turns;
