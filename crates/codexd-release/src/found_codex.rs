//! A Codex that was found.

use std::ffi::OsString;
use std::path::PathBuf;

use codexd_core::contract::CodexSource;

/// A usable Codex.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FoundCodex {
    /// The path where it was found, which may be a link or a wrapper.
    pub path: PathBuf,
    /// Where that path comes from.
    pub source: CodexSource,
    /// The native binary to run.
    pub executable: PathBuf,
    /// Folders that its package adds to PATH.
    pub path_folders: Vec<PathBuf>,
    /// Variables that its package sets, which show Codex how it was installed.
    pub variables: Vec<(OsString, OsString)>,
}
