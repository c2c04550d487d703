//! The settings on disk. A file that cannot be read as it should is kept aside before anything is written in its place.

use std::io;
use std::path::PathBuf;

use codexd_core::settings::{self, ParsedSettings, Settings};

use crate::atomic::{self, Durability};
use crate::home::Home;

/// Reads the settings; an absent file holds the defaults.
///
/// # Errors
/// The file system's, but for absence.
pub fn read(home: &Home) -> io::Result<ParsedSettings> {
    Ok(atomic::read(&home.settings())?.map(|bytes| settings::parse(&bytes)).unwrap_or_default())
}

/// Writes the settings so that they survive a power cut.
///
/// # Errors
/// The file system's; the old file is untouched then.
pub fn write(home: &Home, settings: &Settings) -> io::Result<()> {
    atomic::replace(&home.settings(), settings.to_text().as_bytes(), Durability::Power)
}

/// Keeps a copy of a defective file aside, then writes what could be read of it; answers where the copy is. Killed at any
/// point, the settings are there: as they were or repaired.
///
/// # Errors
/// The file system's; the defective file is untouched then, and there is no copy.
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
    fn what_was_good_goes_on_and_the_old_file_is_kept() {
        let (_folder, home) = home();
        let aside = repair(&home, &read(&home).expect("read")).expect("repaired");
        assert_eq!(std::fs::read_to_string(aside).expect("kept"), DEFECTIVE);
        let repaired = read(&home).expect("read");
        assert!(repaired.defects.is_empty() && repaired.settings.remote_control_enabled);
    }

    #[test]
    fn settings_that_cannot_be_mended_stay_as_they_are() {
        let (_folder, home) = home();
        // What is to be renamed over the settings cannot be written.
        let beside = home.state_file(&format!("settings.json.{}.tmp", std::process::id()));
        std::fs::create_dir(&beside).expect("in the way");
        repair(&home, &read(&home).expect("read")).expect_err("cannot be written");
        assert_eq!(std::fs::read_to_string(home.settings()).expect("there"), DEFECTIVE);
        let names = std::fs::read_dir(home.state_dir()).expect("listed").filter_map(Result::ok);
        assert_eq!(names.filter(|entry| entry.file_name() != beside.file_name().expect("named")).count(), 1);
    }
}
