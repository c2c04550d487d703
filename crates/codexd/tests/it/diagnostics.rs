//! What helps to find out what a home does: logs, waits, completions, text on a terminal.

mod completions;
mod hub;
mod logs;
mod terminal;
mod wait;
