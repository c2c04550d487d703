//! The way of a release from its source to `current`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::archive::{self, Bounds};
use crate::digest::{Expected, sha256_hex, sha512_base64};
use crate::error::InstallError;
use crate::source::{self, Fetched, Offer, Source, Wanted, is_version};
use crate::step::{Observer, Phase, Progress, Step};
use crate::store::Store;
use crate::store::durable::{create_folder, publish_folder, remove_tree, sync_folder, sync_tree};
use crate::store::layout::{self, Layout};
use crate::store::lock::InstallLock;
use crate::store::record::Marker;
use crate::version_order::compare;

/// What to install.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The version.
    pub wanted: &'a Wanted,
    /// The source.
    pub source: &'a Source,
    /// How long to wait for another installer.
    pub lock_timeout: Duration,
    /// What a package may have.
    pub bounds: Bounds,
}

/// A release that is to be proved before it is selected.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// The version that it must have; none if its package states none.
    pub version: Option<&'a str>,
    /// Its folder.
    pub release: &'a Path,
    /// Its native binary.
    pub executable: &'a Path,
    /// A private folder for the files of the proof, which is removed afterwards.
    pub scratch: &'a Path,
}

/// How an install ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// The release is new.
    Installed,
    /// It was there, and was selected.
    Selected,
    /// It was selected before.
    Unchanged,
}

/// What was installed.
#[derive(Clone, Debug)]
pub struct Installed {
    /// How it ended.
    pub outcome: Outcome,
    /// The name of the release.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its folder.
    pub path: PathBuf,
    /// The release that was selected before.
    pub previous: Option<String>,
    /// Releases that were removed.
    pub removed: Vec<String>,
    /// The verified digest of the package; none if the source has none.
    pub digest: Option<String>,
}

/// Installs a release and selects it. `prove` decides whether it may be selected, and returns its version; `is_in_use` tells whether a
/// process still runs from a release, which then stays.
///
/// # Errors
/// Why not: of the install, or of `prove`. `current` leads to what it led to before, and what was unpacked is removed.
pub fn install<E: From<InstallError>>(
    store: &Store,
    request: &Request<'_>,
    prove: &mut dyn FnMut(&Candidate<'_>) -> Result<String, E>,
    is_in_use: &dyn Fn(&Path) -> bool,
    observer: &mut dyn Observer,
) -> Result<Installed, E> {
    let paths = store.paths();
    create_folder(&paths.releases())?;
    let _lock = InstallLock::take(paths, request.lock_timeout, &mut |holder| {
        observer.progress(Progress { phase: Phase::Waiting, subject: holder, done: None, total: None });
    })?;
    reached(observer, Step::Locked)?;
    store.clean()?;
    reached(observer, Step::Cleaned)?;
    let offer = source::look_up(request.source, request.wanted, observer)?;
    let staging = paths.staging("codexd");
    let mut install = Install { store, request, staging: &staging, observer };
    let result = install.run(&offer, prove, is_in_use);
    match result {
        Err(Failed::Install(InstallError::Stopped(step))) => Err(InstallError::Stopped(step).into()),
        other => {
            let removed = remove_tree(&staging);
            let done = other.map_err(|failed| match failed {
                Failed::Install(error) => E::from(error),
                Failed::Proof(error) => error,
            })?;
            removed?;
            Ok(done)
        }
    }
}

fn reached(observer: &mut dyn Observer, step: Step) -> Result<(), InstallError> {
    if observer.reached(step) { Ok(()) } else { Err(InstallError::Stopped(step)) }
}

enum Failed<E> {
    Install(InstallError),
    Proof(E),
}

impl<E> From<InstallError> for Failed<E> {
    fn from(error: InstallError) -> Self {
        Self::Install(error)
    }
}

/// A release in the staging folder, or one that has its name already.
struct Staged {
    path: PathBuf,
    version: Option<String>,
    layout: Layout,
    digest: Option<String>,
    is_published: bool,
}

struct Install<'a> {
    store: &'a Store,
    request: &'a Request<'a>,
    staging: &'a Path,
    observer: &'a mut dyn Observer,
}

