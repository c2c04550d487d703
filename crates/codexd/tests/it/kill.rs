//! kill -9 of the verb, of the keeper and of the app-server, at every step; then the verb again: the same end, never two
//! servers on one home, no orphan, and nobody ever has to delete a file.
//!
//! Every server of these tests writes down that it serves and looks for others that do, so that two that overlap for a
//! moment are seen as surely as two that stay (see [`house`]).

mod concurrent;
mod house;
mod inherited;
mod keeper;
mod recycled;
mod server;
mod turns;
mod verb;
