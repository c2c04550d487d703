//! Codex on disk: which binary to run, and its version.
//!
//! Invariants: the native binary is run, never a wrapper that would hide the app-server's process; a version is never guessed from a
//! path, but printed by the binary; nothing here writes to an installation.

pub mod find;
mod found_codex;
mod npm;
pub mod version;

pub use find::{FoundCodex, Looked, NotFound, Search, find, is_script};
pub use version::{VersionCache, VersionError, VersionTimeout};
