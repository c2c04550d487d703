//! Why an install failed.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use codexd_core::foreign_text::quote;

use crate::step::Step;

/// Why an install failed. `current` leads to what it led to before, except after [`Step::Selected`].
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The source cannot be used now.
    #[error("cannot reach {source_name}: {}", quote(why))]
    Unreachable {
        /// The source.
        source_name: String,
        /// What it said.
        why: String,
    },
    /// The official installer failed.
    #[error("the installer failed: {why}")]
    ScriptFailed {
        /// How it failed.
        why: String,
        /// The end of what it printed.
        output: String,
    },
    /// The source does not have the version.
    #[error("{source_name} does not have Codex {version}{}", found_text(found.as_deref()))]
    VersionNotFound {
        /// The source.
        source_name: String,
        /// The version.
        version: String,
        /// What the source has instead.
        found: Option<String>,
    },
    /// A digest differs from the expected one.
    #[error("the {digest} digest of {subject} is {} instead of {}", quote(found), quote(expected))]
    DigestMismatch {
        /// What was hashed.
        subject: String,
        /// The algorithm.
        digest: &'static str,
        /// What the source says.
        expected: String,
        /// What it is.
        found: String,
    },
    /// The package is not what it should be.
    #[error("{} is not a valid package: {why}", path.display())]
    ArchiveInvalid {
        /// The package.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The package is too large.
    #[error("{} has more than {limit}", path.display())]
    TooLarge {
        /// The package.
        path: PathBuf,
        /// The limit, in words.
        limit: String,
    },
    /// Something is missing in the package, or it is for another machine.
    #[error("the package has no usable release: {why}")]
    Incomplete {
        /// What is missing.
        why: String,
    },
    /// The Codex in the package prints another version than its package states.
    #[error("the Codex in the package is {}, but the package states {expected}", quote(found))]
    OtherVersion {
        /// What the package states.
        expected: String,
        /// What the binary prints.
        found: String,
    },
    /// The newest version of the source is older than the release that is selected.
    #[error("the newest version of {source_name} is {offered}, which is older than the selected {current}")]
    Older {
        /// The source.
        source_name: String,
        /// Its newest version.
        offered: String,
        /// The selected one.
        current: String,
    },
    /// Another installer held the lock for too long.
    #[error("another installer held {} for {} s", path.display(), waited.as_secs())]
    Locked {
        /// The lock.
        path: PathBuf,
        /// How long this process waited.
        waited: Duration,
        /// The holder, as it describes itself.
        holder: Option<String>,
    },
    /// The source took too long.
    #[error("{what} did not end within {} s and was stopped", waited.as_secs())]
    TimedOut {
        /// What took too long.
        what: String,
        /// How long it had.
        waited: Duration,
    },
    /// Codex is not published for this machine.
    #[error("there is no Codex release for this machine ({})", std::env::consts::ARCH)]
    NoTarget,
    /// A file or folder of the home.
    #[error("failed to {what} {}: {error}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The error of the system.
        #[source]
        error: io::Error,
    },
    /// The observer stopped the install.
    #[error("the install was stopped after the step {0:?}")]
    Stopped(Step),
}

impl InstallError {
    /// An error of the file system, for `map_err`.
    pub fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::File { what, path: path.to_owned(), error }
    }

    /// A package that is not valid.
    pub fn invalid(path: &Path, why: impl Into<String>) -> Self {
        Self::ArchiveInvalid { path: path.to_owned(), why: why.into() }
    }
}

fn found_text(found: Option<&str>) -> String {
    found.map(|found| format!("; it has {}", quote(found))).unwrap_or_default()
}
