//! Codex on disk: which binary to run, what it is, and whether it works.
//!
//! Invariants: what is run is the native binary, never a wrapper that would hide the process we must own; a version is
//! never guessed from a path, it is what the binary said; nothing here writes to an installation.

pub mod find;
mod found_codex;
mod npm;
pub mod version;

pub use find::{FoundCodex, Looked, NotFound, Search, find, is_script};
pub use version::{VersionCache, VersionError, VersionTimeout};
