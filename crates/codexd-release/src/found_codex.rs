//! A Codex that was found.

use std::ffi::OsString;
use std::path::PathBuf;

use codexd_core::contract::CodexSource;

/// A Codex.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FoundCodex {
    /// Where it was found, as a person would name it.
    pub path: PathBuf,
    /// Where that path comes from.
    pub source: CodexSource,
    /// The native binary to run.
    pub executable: PathBuf,
    /// What its package would add to the environment: PATH folders first, then variables.
    pub path_folders: Vec<PathBuf>,
    /// Variables that tell Codex how it was installed.
    pub variables: Vec<(OsString, OsString)>,
}
