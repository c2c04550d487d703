//! The app-server's stdout and stderr on disk, with bounded size.
//!
//! The app-server writes to the files itself, so they continue when the supervisor dies. The supervisor bounds them: older content moves
//! to `<name>.1`, which has the same bound, and content older than that is dropped. If the file system can collapse the front of a file
//! (ext4, xfs), no line is lost. Elsewhere the file is copied and truncated, and a line written in the microseconds between may be
//! lost, because an app-server cannot be made to reopen its log.
//!
//! Failure modes: if nothing can be moved (full disk), both files stay unchanged until the log is far too large. Then it is cut without a
//! copy, which frees the disk.

mod follow;

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use codexd_core::limits::{LOG_CHUNK_BYTES, LOG_LINES_MAX_BYTES, LOG_OVERGROWN_FACTOR};
use rustix::fs::{FallocateFlags, OFlags};

use crate::{atomic, ownership};
pub use follow::Follower;

/// The front of a file is collapsed in whole file system blocks; every common block size divides this.
const CUT_ALIGNMENT: u64 = 64 << 10;

/// The outcome of a rotation.
#[derive(Debug)]
pub enum Rotation {
    /// The log is not too large.
    NotNeeded,
    /// The content was moved to the rotated file.
    Moved {
        /// Bytes at its beginning that did not fit and were dropped.
        dropped: u64,
    },
    /// The log was far too large and could not be moved, so it was cut.
    Cut {
        /// Dropped bytes.
        dropped: u64,
        /// Why they could not be moved.
        why: io::Error,
    },
}

/// Opens a log for a process to write to.
///
/// # Errors
/// The log cannot be opened.
pub fn open_for_append(path: &Path) -> io::Result<File> {
    let file = ownership::open_file(path, OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE)?;
    atomic::allow_owner(&file)?;
    Ok(file)
}

