//! The Codex app-server protocol as codexd needs it: the envelope of a message, Unix sockets whose path may be
//! longer than the kernel's 108 bytes, WebSocket as functions of bytes, and a blocking client that asks a server for its `initialize` answer.
//!
//! Invariants: a message is parsed only as far as its envelope; parameters and results stay raw text, so fields and
//! methods that this crate has never heard of pass through untouched. Nothing here starts a thread or a runtime.

pub mod check;
pub mod envelope;
mod limits;
pub mod methods;
pub mod probe;
pub mod session;
pub mod unix;
pub mod websocket;

pub use check::check;
pub use envelope::{Message, RequestId, parse};
