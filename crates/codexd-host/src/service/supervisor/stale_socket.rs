//! Removes sockets without a listening process. A path proves nothing, so what is removed is compared by inode with what was
//! checked before.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use codexd_core::identity::Pid;
use codexd_core::limits::{BLOCKING_WAIT_MS, LISTENER_EXIT_POLL_MS};

use crate::{atomic, poll, process, socket_path};

/// A file, whatever its path.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Inode {
    device: u64,
    number: u64,
}

impl Inode {
    /// The file at a path; a link itself, not its target.
    pub(super) fn at(path: &Path) -> Option<Self> {
        fs::symlink_metadata(path).ok().map(|found| Self::of(&found))
    }

    /// The socket that a path leads to.
    pub(super) fn of_socket(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().filter(|found| found.file_type().is_socket()).map(|found| Self::of(&found))
    }

    fn of(found: &fs::Metadata) -> Self {
        Self { device: found.dev(), number: found.ino() }
    }

    /// Removes the file at `path` if it is this one.
    ///
    /// # Errors
    /// It is this one and cannot be removed.
    pub(super) fn remove(self, path: &Path) -> io::Result<()> {
        if Self::at(path) == Some(self) { atomic::remove_if_exists(path) } else { Ok(()) }
    }
}

/// Removes a socket without a listening process, or a link to one. A listener that is exiting is waited for.
///
/// # Errors
/// `AddrInUse` if a process listens there, `AlreadyExists` if the path leads to another kind of file.
pub(super) fn make_room(path: &Path) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let leads_to_a_socket =
        fs::metadata(path).map_or(found.is_symlink(), |target| target.file_type().is_socket());
    if !leads_to_a_socket {
        let message = format!("{} exists but is not a socket", path.display());
        return Err(io::Error::new(ErrorKind::AlreadyExists, message));
    }
    let deadline = Instant::now() + Duration::from_millis(BLOCKING_WAIT_MS);
    let mut has_waited = false;
    while !has_no_listener(path) {
        if std::mem::replace(&mut has_waited, true) {
            // Another process has the socket open as well.
            poll::pause(Duration::from_millis(LISTENER_EXIT_POLL_MS));
        }
        if !await_exiting_listener(path, deadline) || Instant::now() >= deadline {
            let message = format!("another process already listens on {}", path.display());
            return Err(io::Error::new(ErrorKind::AddrInUse, message));
        }
    }
    Inode::of(&found).remove(path)
}

/// Waits until the listener has exited, if it is exiting. A process that was killed loses its memory, and with it its arguments,
/// some moments before its sockets close. Returns `false` if the listener is not exiting.
fn await_exiting_listener(path: &Path, deadline: Instant) -> bool {
    let peer = codexd_protocol::unix::connect(path).and_then(|stream| codexd_protocol::unix::peer(&stream));
    let peer = match peer {
        Ok(peer) => peer,
        // No process listens any more, as the next check shows.
        Err(error) => return is_absence(error.kind()),
    };
    let Some(pid) = peer.pid.map(Pid).filter(|&pid| process::is_exiting(pid)) else { return false };
    process::await_exit_of(pid, deadline.saturating_duration_since(Instant::now()));
    true
}

/// Removes the socket of a dead server, and the short socket that a link in its place leads to.
pub(super) fn remove_socket(path: &Path) {
    let target = socket_path::is_ours(path).then(|| fs::read_link(path).ok()).flatten();
    let sockets: Vec<(PathBuf, Inode)> = target
        .into_iter()
        .chain([path.to_owned()])
        .filter_map(|path| {
            let found = fs::symlink_metadata(&path).ok()?;
            let is_one = found.file_type().is_socket() || found.is_symlink();
            is_one.then(|| (path, Inode::of(&found)))
        })
        .collect();
    if has_no_listener(path) {
        for (path, inode) in sockets {
            // The next server at this path removes it otherwise.
            let _ = inode.remove(&path);
        }
    }
}

/// Whether no process listens on a socket.
pub(super) fn has_no_listener(path: &Path) -> bool {
    codexd_protocol::unix::connect(path).is_err_and(|error| is_absence(error.kind()))
}

fn is_absence(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::NotFound | ErrorKind::ConnectionRefused)
}
