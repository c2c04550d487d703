//! The paths of the managed releases in a home, as the official installer has them.

use std::path::{Path, PathBuf};

/// The beginning of the name of each unfinished release. The official installer removes such folders, and so does codexd.
pub const STAGING_PREFIX: &str = ".staging.";
/// The beginning of the name of each unfinished `current`, of which the same is true.
pub const LINK_PREFIX: &str = ".current.";

/// The paths below `CODEX_HOME/packages/standalone`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StorePaths {
    root: PathBuf,
}

impl StorePaths {
    /// The paths in a home.
    pub fn of_home(codex_home: &Path) -> Self {
        Self { root: codex_home.join("packages/standalone") }
    }

    /// The folder of all of it.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of the releases.
    pub fn releases(&self) -> PathBuf {
        self.root.join("releases")
    }

    /// The folder of one release.
    pub fn release(&self, name: &str) -> PathBuf {
        self.releases().join(name)
    }

    /// The link to the release in use.
    pub fn current(&self) -> PathBuf {
        self.root.join("current")
    }

    /// The lock of all installers.
    pub fn lock(&self) -> PathBuf {
        self.root.join("install.lock")
    }

    /// The lock of the official installer where flock(1) is missing.
    pub fn lock_folder(&self) -> PathBuf {
        self.root.join("install.lock.d")
    }

    /// Names the selected release if that was selected as the newest one, and not as a certain version.
    pub fn newest_marker(&self) -> PathBuf {
        self.root.join("auto-update-version")
    }

    /// What codexd remembers of the releases.
    pub fn record(&self) -> PathBuf {
        self.root.join("codexd-releases.json")
    }

    /// The folder of an unfinished release.
    pub fn staging(&self, name: &str) -> PathBuf {
        self.releases().join(format!("{STAGING_PREFIX}{name}.{}", std::process::id()))
    }

    /// A link that becomes `current`.
    pub fn next_current(&self) -> PathBuf {
        self.root.join(format!("{LINK_PREFIX}{}", std::process::id()))
    }
}
