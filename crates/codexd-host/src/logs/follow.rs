//! Follows a log, also over its rotations.
//!
//! An offset does not identify a position in the log: a rotation removes bytes from the front, and their number is not recorded. So a
//! follower remembers the last bytes that it has seen. Every read checks that they still precede the new bytes. If not, the follower
//! searches for them at the end of the rotated file and the log together. Its memory is bounded, whatever the sizes.
//!
//! Failure modes: a follower that is delayed until more than [`LOG_SEARCHED_BYTES`] were written misses older lines.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use codexd_core::limits::{LOG_CHUNK_BYTES, LOG_LINES_MAX_BYTES, LOG_REMEMBERED_BYTES, LOG_SEARCHED_BYTES};

use super::{last_bytes, rotated};
use crate::atomic;

/// Follows one log.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    file: File,
    /// The offset up to which the file has been seen.
    shown: u64,
    /// The last bytes that were seen; they may begin in the rotated file.
    seen: Vec<u8>,
    /// The rotated file at that time.
    older: Option<(u64, u64)>,
}

impl Follower {
    /// A follower at the end of the log at `path`.
    ///
    /// # Errors
    /// The log cannot be read; `NotFound` if there is none yet.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = atomic::open_regular(path)?;
        let shown = file.metadata()?.len();
        let from = shown.saturating_sub(LOG_REMEMBERED_BYTES as u64);
        let mut seen =
            vec![0; LOG_REMEMBERED_BYTES.min(usize::try_from(shown).unwrap_or(LOG_REMEMBERED_BYTES))];
        file.read_exact_at(&mut seen, from)?;
        let older = atomic::open_regular(&rotated(path)).ok().and_then(|file| identity(&file));
        Ok(Self { path: path.to_owned(), file, shown, seen, older })
    }

    /// The last `count` lines before the follower's position, unchanged.
    pub fn last_lines(&self, count: usize) -> Vec<u8> {
        last_bytes(&self.path, self.shown, count, LOG_LINES_MAX_BYTES)
    }

    /// Writes to `out` the bytes that were added since the last call.
    ///
    /// # Errors
    /// The log cannot be read, or `out` fails.
    pub fn copy_new(&mut self, out: &mut impl Write) -> io::Result<()> {
        let mut buffer = vec![0; LOG_REMEMBERED_BYTES + LOG_CHUNK_BYTES];
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

    /// Finds the position again after a rotation, and writes the bytes after it to `out`.
    fn find_again(&mut self, out: &mut impl Write) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        let mut end = Vec::new();
        if let Some(room) = LOG_SEARCHED_BYTES.checked_sub(length)
            && let Ok(older) = atomic::open_regular(&rotated(&self.path))
        {
            // The same rotated file as before has nothing new: the log was cut without a copy.
            let identity = identity(&older);
            if identity != self.older {
                self.older = identity;
                end = end_of(&older, older.metadata()?.len(), room)?;
            }
        }
        let own = end_of(&self.file, length, LOG_SEARCHED_BYTES)?;
        end.extend_from_slice(&own);
        let new = &end[self.place_in(&end)..];
        out.write_all(new)?;
        self.shown = length.saturating_sub(LOG_SEARCHED_BYTES) + own.len() as u64;
        remember(&mut self.seen, &end);
        Ok(())
    }

    /// The offset after the bytes that were seen last; 0 if they are not there.
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

/// The last `max_bytes` before `length`; fewer if the file has become shorter.
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
    seen.extend_from_slice(&new[new.len().saturating_sub(LOG_REMEMBERED_BYTES)..]);
    seen.drain(..seen.len().saturating_sub(LOG_REMEMBERED_BYTES));
}