impl Install<'_> {
    fn run<E>(
        &mut self,
        offer: &Offer,
        prove: &mut dyn FnMut(&Candidate<'_>) -> Result<String, E>,
        is_in_use: &dyn Fn(&Path) -> bool,
    ) -> Result<Installed, Failed<E>> {
        self.check_offer(offer.version.as_deref())?;
        create_folder(self.staging)?;
        let staged = match offer.version.as_deref().and_then(|version| self.existing(version)) {
            Some(existing) => existing,
            None => self.stage(offer)?,
        };
        let candidate = Candidate {
            version: staged.version.as_deref(),
            release: &staged.path,
            executable: &layout::executable(&staged.path),
            scratch: self.staging,
        };
        let version = prove(&candidate).map_err(Failed::Proof)?;
        reached(self.observer, Step::Proved)?;
        if let Some(expected) = staged.version.clone().filter(|expected| *expected != version) {
            return Err(InstallError::OtherVersion { expected, found: version }.into());
        }
        self.check_offer(Some(&version))?;
        Ok(self.publish(staged, version, is_in_use)?)
    }

    /// A complete release of a version that is there.
    fn existing(&self, version: &str) -> Option<Staged> {
        let release = self.store.release(&self.store.name_of(version))?;
        Some(Staged {
            layout: release.layout.ok()?,
            digest: release.marker.and_then(|marker| marker.digest),
            path: release.path,
            version: Some(version.to_owned()),
            is_published: true,
        })
    }

    /// Checks that a version is the wanted one, and not older than the selected one unless it was asked for by its number.
    fn check_offer(&self, version: Option<&str>) -> Result<(), InstallError> {
        let source_name = self.request.source.to_string();
        match (self.request.wanted, version) {
            (Wanted::Version(wanted), Some(found)) if wanted != found => {
                let (version, found) = (wanted.clone(), Some(found.to_owned()));
                Err(InstallError::VersionNotFound { source_name, version, found })
            }
            (Wanted::Newest, Some(offered)) if self.request.source.is_remote() => {
                let current = self.store.current().and_then(|name| self.store.release(&name));
                match current.map(|release| release.version) {
                    Some(current) if compare(offered, &current).is_lt() => {
                        Err(InstallError::Older { source_name, offered: offered.to_owned(), current })
                    }
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    fn stage(&mut self, offer: &Offer) -> Result<Staged, InstallError> {
        let fetched = self.staging.join("fetched");
        create_folder(&fetched)?;
        let fetched = source::fetch(offer, &fetched, self.request.bounds, self.observer)?;
        reached(self.observer, Step::Fetched)?;
        let (package, digest) = match fetched {
            Fetched::Folder(package) => (package, None),
            Fetched::Archive { path, expected } => {
                let digest = self.verify(&path, expected.as_ref())?;
                reached(self.observer, Step::Verified)?;
                (self.unpack(&path)?, digest)
            }
        };
        reached(self.observer, Step::Unpacked)?;
        let found = layout::find(&package, self.store.target())?;
        let version = found.version.clone().or_else(|| offer.version.clone());
        if version.as_deref().is_some_and(|version| !is_version(version)) {
            let why = "the version that it states is not valid".to_owned();
            return Err(InstallError::Incomplete { why });
        }
        self.check_offer(version.as_deref())?;
        let path = self.staging.join("release");
        let layout = found.arrange(&path, self.store.target())?;
        reached(self.observer, Step::Arranged)?;
        Ok(Staged { path, version, layout, digest, is_published: false })
    }

    /// Compares the digest of an archive with the expected one. What the source does not state is only reported.
    fn verify(
        &mut self,
        archive: &Path,
        expected: Option<&Expected>,
    ) -> Result<Option<String>, InstallError> {
        let read = InstallError::file("read", archive);
        let size = archive.metadata().map(|found| found.len());
        let size = size.map_err(InstallError::file("read", archive))?;
        if size > self.request.bounds.archive_bytes {
            let limit = format!("{} bytes", self.request.bounds.archive_bytes);
            return Err(InstallError::TooLarge { path: archive.to_owned(), limit });
        }
        let subject = name_of(archive);
        let observer = &mut *self.observer;
        let mut progress = |done| {
            let (done, total) = (Some(done), Some(size));
            observer.progress(Progress { phase: Phase::Verifying, subject: &subject, done, total });
        };
        let (digest, found) = match expected {
            Some(Expected::Sha256(_)) => ("sha256", sha256_hex(archive, &mut progress)),
            Some(Expected::Sha512(_)) | None => ("sha512", sha512_base64(archive, &mut progress)),
        };
        let found = found.map_err(read)?;
        match expected {
            Some(Expected::Sha256(expected) | Expected::Sha512(expected)) if *expected != found => {
                Err(InstallError::DigestMismatch { subject, digest, expected: expected.clone(), found })
            }
            _ => Ok(Some(format!("{digest}-{found}"))),
        }
    }

    fn unpack(&mut self, archive: &Path) -> Result<PathBuf, InstallError> {
        let package = self.staging.join("unpacked");
        create_folder(&package)?;
        let subject = name_of(archive);
        let observer = &mut *self.observer;
        archive::unpack(archive, &package, self.request.bounds, &mut |done| {
            observer.progress(Progress {
                phase: Phase::Unpacking,
                subject: &subject,
                done: Some(done),
                total: None,
            });
        })?;
        Ok(package)
    }

    /// Gives the release its name and selects it.
    fn publish(
        &mut self,
        staged: Staged,
        version: String,
        is_in_use: &dyn Fn(&Path) -> bool,
    ) -> Result<Installed, InstallError> {
        let (store, name) = (self.store, self.store.name_of(&version));
        let path = store.paths().release(&name);
        // The source may not have known the version before, and a complete release of it may be in use.
        let is_new = !staged.is_published && self.existing(&version).is_none();
        if is_new {
            self.sync(&staged, &version)?;
            publish_folder(&staged.path, &path)?;
        }
        reached(self.observer, Step::Published)?;
        let previous = store.current();
        let is_selected = previous.as_deref() == Some(name.as_str());
        store.select(&name, *self.request.wanted == Wanted::Newest)?;
        reached(self.observer, Step::Selected)?;
        store.record(&name, previous.as_deref())?;
        reached(self.observer, Step::Recorded)?;
        let removed = store.prune(is_in_use)?;
        reached(self.observer, Step::Pruned)?;
        let outcome = match (is_new, is_selected) {
            (true, _) => Outcome::Installed,
            (false, false) => Outcome::Selected,
            (false, true) => Outcome::Unchanged,
        };
        let previous = previous.filter(|_| !is_selected);
        Ok(Installed { outcome, name, version, path, previous, removed, digest: staged.digest })
    }

    /// Writes the marker, and everything to the disk.
    fn sync(&mut self, staged: &Staged, version: &str) -> Result<(), InstallError> {
        let marker = Marker {
            version: version.to_owned(),
            target: self.store.target().to_owned(),
            source: self.request.source.to_string(),
            digest: staged.digest.clone(),
            layout: staged.layout,
            installed_at: jiff::Timestamp::now().to_string(),
        };
        marker.write(&staged.path)?;
        let observer = &mut *self.observer;
        sync_tree(&staged.path, &mut |done| {
            let subject = "the release";
            observer.progress(Progress { phase: Phase::Syncing, subject, done: Some(done), total: None });
        })?;
        sync_folder(self.staging)?;
        reached(self.observer, Step::Synced)
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests;
