//! Files that are never half there: written beside, then renamed over.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// How much a file must survive.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Durability {
    /// The death of any process, not that of the machine: what it says is void after a reboot anyway.
    Process,
    /// A power cut: the contents are synced before the rename and the folder after it.
    Power,
}

/// Replaces the file at `path` by `contents`, mode 0600.
///
/// # Errors
/// The file system's. Whatever goes wrong, the old file is untouched and no other file is left behind, unless the
/// process is killed in between: then a file named after it stays and the next call by the same pid writes over it.
pub fn replace(path: &Path, contents: &[u8], durability: Durability) -> io::Result<()> {
    let beside = beside(path);
    let result = write_and_rename(&beside, path, contents, durability);
    if result.is_err() {
        let _ = fs::remove_file(&beside);
    }
    result
}

fn write_and_rename(beside: &Path, path: &Path, contents: &[u8], durability: Durability) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(beside)?;
    file.write_all(contents)?;
    if durability == Durability::Power {
        file.sync_all()?;
    }
    drop(file);
    fs::rename(beside, path)?;
    if durability == Durability::Power
        && let Some(folder) = path.parent()
    {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    path.with_file_name(name)
}

/// Moves a file that cannot be used out of the way, to a name of its own beside it, and answers that name.
///
/// # Errors
/// The file system's.
pub fn keep_aside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let stamp = jiff::Timestamp::now().as_millisecond();
    let aside = path.with_file_name(format!("{name}.corrupt-{stamp}"));
    fs::rename(path, &aside)?;
    Ok(aside)
}

/// Reads a file that may be absent.
///
/// # Errors
/// The file system's, but for absence.
pub fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(contents) => Ok(Some(contents)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::{Durability, keep_aside, read, replace};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_replaced_file_is_private_and_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.json");
        replace(&path, b"1", Durability::Power).expect("written");
        replace(&path, b"2", Durability::Process).expect("written");
        assert_eq!(read(&path).expect("read").as_deref(), Some(b"2".as_slice()));
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).expect("listed").count(), 1);
    }

    #[test]
    fn a_bad_file_is_kept_under_another_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.json");
        std::fs::write(&path, "{ bad").expect("written");
        let aside = keep_aside(&path).expect("moved");
        assert_eq!(std::fs::read_to_string(aside).expect("kept"), "{ bad");
        assert_eq!(read(&path).expect("absent is no error"), None);
    }
}
