//! One writer per thread: `flock` on `$CODEX_HOME/thread-writer-locks/<thread>.lock`, as upstream does it.
//!
//! The kernel releases the lock however the process ends. The file is removed when the lock is released;
//! `.coordination.lock` keeps other processes from locking a file that is being removed: it is held, briefly,
//! whenever a lock file is opened or removed.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::ids::ThreadId;
use crate::regular_file;

/// The locks that this process holds.
#[derive(Debug)]
pub(crate) struct WriterLocks {
    folder: PathBuf,
    held: HashMap<ThreadId, File>,
}

impl WriterLocks {
    pub(crate) fn new(codex_home: &Path) -> Self {
        Self { folder: codex_home.join("thread-writer-locks"), held: HashMap::new() }
    }

    /// Becomes the writer of `thread`; `false` if another process is.
    pub(crate) fn take(&mut self, thread: ThreadId) -> io::Result<bool> {
        if self.held.contains_key(&thread) {
            return Ok(true);
        }
        let _coordination = self.coordinate()?;
        let file = open(&self.path(thread))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                self.held.insert(thread, file);
                Ok(true)
            }
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Releases every lock that `keep` does not want; returns the threads.
    pub(crate) fn release(&mut self, keep: impl Fn(ThreadId) -> bool) -> io::Result<Vec<ThreadId>> {
        let left: Vec<ThreadId> = self.held.keys().copied().filter(|&thread| !keep(thread)).collect();
        if !left.is_empty() {
            let _coordination = self.coordinate()?;
            for &thread in &left {
                fs::remove_file(self.path(thread))?;
                self.held.remove(&thread);
            }
        }
        Ok(left)
    }

    fn path(&self, thread: ThreadId) -> PathBuf {
        self.folder.join(format!("{thread}.lock"))
    }

    fn coordinate(&self) -> io::Result<File> {
        fs::create_dir_all(&self.folder)?;
        let file = open(&self.folder.join(".coordination.lock"))?;
        flock(&file, FlockOperation::LockExclusive)?;
        Ok(file)
    }
}

fn open(path: &Path) -> io::Result<File> {
    regular_file::open(OpenOptions::new().write(true).create(true).truncate(false), path)
}

#[cfg(test)]
mod tests {
    use super::WriterLocks;
    use crate::ids::IdGenerator;
    use crate::timestamp::Timestamp;

    #[test]
    fn a_thread_has_one_writer_until_that_lets_go() {
        let home = tempfile::tempdir().expect("a folder");
        let thread = IdGenerator::new(1).thread(Timestamp::from_millis(1));
        let (mut one, mut two) = (WriterLocks::new(home.path()), WriterLocks::new(home.path()));
        assert!(one.take(thread).expect("locked"));
        assert!(one.take(thread).expect("locked again"));
        assert!(!two.take(thread).expect("looked"));
        assert_eq!(one.release(|_| false).expect("released"), [thread]);
        assert!(two.take(thread).expect("locked"));
    }

    #[test]
    fn what_is_still_needed_stays_locked() {
        let home = tempfile::tempdir().expect("a folder");
        let thread = IdGenerator::new(1).thread(Timestamp::from_millis(1));
        let mut locks = WriterLocks::new(home.path());
        locks.take(thread).expect("locked");
        assert!(locks.release(|_| true).expect("nothing to do").is_empty());
        assert!(!WriterLocks::new(home.path()).take(thread).expect("looked"));
    }
}
