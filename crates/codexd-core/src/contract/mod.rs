//! What programs read: the one JSON object of every command, the error codes, the events.
//!
//! Field names are camelCase as upstream's, error codes kebab-case. Both are promises: fields may be added, never
//! renamed or removed, and a code never changes its meaning or its exit code.

pub mod error;
pub mod event;
pub mod lifecycle;
pub mod problem;
pub mod status;

pub use error::{ErrorCode, Failure};
pub use event::{EventLevel, EventRecord};
pub use lifecycle::{
    Backend, BootstrapReply, CodexSource, LifecycleReply, LifecycleStatus, RemoteControlReply, Repair,
    UninstallReply,
};
pub use status::{State, StatusReport};
