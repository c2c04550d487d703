//! `settings.json` on disk, which upstream's daemon shares. A damaged file is copied before it is replaced.

use std::io;
use std::path::PathBuf;

use codexd_core::config::{self, ParsedSettings, SharedSettings};

use crate::atomic::{self, Durability};
use crate::home::Home;

/// Reads the settings; the defaults if the file is missing.
///
/// # Errors
/// The file cannot be read.
pub fn read(home: &Home) -> io::Result<ParsedSettings> {
    Ok(atomic::read(&home.settings())?.map(|bytes| config::parse_settings(&bytes)).unwrap_or_default())
}

/// Writes the settings so that they survive a power cut.
///
/// # Errors
/// The file cannot be replaced; the old one is unchanged then.
pub fn write(home: &Home, settings: &SharedSettings) -> io::Result<()> {
    atomic::replace(&home.settings(), settings.to_text().as_bytes(), Durability::Power)
}

/// Copies a damaged file, then replaces it by the settings that could be read. Returns the path of the copy. If this process is killed at any
/// point, the file is as it was or repaired.
///
/// # Errors
/// Errors of the file system. The damaged file is unchanged then, and there is no copy.
pub fn repair(home: &Home, parsed: &ParsedSettings) -> io::Result<PathBuf> {
    let aside = atomic::keep_copy(&home.settings())?;
    if let Err(error) = write(home, &parsed.settings) {
        let _ = std::fs::remove_file(&aside);
        return Err(error);
    }
    Ok(aside)
}

#[cfg(test)]
mod tests {
    use super::{Home, read, repair};

    const DEFECTIVE: &str = r#"{"remoteControlEnabled":true,"shutdownGraceSeconds":"soon"}"#;

    fn home() -> (tempfile::TempDir, Home) {
        let folder = tempfile::tempdir().expect("a folder");
        let home = Home::new(folder.path());
        home.create_state().expect("made");
        std::fs::write(home.settings(), DEFECTIVE).expect("written");
        (folder, home)
    }

    #[test]
    fn valid_settings_are_kept_and_the_old_file_is_copied() {
        let (_folder, home) = home();
        let aside = repair(&home, &read(&home).expect("read")).expect("repaired");
        assert_eq!(std::fs::read_to_string(aside).expect("kept"), DEFECTIVE);
        let repaired = read(&home).expect("read");
        assert!(repaired.defects.is_empty() && repaired.settings.to_text().contains("true"));
    }

    #[test]
    fn settings_that_cannot_be_repaired_stay_unchanged() {
        let (_folder, home) = home();
        // The temporary file cannot be written.
        let beside = home.state_file(&format!("settings.json.{}.tmp", std::process::id()));
        std::fs::create_dir(&beside).expect("in the way");
        repair(&home, &read(&home).expect("read")).expect_err("cannot be written");
        assert_eq!(std::fs::read_to_string(home.settings()).expect("there"), DEFECTIVE);
        let names = std::fs::read_dir(home.state_dir()).expect("listed").filter_map(Result::ok);
        assert_eq!(names.filter(|entry| entry.file_name() != beside.file_name().expect("named")).count(), 1);
    }
}
