//! Codex on disk: which binary to run, its version, and the releases in a home.
//!
//! Invariants: the native binary is run, never a wrapper that would hide the app-server's process; a version is never guessed from a
//! path, but printed by the binary; what a package manager installed is never written to; `current` leads to a complete release that was
//! proved, whenever the process or the machine stops.

pub mod archive;
pub mod digest;
pub mod error;
pub mod find;
mod found_codex;
pub mod install;
pub mod limits;
mod npm;
pub mod process_group;
pub mod source;
pub mod step;
pub mod store;
pub mod version;
pub mod version_order;

pub use error::InstallError;
pub use find::{FoundCodex, Looked, NotFound, Search, find, is_script};
pub use step::{Observer, Phase, Progress, Step};
pub use version::{VersionCache, VersionError, VersionTimeout};
