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

/// Keeps a defective file aside and writes what could be read of it; answers where the old one is.
///
/// # Errors
/// The file system's.
pub fn mend(home: &Home, parsed: &ParsedSettings) -> io::Result<PathBuf> {
    let aside = atomic::keep_aside(&home.settings())?;
    write(home, &parsed.settings)?;
    Ok(aside)
}
