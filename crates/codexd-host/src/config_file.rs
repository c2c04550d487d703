//! `codexd.toml` on disk, and the configuration that the files of a home alone make.

use std::io;
use std::path::PathBuf;

use codexd_core::config::{Config, Facts, Levels, resolve};

use crate::atomic::{self, Durability};
use crate::home::Home;
use crate::settings_file;

/// Reads the file; `None` if there is none.
///
/// # Errors
/// The file system's, but for absence.
pub fn read(home: &Home) -> io::Result<Option<Vec<u8>>> {
    atomic::read(&home.config())
}

/// Writes the file so that it survives a power cut. A link of the user's is followed.
///
/// # Errors
/// The file system's; the old file is untouched then.
pub fn write(home: &Home, text: &str) -> io::Result<()> {
    let path = home.config();
    let target = if path.is_symlink() { path.canonicalize()? } else { path };
    atomic::replace(&target, text.as_bytes(), Durability::Power)
}

/// The machine, the user and the home.
pub fn facts(home: &Home) -> Facts {
    Facts {
        host_name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        user_home: std::env::home_dir().filter(|home| home.is_absolute() && home.is_dir()),
        codex_home: home.root().to_owned(),
        current_dir: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
    }
}

/// The configuration of the files alone, for a process that does not have the environment of a command. What cannot be read or is
/// not valid is passed over: commands report it.
pub fn of_files(home: &Home) -> Config {
    let contents = read(home).ok().flatten();
    let path = home.config();
    let parsed = settings_file::read(home).unwrap_or_default();
    let levels = Levels {
        facts: &facts(home),
        shared: (&parsed.settings, &home.settings()),
        file: contents.as_deref().map(|contents| (contents, path.as_path())),
        environment: &|_| None,
        flags: &[],
    };
    resolve(&levels).0
}

#[cfg(test)]
mod tests {
    use super::{Home, of_files, read, write};
    use std::os::unix::fs::symlink;

    fn home() -> (tempfile::TempDir, Home) {
        let folder = tempfile::tempdir().expect("a folder");
        let home = Home::new(folder.path().canonicalize().expect("there"));
        home.create_state().expect("made");
        (folder, home)
    }

    #[test]
    fn the_files_make_a_configuration_whatever_is_in_them() {
        let (_folder, home) = home();
        assert_eq!((read(&home).expect("read"), of_files(&home).umask()), (None, 0o022));
        std::fs::write(home.settings(), r#"{"umask":"027"}"#).expect("written");
        assert_eq!(of_files(&home).umask(), 0o027, "not moved yet");
        write(&home, "umask = \"077\"\nunknown = 1\n").expect("written");
        assert_eq!(of_files(&home).umask(), 0o077);
        std::fs::write(home.config(), b"a\n\xff").expect("written");
        assert_eq!(of_files(&home).umask(), 0o027);
    }

    #[test]
    fn a_link_of_the_user_stays_a_link() {
        let (folder, home) = home();
        let target = folder.path().join("dotfiles.toml");
        std::fs::write(&target, "umask = \"027\"\n").expect("written");
        symlink(&target, home.config()).expect("linked");
        assert_eq!(of_files(&home).umask(), 0o027);
        write(&home, "umask = \"077\"\n").expect("written");
        assert!(home.config().is_symlink());
        assert_eq!(std::fs::read_to_string(target).expect("there"), "umask = \"077\"\n");
    }
}
