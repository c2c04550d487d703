//! The server's stdout and stderr on disk, bounded.
//!
//! The server writes to the files itself, so they go on when the keeper dies. The keeper bounds them: what is older moves
//! to `<name>.1`. Where the file system can cut the front off a file (ext4, xfs) nothing is lost; elsewhere the file is
//! copied and emptied, and a line written in the microseconds between may be lost (a server cannot be made to reopen).

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;

/// Cutting works in whole blocks of the file system; every one in use divides this.
const CUT_ALIGNMENT: u64 = 64 << 10;

/// Opens a log for a server to write to.
///
/// # Errors
/// The file system's.
pub fn open_for_append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// The file that holds what is older.
pub fn rotated(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".1");
    path.with_file_name(name)
}

/// Moves what is in the log to the rotated file if it has grown past `max_bytes`; answers whether it did.
///
/// # Errors
/// The file system's; the log is as it was then.
pub fn rotate_if_larger(path: &Path, max_bytes: u64) -> io::Result<bool> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let length = file.metadata()?.len();
    if length <= max_bytes {
        return Ok(false);
    }
    let whole_blocks = length - length % CUT_ALIGNMENT;
    copy_front(&mut file, &rotated(path), whole_blocks)?;
    if rustix::fs::fallocate(&file, FallocateFlags::COLLAPSE_RANGE, 0, whole_blocks).is_ok() {
        return Ok(true);
    }
    let mut older = OpenOptions::new().append(true).open(rotated(path))?;
    file.seek(SeekFrom::Start(whole_blocks))?;
    io::copy(&mut file, &mut older)?;
    file.set_len(0)?;
    Ok(true)
}

fn copy_front(file: &mut File, to: &Path, bytes: u64) -> io::Result<()> {
    let mut older = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(to)?;
    io::copy(&mut file.take(bytes), &mut older)?;
    Ok(())
}

/// The end of a log, from `from` at the earliest and `max_bytes` at the most, as text; empty if there is none.
pub fn tail(path: &Path, from: u64, max_bytes: u64) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
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

/// The last `count` lines of a log, over both files.
pub fn last_lines(path: &Path, count: usize) -> Vec<String> {
    let mut text = Vec::new();
    for part in [rotated(path), path.to_owned()] {
        if let Ok(mut file) = File::open(part) {
            let _ = file.read_to_end(&mut text);
        }
    }
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].iter().map(|&line| line.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::{last_lines, open_for_append, rotate_if_larger, rotated, tail};
    use std::io::Write;

    #[test]
    fn a_rotation_keeps_every_line_and_the_writer_goes_on() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.log");
        let mut log = open_for_append(&path).expect("opened");
        for line in 0..30_000 {
            writeln!(log, "line {line}").expect("written");
        }
        assert!(rotate_if_larger(&path, 100_000).expect("rotated"));
        writeln!(log, "after").expect("the same file goes on");
        assert!(std::fs::metadata(&path).expect("there").len() < 100_000);
        assert!(!rotate_if_larger(&path, 100_000).expect("small again"));
        let lines = last_lines(&path, 30_002);
        assert_eq!(lines.len(), 30_001);
        assert_eq!((lines[0].as_str(), lines[30_000].as_str()), ("line 0", "after"));
        assert!(rotated(&path).exists());
    }

    #[test]
    fn the_tail_is_that_of_this_server_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.log");
        let mut log = open_for_append(&path).expect("opened");
        writeln!(log, "of the one before").expect("written");
        let from = std::fs::metadata(&path).expect("there").len();
        writeln!(log, "mine").expect("written");
        assert_eq!(tail(&path, from, 4096), "mine");
        assert_eq!(tail(&path, 0, 5), "mine");
        assert_eq!(tail(&folder.path().join("none"), 0, 5), "");
    }
}
