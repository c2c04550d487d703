//! Unpacks a package without trusting it: a gzipped tar archive with regular files, folders and links that stay inside.
//!
//! Refused are absolute paths, `..`, paths through a link, hard links, devices, sparse files, duplicate names, and more bytes or entries
//! than a [`Bounds`] allows. Owners, times and modes of the archive do not count: a file is executable or not. Links are created last, so
//! nothing is written through one.

mod entry;

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use tar::EntryType;

use crate::error::InstallError;
use crate::limits::{ARCHIVE_BYTES_MAX, CHUNK_BYTES, ENTRIES_MAX, UNPACKED_BYTES_MAX};
use entry::{Names, name_of};

pub use entry::stays_inside;

/// What a package may have.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Bounds {
    /// Bytes of the archive.
    pub archive_bytes: u64,
    /// Bytes of all of its contents.
    pub unpacked_bytes: u64,
    /// Files, folders and links.
    pub entries: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { archive_bytes: ARCHIVE_BYTES_MAX, unpacked_bytes: UNPACKED_BYTES_MAX, entries: ENTRIES_MAX }
    }
}

/// Unpacks the archive into a folder that exists and is empty. `progress` gets the bytes that were unpacked so far.
///
/// # Errors
/// [`InstallError::ArchiveInvalid`], [`InstallError::TooLarge`]; the error of the file system.
pub fn unpack(
    archive: &Path,
    into: &Path,
    bounds: Bounds,
    progress: &mut dyn FnMut(u64),
) -> Result<(), InstallError> {
    let file = File::open(archive).map_err(InstallError::file("open", archive))?;
    let size = file.metadata().map_err(InstallError::file("read", archive))?.len();
    if size > bounds.archive_bytes {
        return Err(too_large(archive, bounds.archive_bytes, "bytes"));
    }
    let unpacked = Counted { inner: GzDecoder::new(file), left: bounds.unpacked_bytes };
    let mut archived = tar::Archive::new(unpacked);
    let mut unpacker = Unpacker {
        archive,
        into,
        bounds,
        links: Vec::new(),
        link_paths: BTreeSet::new(),
        made: BTreeSet::new(),
        names: Names::default(),
        done: 0,
        progress,
    };
    let wrong = |error: io::Error| read_error(archive, bounds, &error);
    let mut entries = 0;
    for entry in archived.entries().map_err(wrong)?.raw(true) {
        entries += 1;
        if entries > bounds.entries {
            return Err(too_large(archive, bounds.entries, "entries"));
        }
        unpacker.take(entry.map_err(wrong)?)?;
    }
    // The end of the archive has a checksum, which a truncated one lacks.
    io::copy(&mut archived.into_inner(), &mut io::sink()).map_err(wrong)?;
    unpacker.create_links()
}

fn too_large(archive: &Path, limit: u64, what: &str) -> InstallError {
    InstallError::TooLarge { path: archive.to_owned(), limit: format!("{limit} {what}") }
}

/// The error of a read: [`Counted`] reports its limit as `FileTooLarge`.
fn read_error(archive: &Path, bounds: Bounds, error: &io::Error) -> InstallError {
    match error.kind() {
        io::ErrorKind::FileTooLarge => too_large(archive, bounds.unpacked_bytes, "bytes once unpacked"),
        io::ErrorKind::UnexpectedEof => InstallError::invalid(archive, "it is truncated"),
        _ => InstallError::invalid(archive, error.to_string()),
    }
}

/// Reads at most so many bytes.
struct Counted<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(count as u64).ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(count)
    }
}

/// A link of the archive, which is created after all files.
struct Link {
    at: PathBuf,
    target: PathBuf,
}

struct Unpacker<'a> {
    archive: &'a Path,
    into: &'a Path,
    bounds: Bounds,
    links: Vec<Link>,
    link_paths: BTreeSet<PathBuf>,
    /// The files and links so far, by their path in the archive.
    made: BTreeSet<PathBuf>,
    names: Names,
    done: u64,
    progress: &'a mut dyn FnMut(u64),
}

impl Unpacker<'_> {
    fn take(&mut self, mut entry: tar::Entry<'_, impl Read>) -> Result<(), InstallError> {
        let archive = self.archive;
        let invalid = |why: String| InstallError::invalid(archive, why);
        let kind = entry.header().entry_type();
        if self.names.take(&mut entry).map_err(invalid)? {
            return Ok(());
        }
        let (path, target) = self.names.of(&entry).map_err(invalid)?;
        if path.as_os_str().is_empty() {
            return Ok(());
        }
        if path.ancestors().any(|folder| self.link_paths.contains(folder)) {
            return Err(invalid(format!("`{}` is behind a link", path.display())));
        }
        match kind {
            EntryType::Directory => self.create_folder(&path),
            EntryType::Regular | EntryType::Continuous => self.create_file(&path, &mut entry),
            EntryType::Symlink => self.remember_link(&path, target),
            other => Err(invalid(format!("`{}` is {}", path.display(), name_of(other)))),
        }
    }

    fn create_folder(&self, path: &Path) -> Result<(), InstallError> {
        let folder = self.into.join(path);
        if path.ancestors().any(|folder| self.made.contains(folder)) {
            return Err(InstallError::invalid(self.archive, format!("`{}` is there twice", path.display())));
        }
        let made = DirBuilder::new().recursive(true).mode(0o755).create(&folder);
        made.map_err(InstallError::file("create", &folder))
    }

    /// Checks that the path is new, and creates its folders.
    fn claim(&mut self, path: &Path) -> Result<(), InstallError> {
        if let Some(parent) = path.parent() {
            self.create_folder(parent)?;
        }
        if !self.made.insert(path.to_owned()) || self.into.join(path).symlink_metadata().is_ok() {
            return Err(InstallError::invalid(self.archive, format!("`{}` is there twice", path.display())));
        }
        Ok(())
    }

    fn create_file(
        &mut self,
        path: &Path,
        entry: &mut tar::Entry<'_, impl Read>,
    ) -> Result<(), InstallError> {
        self.claim(path)?;
        let mode =
            entry.header().mode().map_err(|error| InstallError::invalid(self.archive, error.to_string()))?;
        let at = self.into.join(path);
        let failed = |error| InstallError::File { what: "write", path: at.clone(), error };
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&at).map_err(failed)?;
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut left = entry.size();
        while left > 0 {
            let count = match entry.read(&mut chunk) {
                Ok(0) => return Err(InstallError::invalid(self.archive, "it is truncated")),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(read_error(self.archive, self.bounds, &error)),
            };
            file.write_all(&chunk[..count]).map_err(failed)?;
            left = left.saturating_sub(count as u64);
            self.done += count as u64;
            (self.progress)(self.done);
        }
        let mode = if mode & 0o100 == 0 { 0o644 } else { 0o755 };
        file.set_permissions(Permissions::from_mode(mode)).map_err(failed)
    }

    fn remember_link(&mut self, path: &Path, target: Option<PathBuf>) -> Result<(), InstallError> {
        let target = target.unwrap_or_default();
        if !stays_inside(path, &target) {
            let why = format!("the link `{}` to `{}` leaves the package", path.display(), target.display());
            return Err(InstallError::invalid(self.archive, why));
        }
        self.claim(path)?;
        self.link_paths.insert(path.to_owned());
        self.links.push(Link { at: path.to_owned(), target });
        Ok(())
    }

    fn create_links(self) -> Result<(), InstallError> {
        for link in &self.links {
            let at = self.into.join(&link.at);
            symlink(&link.target, &at).map_err(InstallError::file("create", &at))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
