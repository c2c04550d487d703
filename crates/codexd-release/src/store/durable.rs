//! Changes of the disk that a power cut cannot leave half done: what is named is synced before it gets its name, and the folder after it.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use crate::error::InstallError;

/// Creates a folder that its owner may write to and all may read, with its parents. An existing one stays as it is.
///
/// # Errors
/// It cannot be created.
pub fn create_folder(path: &Path) -> Result<(), InstallError> {
    if path.is_dir() {
        return Ok(());
    }
    let failed = |error| InstallError::File { what: "create", path: path.to_owned(), error };
    if let Some(parent) = path.parent() {
        create_folder(parent)?;
    }
    match DirBuilder::new().mode(0o755).create(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => return Ok(()),
        other => other.map_err(failed)?,
    }
    // A umask may have removed rights.
    fs::set_permissions(path, Permissions::from_mode(0o755)).map_err(failed)?;
    path.parent().map_or(Ok(()), sync_folder)
}

/// Writes the entries of a folder to the disk.
///
/// # Errors
/// The sync failed: what is on the disk is unknown.
pub fn sync_folder(path: &Path) -> Result<(), InstallError> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(InstallError::file("sync", path))
}

/// Writes every file and folder of a tree to the disk. `progress` gets the bytes so far.
///
/// # Errors
/// A sync failed.
pub fn sync_tree(root: &Path, progress: &mut dyn FnMut(u64)) -> Result<(), InstallError> {
    let (mut folders, mut done) = (vec![root.to_owned()], 0);
    while let Some(folder) = folders.pop() {
        for entry in entries(&folder)? {
            let path = entry.path();
            let metadata = entry.metadata().map_err(InstallError::file("read", &path))?;
            if metadata.is_dir() {
                folders.push(path);
            } else if metadata.is_file() {
                File::open(&path)
                    .and_then(|file| file.sync_all())
                    .map_err(InstallError::file("sync", &path))?;
                done += metadata.len();
                progress(done);
            }
        }
        sync_folder(&folder)?;
    }
    Ok(())
}

/// The entries of a folder; none if it does not exist.
///
/// # Errors
/// It cannot be read.
pub fn entries(folder: &Path) -> Result<Vec<fs::DirEntry>, InstallError> {
    let failed = |error| InstallError::File { what: "read", path: folder.to_owned(), error };
    match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        found => found.map_err(failed)?.collect::<io::Result<_>>().map_err(failed),
    }
}

/// Replaces a file by `contents`; `beside` is the name until then.
///
/// # Errors
/// The old file is unchanged.
pub fn replace_file(path: &Path, beside: &Path, contents: &[u8]) -> Result<(), InstallError> {
    let failed = |error| InstallError::File { what: "write", path: path.to_owned(), error };
    remove_file(beside)?;
    let written =
        OpenOptions::new().write(true).create_new(true).mode(0o644).open(beside).and_then(|mut file| {
            file.write_all(contents)?;
            file.sync_all()
        });
    written.and_then(|()| fs::rename(beside, path)).map_err(failed)?;
    path.parent().map_or(Ok(()), sync_folder)
}

/// Replaces a link by one to `target`; `beside` is the name until then.
///
/// # Errors
/// The old link is unchanged.
pub fn replace_link(path: &Path, beside: &Path, target: &Path) -> Result<(), InstallError> {
    remove_file(beside)?;
    symlink(target, beside)
        .and_then(|()| fs::rename(beside, path))
        .map_err(InstallError::file("change", path))?;
    path.parent().map_or(Ok(()), sync_folder)
}

/// Gives a folder its final name. A folder of that name, which is of no use, changes places with it and so stays under the old name.
///
/// # Errors
/// Nothing has changed.
pub fn publish_folder(staged: &Path, path: &Path) -> Result<(), InstallError> {
    let failed =
        |error: Errno| InstallError::File { what: "create", path: path.to_owned(), error: error.into() };
    match rustix::fs::renameat_with(CWD, staged, CWD, path, RenameFlags::NOREPLACE) {
        Err(Errno::EXIST) => rustix::fs::renameat_with(CWD, staged, CWD, path, RenameFlags::EXCHANGE),
        other => other,
    }
    // Not every file system knows the flags. The caller holds the lock, so nothing else creates the folder.
    .or_else(|error| match error {
        Errno::INVAL if path.symlink_metadata().is_err() => rustix::fs::rename(staged, path),
        Errno::INVAL => {
            let aside = staged.with_added_extension("useless");
            rustix::fs::rename(path, &aside).and_then(|()| rustix::fs::rename(staged, path))
        }
        error => Err(error),
    })
    .map_err(failed)?;
    path.parent().map_or(Ok(()), sync_folder)
}

/// Removes a file or a link. A missing one is no error.
///
/// # Errors
/// It cannot be removed.
pub fn remove_file(path: &Path) -> Result<(), InstallError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(InstallError::file("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Removes a folder with everything in it, or a file. Links are not followed. A missing one is no error.
///
/// # Errors
/// Something cannot be removed.
#[expect(
    clippy::disallowed_methods,
    reason = "the caller has an unfinished or unused release, which an installer created"
)]
pub fn remove_tree(path: &Path) -> Result<(), InstallError> {
    let is_folder = path.symlink_metadata().is_ok_and(|found| found.is_dir());
    let removed = if is_folder { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(InstallError::file("remove", path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::{create_folder, publish_folder, remove_tree, replace_file, replace_link};
    use std::fs;

    #[test]
    fn a_folder_replaces_a_useless_one_and_never_disappears() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        for (name, text) in [("new", "new"), ("old", "old")] {
            create_folder(&at(name)).expect("made");
            fs::write(at(name).join("x"), text).expect("written");
        }
        publish_folder(&at("new"), &at("fresh")).expect("published");
        publish_folder(&at("fresh"), &at("old")).expect("exchanged");
        assert_eq!(fs::read_to_string(at("old/x")).expect("read"), "new");
        assert_eq!(fs::read_to_string(at("fresh/x")).expect("read"), "old");
        remove_tree(&at("fresh")).expect("removed");
        remove_tree(&at("fresh")).expect("absent is no error");
        assert!(!at("fresh").exists());
    }

    #[test]
    fn a_link_and_a_file_are_replaced_and_nothing_is_left_beside_them() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        for target in ["a", "b"] {
            replace_link(&at("current"), &at(".current.1"), target.as_ref()).expect("linked");
            assert_eq!(fs::read_link(at("current")).expect("a link"), std::path::Path::new(target));
            replace_file(&at("file"), &at("file.tmp"), target.as_bytes()).expect("written");
            assert_eq!(fs::read_to_string(at("file")).expect("read"), target);
        }
        assert_eq!(fs::read_dir(folder.path()).expect("listed").count(), 2);
    }
}
