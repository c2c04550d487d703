//! The names in an archive: of an entry itself, or of an entry before it that only describes it.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use codexd_core::foreign_text::quote;
use tar::EntryType;

use crate::limits::{ENTRY_DESCRIPTION_BYTES_MAX, ENTRY_PATH_BYTES_MAX};

/// The long names for the next entry, in the forms of GNU tar and of POSIX.
#[derive(Debug, Default)]
pub struct Names {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
}

impl Names {
    /// Takes the names of an entry that only describes the next one, or all others. `false`: it is an entry of its own.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn take(&mut self, entry: &mut tar::Entry<'_, impl Read>) -> Result<bool, String> {
        match entry.header().entry_type() {
            EntryType::GNULongName => self.path = Some(without_end(read(entry)?)),
            EntryType::GNULongLink => self.target = Some(without_end(read(entry)?)),
            EntryType::XHeader => self.take_records(&read(entry)?)?,
            // It may hold a comment. Names for all entries make no sense.
            EntryType::XGlobalHeader => read(entry).map(drop)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Records of the form `LENGTH KEY=VALUE\n`.
    fn take_records(&mut self, mut text: &[u8]) -> Result<(), String> {
        const BAD: &str = "it has an extended header that is not valid";
        while !text.is_empty() {
            let blank = text.iter().position(|byte| *byte == b' ').ok_or(BAD)?;
            let length: usize =
                std::str::from_utf8(&text[..blank]).ok().and_then(|n| n.parse().ok()).ok_or(BAD)?;
            let record =
                text.get(blank + 1..length).and_then(|record| record.strip_suffix(b"\n")).ok_or(BAD)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or(BAD)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                b"path" => self.path = Some(value.to_owned()),
                b"linkpath" => self.target = Some(value.to_owned()),
                // The size in the header would be wrong.
                b"size" => return Err("it has a file whose size is in an extended header".to_owned()),
                key if key.starts_with(b"GNU.sparse") => return Err("it has a sparse file".to_owned()),
                _ => {}
            }
            text = &text[length..];
        }
        Ok(())
    }

    /// The path of an entry below the folder, and the target of a link. Both are forgotten afterwards.
    ///
    /// # Errors
    /// The path is absolute, leaves the folder, or is too long.
    pub fn of(&mut self, entry: &tar::Entry<'_, impl Read>) -> Result<(PathBuf, Option<PathBuf>), String> {
        let path = self.path.take().unwrap_or_else(|| entry.path_bytes().into_owned());
        let target = self.target.take().or_else(|| entry.link_name_bytes().map(std::borrow::Cow::into_owned));
        Ok((inside(&path)?, target.as_deref().map(plain).transpose()?))
    }
}

fn read(entry: &mut tar::Entry<'_, impl Read>) -> Result<Vec<u8>, String> {
    if entry.size() > ENTRY_DESCRIPTION_BYTES_MAX {
        return Err(format!("it has a header of {} bytes", entry.size()));
    }
    let mut text = Vec::new();
    entry.take(ENTRY_DESCRIPTION_BYTES_MAX).read_to_end(&mut text).map_err(|error| error.to_string())?;
    Ok(text)
}

fn without_end(mut text: Vec<u8>) -> Vec<u8> {
    while text.last() == Some(&0) {
        text.pop();
    }
    text
}

fn plain(bytes: &[u8]) -> Result<PathBuf, String> {
    if bytes.len() > ENTRY_PATH_BYTES_MAX || bytes.contains(&0) {
        return Err(format!("the name `{}` is too long", quote(&String::from_utf8_lossy(bytes))));
    }
    Ok(PathBuf::from(OsStr::from_bytes(bytes)))
}

/// The path of an entry, which must be below the folder.
fn inside(bytes: &[u8]) -> Result<PathBuf, String> {
    let path = plain(bytes)?;
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            _ => return Err(format!("the path `{}` leaves the package", quote(&path.to_string_lossy()))),
        }
    }
    Ok(clean)
}

/// Whether a link leads to a place inside of the folder. `..` may only begin the target: behind another link it would lead elsewhere.
pub fn stays_inside(link: &Path, target: &Path) -> bool {
    let mut depth = link.components().count().saturating_sub(1);
    let mut descends = false;
    if target.as_os_str().is_empty() {
        return false;
    }
    target.components().all(|part| match part {
        Component::Normal(_) => {
            descends = true;
            true
        }
        Component::CurDir => true,
        Component::ParentDir if !descends && depth > 0 => {
            depth -= 1;
            true
        }
        _ => false,
    })
}

/// A kind of entry that is refused, in words.
pub fn name_of(kind: EntryType) -> &'static str {
    match kind {
        EntryType::Link => "a hard link",
        EntryType::Char | EntryType::Block => "a device",
        EntryType::Fifo => "a FIFO",
        EntryType::GNUSparse => "a sparse file",
        _ => "an entry of an unknown kind",
    }
}
