//! The releases in a home: `CODEX_HOME/packages/standalone`, as the official installer has it.
//!
//! Every change is made under the install lock. A release gets its name when it is complete and on the disk, and `current` leads to it
//! afterwards, in one rename. So `current` leads to a complete release whenever this process or the machine stops. What is unfinished then
//! has a name that the next installer removes.

pub mod durable;
pub mod layout;
pub mod lock;
pub mod paths;
pub mod record;

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::InstallError;
use durable::{entries, remove_file, remove_tree, replace_file, replace_link};
use layout::Layout;
use paths::{LINK_PREFIX, STAGING_PREFIX, StorePaths};
use record::{Marker, Record};

/// The releases in a home.
#[derive(Clone, Debug)]
pub struct Store {
    paths: StorePaths,
    target: &'static str,
}

/// A release in a home.
#[derive(Clone, Debug)]
pub struct Release {
    /// Its name, `<version>-<target>`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its folder.
    pub path: PathBuf,
    /// Its layout, or what is missing in it.
    pub layout: Result<Layout, String>,
    /// What codexd wrote into it; none if another installer created it.
    pub marker: Option<Marker>,
}

impl Store {
    /// The releases in a home.
    ///
    /// # Errors
    /// [`InstallError::NoTarget`].
    pub fn of_home(codex_home: &Path) -> Result<Self, InstallError> {
        let target = crate::npm::target().ok_or(InstallError::NoTarget)?;
        Ok(Self { paths: StorePaths::of_home(codex_home), target })
    }

    /// The paths.
    pub fn paths(&self) -> &StorePaths {
        &self.paths
    }

    /// The machine that releases are for.
    pub fn target(&self) -> &'static str {
        self.target
    }

    /// The name of the release of a version.
    pub fn name_of(&self, version: &str) -> String {
        format!("{version}-{}", self.target)
    }

    /// The release of a name, complete or not.
    pub fn release(&self, name: &str) -> Option<Release> {
        let path = self.paths.release(name);
        let version = name.strip_suffix(self.target)?.strip_suffix('-')?.to_owned();
        path.is_dir().then(|| Release {
            layout: layout::completeness(&path, self.target),
            marker: Marker::read(&path),
            name: name.to_owned(),
            version,
            path,
        })
    }

    /// Every release for this machine, in the order of their names.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn releases(&self) -> Result<Vec<Release>, InstallError> {
        let entries = entries(&self.paths.releases())?;
        let names = entries.iter().filter_map(|entry| entry.file_name().into_string().ok());
        let mut releases: Vec<Release> = names.filter_map(|name| self.release(&name)).collect();
        releases.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(releases)
    }

    /// The name of the release that `current` leads to; none if it leads elsewhere or does not exist.
    pub fn current(&self) -> Option<String> {
        let target = fs::canonicalize(self.paths.current()).ok()?;
        let is_here = target.parent()? == fs::canonicalize(self.paths.releases()).ok()?;
        is_here.then(|| target.file_name()?.to_str().map(str::to_owned))?
    }

    /// Removes what an interrupted installer left behind. The install lock is held.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub fn clean(&self) -> Result<(), InstallError> {
        for (folder, prefix) in
            [(self.paths.releases(), STAGING_PREFIX), (self.paths.root().to_owned(), LINK_PREFIX)]
        {
            for entry in entries(&folder)? {
                if entry.file_name().to_string_lossy().starts_with(prefix) {
                    remove_tree(&entry.path())?;
                }
            }
        }
        Ok(())
    }

    /// Lets `current` lead to a release. The install lock is held. As the official installer does, it notes whether the release was selected
    /// as the newest one.
    ///
    /// # Errors
    /// `current` is unchanged, or leads to the release without the note.
    pub fn select(&self, name: &str, as_newest: bool) -> Result<(), InstallError> {
        let (current, marker) = (self.paths.current(), self.paths.newest_marker());
        if !as_newest {
            remove_file(&marker)?;
        }
        let release = self.paths.release(name);
        if fs::read_link(&current).ok().as_deref() != Some(release.as_path()) {
            replace_link(&current, &self.paths.next_current(), &release)?;
        }
        if as_newest && fs::read(&marker).ok().as_deref() != Some(name.as_bytes()) {
            replace_file(&marker, &self.paths.next_current(), name.as_bytes())?;
        }
        Ok(())
    }

    /// Records a release that was selected. The install lock is held.
    ///
    /// # Errors
    /// The record is unchanged.
    pub fn record(&self, name: &str, before: Option<&str>) -> Result<(), InstallError> {
        let mut record = Record::read(&self.paths.record());
        let before = before.filter(|before| *before != name);
        if record.selected.first().is_some_and(|first| first == name) && before.is_none() {
            return Ok(());
        }
        record.select(name, before);
        record.write(&self.paths.record(), &self.paths.next_current())
    }

    /// The release that was in use before the current one.
    pub fn previous(&self) -> Option<Release> {
        let current = self.current()?;
        let record = Record::read(&self.paths.record());
        self.release(record.previous(&current)?).filter(|release| release.layout.is_ok())
    }

    /// Removes the releases that codexd created, except the one in use, the one before it, and those that `is_in_use`. The install lock is
    /// held. Returns the names of the removed ones.
    ///
    /// # Errors
    /// A release cannot be removed; it has no name any more then.
    pub fn prune(&self, is_in_use: &dyn Fn(&Path) -> bool) -> Result<Vec<String>, InstallError> {
        let kept = [self.current(), self.previous().map(|release| release.name)];
        let mut removed = Vec::new();
        for release in self.releases()? {
            let is_kept = kept.iter().flatten().any(|name| *name == release.name);
            if is_kept || release.marker.is_none() || is_in_use(&release.path) {
                continue;
            }
            let unnamed = self.paths.staging(&release.name);
            fs::rename(&release.path, &unnamed).map_err(InstallError::file("remove", &release.path))?;
            remove_tree(&unnamed)?;
            removed.push(release.name);
        }
        Ok(removed)
    }
}
