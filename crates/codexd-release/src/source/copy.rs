//! Copies an unpacked package, by the rules of an archive: regular files, folders, and links that stay inside.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::archive::{Bounds, stays_inside};
use crate::error::InstallError;
use crate::limits::{CHUNK_BYTES, FOLDER_DEPTH_MAX};
use crate::store::durable::{create_folder, entries};

/// Copies the folder `from` to `to`, which does not exist. `progress` gets the bytes so far.
///
/// # Errors
/// The package has something else in it, or is too large; the error of the file system.
pub fn copy_tree(
    from: &Path,
    to: &Path,
    bounds: Bounds,
    progress: &mut dyn FnMut(u64),
) -> Result<(), InstallError> {
    let mut copier = Copier { from, to, bounds, bytes: 0, entries: 0, links: Vec::new(), progress };
    copier.copy_folder(Path::new(""))?;
    for (path, target) in copier.links {
        let at = to.join(path);
        symlink(target, &at).map_err(InstallError::file("create", &at))?;
    }
    Ok(())
}

struct Copier<'a> {
    from: &'a Path,
    to: &'a Path,
    bounds: Bounds,
    bytes: u64,
    entries: u64,
    links: Vec<(PathBuf, PathBuf)>,
    progress: &'a mut dyn FnMut(u64),
}

impl Copier<'_> {
    fn copy_folder(&mut self, path: &Path) -> Result<(), InstallError> {
        if path.components().count() > FOLDER_DEPTH_MAX {
            return Err(InstallError::invalid(self.from, "its folders are nested too deep"));
        }
        create_folder(&self.to.join(path))?;
        for entry in entries(&self.from.join(path))? {
            self.entries += 1;
            if self.entries > self.bounds.entries {
                return Err(self.too_large(self.bounds.entries, "entries"));
            }
            let path = path.join(entry.file_name());
            let at = self.from.join(&path);
            let kind = entry.file_type().map_err(InstallError::file("read", &at))?;
            if kind.is_dir() {
                self.copy_folder(&path)?;
            } else if kind.is_file() {
                self.copy_file(&path)?;
            } else if kind.is_symlink() {
                let target = fs::read_link(&at).map_err(InstallError::file("read", &at))?;
                if !stays_inside(&path, &target) {
                    let why = format!("the link `{}` to `{}` leaves it", path.display(), target.display());
                    return Err(InstallError::invalid(self.from, why));
                }
                self.links.push((path, target));
            } else {
                return Err(InstallError::invalid(self.from, format!("`{}` is no file", path.display())));
            }
        }
        Ok(())
    }

    fn copy_file(&mut self, path: &Path) -> Result<(), InstallError> {
        let (from, to) = (self.from.join(path), self.to.join(path));
        let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or_default();
        let mut source = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(&from)
            .map_err(InstallError::file("open", &from))?;
        let mode = source.metadata().map_err(InstallError::file("read", &from))?.permissions().mode();
        let mut copy = File::create_new(&to).map_err(InstallError::file("create", &to))?;
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let count = source.read(&mut chunk).map_err(InstallError::file("read", &from))?;
            if count == 0 {
                break;
            }
            self.bytes += count as u64;
            if self.bytes > self.bounds.unpacked_bytes {
                return Err(self.too_large(self.bounds.unpacked_bytes, "bytes"));
            }
            copy.write_all(&chunk[..count]).map_err(InstallError::file("write", &to))?;
            (self.progress)(self.bytes);
        }
        let mode = if mode & 0o100 == 0 { 0o644 } else { 0o755 };
        copy.set_permissions(Permissions::from_mode(mode)).map_err(InstallError::file("write", &to))
    }

    fn too_large(&self, limit: u64, what: &str) -> InstallError {
        InstallError::TooLarge { path: self.from.to_owned(), limit: format!("{limit} {what}") }
    }
}

#[cfg(test)]
mod tests {
    use super::copy_tree;
    use crate::archive::Bounds;
    use crate::error::InstallError;
    use std::fs;
    use std::os::unix::fs::symlink;

    const SMALL: Bounds = Bounds { archive_bytes: 0, unpacked_bytes: 10, entries: 4 };

    #[test]
    fn files_and_links_inside_are_copied_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |path: &str| folder.path().join(path);
        fs::create_dir_all(at("from/bin")).expect("made");
        fs::write(at("from/bin/codex"), "12345").expect("written");
        symlink("bin/codex", at("from/codex")).expect("linked");
        copy_tree(&at("from"), &at("to"), SMALL, &mut |_| {}).expect("copied");
        assert_eq!(fs::read_to_string(at("to/codex")).expect("read"), "12345");
        symlink("../../x", at("from/bin/x")).expect("linked");
        let refused = copy_tree(&at("from"), &at("to2"), SMALL, &mut |_| {});
        assert!(matches!(refused, Err(InstallError::ArchiveInvalid { .. })), "{refused:?}");
        fs::remove_file(at("from/bin/x")).expect("removed");
        fs::write(at("from/more"), "1234567").expect("written");
        let refused = copy_tree(&at("from"), &at("to3"), SMALL, &mut |_| {});
        assert!(matches!(refused, Err(InstallError::TooLarge { .. })), "{refused:?}");
    }
}