/// The file with the older content.
pub fn rotated(path: &Path) -> PathBuf {
    with_suffix(path, ".1")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

/// Moves the last `max_bytes` of a log that has grown past `max_bytes` to the rotated file. A log that is [`LOG_OVERGROWN_FACTOR`]
/// times too large is cut even if that fails.
///
/// # Errors
/// Errors of the file system. The log and the rotated file are unchanged then.
pub fn rotate_if_larger(path: &Path, max_bytes: u64) -> io::Result<Rotation> {
    let mut file = ownership::open_file(path, OFlags::RDWR)?;
    let length = file.metadata()?.len();
    if length <= max_bytes {
        return Ok(Rotation::NotNeeded);
    }
    match move_away(&mut file, &rotated(path), length, max_bytes) {
        Ok(dropped) => Ok(Rotation::Moved { dropped }),
        Err(why) if length > max_bytes.saturating_mul(LOG_OVERGROWN_FACTOR) => {
            // The newest lines matter most: they stay if the file system can collapse the front.
            let front = whole_blocks(length - max_bytes);
            let dropped = if cut_front(&file, front).is_ok() {
                front
            } else {
                file.set_len(0)?;
                length
            };
            Ok(Rotation::Cut { dropped, why })
        }
        Err(error) => Err(error),
    }
}

/// Copies the end of the log beside the rotated file, renames the copy over that, and only then cuts the log. The copy has a fixed name, so
/// the next supervisor overwrites the copy of a killed one. Returns the number of dropped bytes.
fn move_away(file: &mut File, older: &Path, length: u64, max_bytes: u64) -> io::Result<u64> {
    let beside = with_suffix(older, ".tmp");
    let kept = keep_end(file, &beside, length, max_bytes).and_then(|kept| {
        fs::rename(&beside, older)?;
        Ok(kept)
    });
    let RetainedEnd { mut copy, end } = kept.inspect_err(|_| {
        let _ = fs::remove_file(&beside);
    })?;
    if end == length || cut_front(file, end).is_err() {
        // The front cannot be collapsed: bytes written meanwhile are added to the copy, and the file is truncated.
        file.seek(SeekFrom::Start(end))?;
        io::copy(&mut file.take(max_bytes), &mut copy)?;
        file.set_len(0)?;
    }
    Ok(end.saturating_sub(max_bytes))
}

/// A copy of the end of a log.
struct RetainedEnd {
    copy: File,
    /// Its end in the log.
    end: u64,
}

fn keep_end(file: &mut File, to: &Path, length: u64, max_bytes: u64) -> io::Result<RetainedEnd> {
    atomic::remove_if_exists(to)?;
    let mut copy = ownership::open_file(to, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)?;
    atomic::allow_owner(&copy)?;
    // The bytes after the last whole block stay in the log if the front can be collapsed: at least one byte must.
    let front = whole_blocks(length - 1);
    let end = if front > 0 && cuts_fronts(&copy) { front } else { length };
    let start = end.saturating_sub(max_bytes);
    file.seek(SeekFrom::Start(start))?;
    let copied = io::copy(&mut file.take(end - start), &mut copy)?;
    if copied == end - start {
        Ok(RetainedEnd { copy, end })
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

fn whole_blocks(length: u64) -> u64 {
    length - length % CUT_ALIGNMENT
}

fn cut_front(file: &File, bytes: u64) -> io::Result<()> {
    Ok(rustix::fs::fallocate(file, FallocateFlags::COLLAPSE_RANGE, 0, bytes)?)
}

/// Whether the file system can collapse the front of a file. Tried with an empty one: a file system that can reports that it is too
/// short.
fn cuts_fronts(empty: &File) -> bool {
    cut_front(empty, CUT_ALIGNMENT).is_err_and(|error| error.kind() == io::ErrorKind::InvalidInput)
}

/// The end of a log as text, from offset `from` and at most `max_bytes`; empty if there is none.
pub fn tail(path: &Path, from: u64, max_bytes: u64) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = atomic::open_regular(path)?;
        let length = file.metadata()?.len();
        // A log that is shorter was rotated meanwhile.
        let from = if from > length { 0 } else { from };
        file.seek(SeekFrom::Start(from.max(length.saturating_sub(max_bytes))))?;
        let mut bytes = Vec::new();
        file.take(max_bytes).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map(|bytes| String::from_utf8_lossy(&bytes).trim_end().to_owned()).unwrap_or_default()
}

/// The last `count` lines of a log, over both files, unchanged and at most [`LOG_LINES_MAX_BYTES`].
pub fn last_lines(path: &Path, count: usize) -> Vec<u8> {
    let length = |file: File| file.metadata().map_or(0, |found| found.len());
    let end = atomic::open_regular(path).map_or(0, length);
    last_bytes(path, end, count, LOG_LINES_MAX_BYTES)
}

/// The last `count` lines before `end` in a log, over both files, unchanged. Only the needed bytes are read, backwards from the end; at
/// `max_bytes` the first line may be incomplete. Unreadable files are skipped.
fn last_bytes(path: &Path, end: u64, count: usize, max_bytes: u64) -> Vec<u8> {
    let mut ends = EndOfLog { chunks: Vec::new(), breaks: count, room: max_bytes };
    for (part, end) in [(path.to_owned(), Some(end)), (rotated(path), None)] {
        if let Ok(file) = atomic::open_regular(&part)
            && let Ok(found) = file.metadata()
            && ends.take_from(&file, end.unwrap_or(found.len())).is_none_or(|enough| enough)
        {
            break;
        }
    }
    ends.chunks.into_iter().rev().flatten().collect()
}

/// The end of a log while it is collected, the last chunk first.
struct EndOfLog {
    chunks: Vec<Vec<u8>>,
    /// Lines that are still to be found.
    breaks: usize,
    room: u64,
}

impl EndOfLog {
    /// Reads a file backwards. Returns whether that was enough; `None` if it cannot be read any further.
    fn take_from(&mut self, file: &File, mut end: u64) -> Option<bool> {
        while end > 0 {
            let size = end.min(LOG_CHUNK_BYTES as u64).min(self.room);
            if size == 0 {
                return Some(true);
            }
            let mut chunk = vec![0; usize::try_from(size).ok()?];
            file.read_exact_at(&mut chunk, end - size).ok()?;
            end -= size;
            self.room -= size;
            if let Some(start) = self.start_in(&chunk) {
                self.chunks.push(chunk.split_off(start));
                return Some(true);
            }
            self.chunks.push(chunk);
        }
        Some(self.breaks == 0)
    }

    /// Where the first wanted line begins, if it is in this chunk. The last line break of the log ends the last line.
    fn start_in(&mut self, chunk: &[u8]) -> Option<usize> {
        if self.breaks == 0 {
            return Some(chunk.len());
        }
        let inner = if self.chunks.is_empty() { chunk.len() - 1 } else { chunk.len() };
        for (at, _) in chunk[..inner].iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            self.breaks -= 1;
            if self.breaks == 0 {
                return Some(at + 1);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
