//! The server's stdout and stderr on disk, bounded.
//!
//! The server writes to the files itself, so they go on when the supervisor dies. The supervisor bounds them: what is older moves
//! to `<name>.1`, which holds no more than the log itself may; what is older still goes. Where the file system can cut the
//! front off a file (ext4, xfs) nothing is lost on the way; elsewhere the file is copied and emptied, and a line written in
//! the microseconds between may be lost (a server cannot be made to reopen).
//!
//! Failure modes: when nothing can be kept (a full disk) both files stay as they are, until the log is far too large. Then
//! it is cut all the same, for that is what frees the disk.

mod follow;

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use codexd_core::limits::{LOG_LINES_MAX_BYTES, LOG_OVERGROWN_FACTOR};
use rustix::fs::{FallocateFlags, OFlags};

use crate::{atomic, ownership};
pub use follow::Follower;

/// Cutting works in whole blocks of the file system; every one in use divides this.
const CUT_ALIGNMENT: u64 = 64 << 10;
/// So much of a log is read at once.
const CHUNK_BYTES: usize = 64 << 10;

/// What bounding a log has come to.
#[derive(Debug)]
pub enum Rotation {
    /// It is not too large.
    NotNeeded,
    /// It was moved to the rotated file.
    Moved {
        /// So many bytes at its beginning had no room there and are gone.
        dropped: u64,
    },
    /// It was far too large and could not be kept, so it was cut without.
    Cut {
        /// So many bytes are gone.
        dropped: u64,
        /// Why they could not be kept.
        why: io::Error,
    },
}

/// Opens a log for a server to write to.
///
/// # Errors
/// The file system's.
pub fn open_for_append(path: &Path) -> io::Result<File> {
    let file = ownership::open_file(path, OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE)?;
    atomic::let_owner_in(&file)?;
    Ok(file)
}

/// The file that holds what is older.
pub fn rotated(path: &Path) -> PathBuf {
    with_suffix(path, ".1")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

/// Moves what is in the log to the rotated file if it has grown past `max_bytes`: at most the last `max_bytes` of it. A log
/// that is [`LOG_OVERGROWN_FACTOR`] times too large is cut even if that fails.
///
/// # Errors
/// The file system's; the log and the rotated file are as they were then.
pub fn rotate_if_larger(path: &Path, max_bytes: u64) -> io::Result<Rotation> {
    let mut file = ownership::open_file(path, OFlags::RDWR)?;
    let length = file.metadata()?.len();
    if length <= max_bytes {
        return Ok(Rotation::NotNeeded);
    }
    match move_away(&mut file, &rotated(path), length, max_bytes) {
        Ok(dropped) => Ok(Rotation::Moved { dropped }),
        Err(why) if length > max_bytes.saturating_mul(LOG_OVERGROWN_FACTOR) => {
            // The newest lines are the ones that a reader will want: they stay if the file system can do that.
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

/// Copies the end of the log beside the rotated file, renames it over that, and only then cuts the log. The name of the copy
/// is a fixed one: what a killed supervisor leaves there, the next one writes over. Answers what neither file has any more.
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
        // The front cannot be cut off here: what has come meanwhile is added, and the file emptied.
        file.seek(SeekFrom::Start(end))?;
        io::copy(&mut file.take(max_bytes), &mut copy)?;
        file.set_len(0)?;
    }
    Ok(end.saturating_sub(max_bytes))
}

/// A copy of the end of a log.
struct RetainedEnd {
    copy: File,
    /// So far into the log it goes.
    end: u64,
}

fn keep_end(file: &mut File, to: &Path, length: u64, max_bytes: u64) -> io::Result<RetainedEnd> {
    atomic::remove_if_exists(to)?;
    let mut copy = ownership::open_file(to, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)?;
    atomic::let_owner_in(&copy)?;
    // What is behind the last whole block stays in the log, where that can be had: one byte must.
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

/// Whether this file system can cut the front off a file, asked with an empty one: who can says that it is too short.
fn cuts_fronts(empty: &File) -> bool {
    cut_front(empty, CUT_ALIGNMENT).is_err_and(|error| error.kind() == io::ErrorKind::InvalidInput)
}

/// The end of a log, from `from` at the earliest and `max_bytes` at the most, as text; empty if there is none.
pub fn tail(path: &Path, from: u64, max_bytes: u64) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = atomic::open_regular(path)?;
        let length = file.metadata()?.len();
        // A log shorter than where the server began was rotated meanwhile.
        let from = if from > length { 0 } else { from };
        file.seek(SeekFrom::Start(from.max(length.saturating_sub(max_bytes))))?;
        let mut bytes = Vec::new();
        file.take(max_bytes).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map(|bytes| String::from_utf8_lossy(&bytes).trim_end().to_owned()).unwrap_or_default()
}

/// The last `count` lines of a log as they are in it, over both files, and at most [`LOG_LINES_MAX_BYTES`] of them.
pub fn last_lines(path: &Path, count: usize) -> Vec<u8> {
    let length = |file: File| file.metadata().map_or(0, |found| found.len());
    let end = atomic::open_regular(path).map_or(0, length);
    last_bytes(path, end, count, LOG_LINES_MAX_BYTES)
}

/// The last `count` lines before `end` in a log, over both files, as they are there. Only what is needed is read, from the
/// end on; past `max_bytes` the first line is a part of one. What cannot be read is left out.
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

/// The end of a log while it is gathered, the last chunk first.
struct EndOfLog {
    chunks: Vec<Vec<u8>>,
    /// So many lines are still to be found.
    breaks: usize,
    room: u64,
}

impl EndOfLog {
    /// Goes backwards through a file; answers whether that was enough, `None` if it cannot be read any further.
    fn take_from(&mut self, file: &File, mut end: u64) -> Option<bool> {
        while end > 0 {
            let size = end.min(CHUNK_BYTES as u64).min(self.room);
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

    /// Where the first wanted line begins, if it does in this chunk. The very last line break ends the last line.
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
