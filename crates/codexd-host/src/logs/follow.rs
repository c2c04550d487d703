//! Going on where one was in a log, also over its rotations.
//!
//! A place in the log is no number: a rotation cuts off the front, by an amount that is not recorded. So a follower remembers the
//! last bytes that it has seen. It checks with every read that they still stand before the new ones, and where they do not
//! looks for them at the end of what the rotated file and the log hold together. Memory is bounded, whatever the size of
//! either.
//!
//! Failure modes: a follower that is held up for so long that more than [`SEARCHED_BYTES`] came misses what is older.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use codexd_core::limits::LOG_LINES_MAX_BYTES;

use super::{CHUNK_BYTES, last_bytes, rotated};
use crate::atomic;

/// So much of what was seen is remembered: enough not to stand in a log twice.
const REMEMBERED_BYTES: usize = 1 << 10;
/// After a rotation so much of the end is looked through.
const SEARCHED_BYTES: u64 = 1 << 20;

/// Follows one log.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    file: File,
    /// What is before this place in the file has been seen.
    shown: u64,
    /// The last bytes of it; they may reach back into the rotated file.
    seen: Vec<u8>,
    /// Which rotated file there was.
    older: Option<(u64, u64)>,
}

impl Follower {
    /// A follower at the end of the log at `path`.
    ///
    /// # Errors
    /// The file system's, `NotFound` if there is no log yet.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = atomic::open_regular(path)?;
        let shown = file.metadata()?.len();
        let from = shown.saturating_sub(REMEMBERED_BYTES as u64);
        let mut seen = vec![0; REMEMBERED_BYTES.min(usize::try_from(shown).unwrap_or(REMEMBERED_BYTES))];
        file.read_exact_at(&mut seen, from)?;
        let older = atomic::open_regular(&rotated(path)).ok().and_then(|file| identity(&file));
        Ok(Self { path: path.to_owned(), file, shown, seen, older })
    }

    /// The last `count` lines before the place where the follower is, as they are in the log.
    pub fn last_lines(&self, count: usize) -> Vec<u8> {
        last_bytes(&self.path, self.shown, count, LOG_LINES_MAX_BYTES)
    }

    /// Writes to `out` what has come since the last time.
    ///
    /// # Errors
    /// The file system's, or those of `out`.
    pub fn copy_new(&mut self, out: &mut impl Write) -> io::Result<()> {
        let mut buffer = vec![0; REMEMBERED_BYTES + CHUNK_BYTES];
        loop {
            let before = self.seen.len().min(usize::try_from(self.shown).unwrap_or(usize::MAX));
            let expected = &self.seen[self.seen.len() - before..];
            let read = read_up_to(&self.file, &mut buffer, self.shown - before as u64)?;
            match buffer[..read].strip_prefix(expected) {
                Some([]) => return Ok(()),
                Some(new) => {
                    out.write_all(new)?;
                    self.shown += new.len() as u64;
                    remember(&mut self.seen, new);
                }
                None => self.find_again(out)?,
            }
        }
    }

    /// Finds the place again after the front of the log was cut off, and writes to `out` what is behind it.
    fn find_again(&mut self, out: &mut impl Write) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        let mut end = Vec::new();
        if let Some(room) = SEARCHED_BYTES.checked_sub(length)
            && let Ok(older) = atomic::open_regular(&rotated(&self.path))
        {
            // One that was there before holds nothing new: then the log was cut and nothing kept.
            let identity = identity(&older);
            if identity != self.older {
                self.older = identity;
                end = end_of(&older, older.metadata()?.len(), room)?;
            }
        }
        let own = end_of(&self.file, length, SEARCHED_BYTES)?;
        end.extend_from_slice(&own);
        let new = &end[self.place_in(&end)..];
        out.write_all(new)?;
        self.shown = length.saturating_sub(SEARCHED_BYTES) + own.len() as u64;
        remember(&mut self.seen, &end);
        Ok(())
    }

    /// Behind what was seen last; the beginning if that is not there.
    fn place_in(&self, end: &[u8]) -> usize {
        let size = self.seen.len();
        if size == 0 {
            return 0;
        }
        end.windows(size).rposition(|window| window == self.seen).map_or(0, |at| at + size)
    }
}

fn identity(file: &File) -> Option<(u64, u64)> {
    file.metadata().ok().map(|found| (found.dev(), found.ino()))
}

/// The last `max_bytes` before `length`; less if the file is shorter by now.
fn end_of(file: &File, length: u64, max_bytes: u64) -> io::Result<Vec<u8>> {
    let size = length.min(max_bytes);
    let mut end = vec![0; usize::try_from(size).unwrap_or_default()];
    let read = read_up_to(file, &mut end, length - size)?;
    end.truncate(read);
    Ok(end)
}

fn read_up_to(file: &File, buffer: &mut [u8], from: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match file.read_at(&mut buffer[read..], from + read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

fn remember(seen: &mut Vec<u8>, new: &[u8]) {
    seen.extend_from_slice(&new[new.len().saturating_sub(REMEMBERED_BYTES)..]);
    seen.drain(..seen.len().saturating_sub(REMEMBERED_BYTES));
}
