//! The gateway: the only thing that listens, in front of app-servers that come and go.
//!
//! [`host`] is the seam to whoever runs it: what it is handed, what it is told, what it asks for. It does not know which
//! service manager that is.

pub mod host;
pub mod hub;
mod limits;
pub mod routes;
mod shell;

pub use host::run;
