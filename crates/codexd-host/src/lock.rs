//! The operation lock: one changing command at a time per CODEX_HOME, by `flock` on `daemon.lock`, which upstream locks as well.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use codexd_core::foreign_text;
use rustix::fs::{FlockOperation, OFlags};

use crate::atomic::open_regular;
use crate::ownership::{self, ForeignOwner};

/// The lock, held until it is dropped or the process exits.
#[derive(Debug)]
pub struct OperationLock {
    file: File,
}

/// Why the lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process held it for too long.
    #[error("another command held the operation lock for {waited_seconds} s")]
    Timeout {
        /// How long this process waited.
        waited_seconds: u64,
        /// The holder, as it describes itself in the file.
        holder: Option<String>,
    },
    /// The lock file cannot be opened.
    #[error(transparent)]
    File(#[from] io::Error),
}

impl OperationLock {
    /// Takes the lock at `path` for `purpose` (the command). If another process holds it, calls `on_wait` once with the holder.
    ///
    /// # Errors
    /// [`LockError::Timeout`] after `timeout`; [`LockError::File`] if the file cannot be created or opened.
    pub fn take(
        path: &Path,
        purpose: &str,
        timeout: Duration,
        on_wait: impl FnOnce(Option<&str>),
    ) -> Result<Self, LockError> {
        let file = open(path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Self::held(file, purpose)),
            Err(rustix::io::Errno::WOULDBLOCK) => {}
            Err(error) => return Err(LockError::File(error.into())),
        }
        on_wait(holder(path).as_deref());
        let (sender, receiver) = mpsc::channel();
        // flock(2) has no timeout, so a thread waits in it. After the timeout the thread stays: the process exits next, and if the
        // thread gets the lock first, dropping the file releases it.
        std::thread::spawn(move || {
            let result = rustix::fs::flock(&file, FlockOperation::LockExclusive);
            let _ = sender.send(result.map(|()| file));
        });
        match receiver.recv_timeout(timeout) {
            Ok(Ok(file)) => Ok(Self::held(file, purpose)),
            Ok(Err(error)) => Err(LockError::File(error.into())),
            Err(_) => Err(LockError::Timeout { waited_seconds: timeout.as_secs(), holder: holder(path) }),
        }
    }

    /// Writes the holder into the file. It is only for people, so a failed write is ignored.
    fn held(mut file: File, purpose: &str) -> Self {
        let text = format!("pid {} ({purpose}) since {}\n", std::process::id(), crate::clock::timestamp());
        let _ = file.set_len(0).and_then(|()| file.write_all(text.as_bytes()));
        Self { file }
    }
}

impl Drop for OperationLock {
    fn drop(&mut self) {
        // The text is removed before the lock is released: a file with text has a holder.
        let _ = self.file.set_len(0);
    }
}

/// Opens the lock file; for reading if it cannot be written (a read-only home), which is enough to lock it; or CODEX_HOME itself if the file
/// cannot be created.
fn open(path: &Path) -> io::Result<File> {
    match open_to_write(path) {
        Err(error)
            if ForeignOwner::of(&error).is_none()
                && matches!(
                    error.kind(),
                    io::ErrorKind::ReadOnlyFilesystem
                        | io::ErrorKind::PermissionDenied
                        | io::ErrorKind::NotFound
                ) =>
        {
            let home = path.parent().and_then(Path::parent);
            open_regular(path).or_else(|_| File::open(home.unwrap_or(Path::new("/")))).map_err(|_| error)
        }
        other => other,
    }
}

fn open_to_write(path: &Path) -> io::Result<File> {
    ownership::open_file(path, OFlags::RDWR | OFlags::APPEND | OFlags::CREATE)
}

fn holder(path: &Path) -> Option<String> {
    let mut text = String::new();
    open_regular(path).ok()?.take(256).read_to_string(&mut text).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| foreign_text::quote(text))
}

fn is_read_only(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ReadOnlyFilesystem
}

/// Takes the supervisor's lock until the file is dropped; `None` if a supervisor holds it.
///
/// # Errors
/// The file cannot be created or opened.
pub fn try_supervisor_lock(path: &Path) -> io::Result<Option<File>> {
    // No other file can replace the supervisor's lock.
    let file = open_to_write(path);
    let file = file.or_else(|error| if is_read_only(&error) { open_regular(path) } else { Err(error) })?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::{LockError, OperationLock};
    use std::time::Duration;

    #[test]
    fn a_second_taker_learns_the_holder_and_times_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("daemon.lock");
        let first = OperationLock::take(&path, "restart", Duration::ZERO, |_| {}).expect("taken");
        let mut told = None;
        let second = OperationLock::take(&path, "stop", Duration::from_millis(20), |holder| {
            told = holder.map(str::to_owned);
        });
        assert!(told.expect("told").contains("(restart)"));
        assert!(matches!(second, Err(LockError::Timeout { holder: Some(_), .. })));
        drop(first);
        OperationLock::take(&path, "stop", Duration::from_secs(5), |_| {}).expect("free again");
    }
}
