//! The unit files of a home on disk, and the links that enable them.
//!
//! Where a user manager runs, `systemctl` enables and disables; [`remove_links`] does the same without one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::names::UnitNames;
use super::units::UnitFile;
use crate::atomic::{self, Durability};

/// The folder of the unit files that this user has installed (systemd.unit(5)).
pub fn folder() -> Option<PathBuf> {
    let named = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|folder| folder.is_absolute());
    let config = named.or_else(|| std::env::home_dir().map(|home| home.join(".config")));
    config.filter(|folder| folder.is_absolute()).map(|folder| folder.join("systemd/user"))
}

/// The unit files of a home that are in `folder`, with their text.
///
/// # Errors
/// The file system's.
pub fn read(folder: &Path, names: &UnitNames) -> io::Result<Vec<UnitFile>> {
    let mut found = Vec::new();
    for name in names.files() {
        if let Some(bytes) = atomic::read(&folder.join(&name))? {
            found.push(UnitFile { name, text: String::from_utf8_lossy(&bytes).into_owned() });
        }
    }
    Ok(found)
}

/// Makes the unit files of a home those of `files`: others are removed, the same ones are not touched.
///
/// # Errors
/// The file system's. The files that were written before the error stay.
pub fn write(folder: &Path, names: &UnitNames, files: &[UnitFile]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let all = names.files();
    atomic::remove_abandoned(folder, &all.each_ref().map(String::as_str));
    let before = read(folder, names)?;
    for file in files.iter().filter(|file| !before.contains(file)) {
        atomic::replace(&folder.join(&file.name), file.text.as_bytes(), Durability::Power)?;
    }
    let is_wanted = |name: &str| files.iter().any(|file| file.name == name);
    for file in before.iter().filter(|file| !is_wanted(&file.name)) {
        atomic::remove_if_exists(&folder.join(&file.name))?;
    }
    Ok(())
}

/// The links in `folder` that lead to units of the home: `default.target.wants/codexd-….service` and the like.
pub fn links(folder: &Path, names: &UnitNames) -> Vec<PathBuf> {
    let files = names.files();
    let folders = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let dependencies = folders
        .filter(|path| matches!(path.extension().and_then(|name| name.to_str()), Some("wants" | "requires")));
    let entries = dependencies.flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten());
    let paths = entries.map(|entry| entry.path());
    let is_ours = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        path.is_symlink() && name.is_some_and(|name| files.iter().any(|file| file == name))
    };
    paths.filter(is_ours).collect()
}

/// Removes the links. Folders that are empty then are removed, too.
///
/// # Errors
/// The file system's.
pub fn remove_links(folder: &Path, names: &UnitNames) -> io::Result<()> {
    for link in links(folder, names) {
        fs::remove_file(&link)?;
        if let Some(folder) = link.parent() {
            // Other links may be in it.
            let _ = fs::remove_dir(folder);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{links, read, remove_links, write};
    use crate::home::Home;
    use crate::service::systemd::{UnitFile, UnitNames};
    use std::os::unix::fs::symlink;

    fn file(name: String, text: &str) -> UnitFile {
        UnitFile { name, text: text.to_owned() }
    }

    #[test]
    fn files_and_links_of_other_homes_are_not_touched() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = root.path().join("systemd/user");
        let (ours, theirs) =
            (UnitNames::of(&Home::new("/nonexistent/a")), UnitNames::of(&Home::new("/nonexistent/b")));
        write(&folder, &ours, &[file(ours.supervisor(), "a"), file(ours.socket(), "b")]).expect("written");
        write(&folder, &theirs, &[file(theirs.supervisor(), "c")]).expect("written");
        let wants = folder.join("default.target.wants");
        std::fs::create_dir(&wants).expect("made");
        for name in [ours.supervisor(), theirs.supervisor()] {
            symlink(folder.join(&name), wants.join(&name)).expect("linked");
        }
        assert_eq!(links(&folder, &ours), [wants.join(ours.supervisor())]);
        remove_links(&folder, &ours).expect("removed");
        assert_eq!(links(&folder, &ours).len() + links(&folder, &theirs).len(), 1);
        write(&folder, &ours, &[file(ours.supervisor(), "d")]).expect("written");
        assert_eq!(read(&folder, &ours).expect("read"), [file(ours.supervisor(), "d")]);
        write(&folder, &ours, &[]).expect("removed");
        assert_eq!(read(&folder, &ours).expect("read"), []);
        assert_eq!(read(&folder, &theirs).expect("read").len(), 1);
    }
}
