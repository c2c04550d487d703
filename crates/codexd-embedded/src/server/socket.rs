//! The listening socket. One server owns it at a time. A stale socket is replaced, the socket of a live server never.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use codexd_protocol::unix;
use rustix::fs::{FlockOperation, Mode, flock};

use crate::{Error, Listen, regular_file};

/// A bound socket. Dropping it removes the file if the file is still this socket.
#[derive(Debug)]
pub(crate) struct Socket {
    path: PathBuf,
    listener: UnixListener,
    inode: (u64, u64),
    _lock: File,
}

impl Socket {
    /// Binds the socket, readable and writable for its owner alone.
    ///
    /// # Errors
    /// A server listens there, or the file there is no socket, or the system refuses.
    pub(crate) fn bind(listen: &Listen, codex_home: &Path) -> Result<Self, Error> {
        let path = listen.socket(codex_home);
        let failed = |error| Error::Socket { path: path.clone(), error };
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        }
        let lock = lock(&path).map_err(failed)?.ok_or_else(|| Error::SocketInUse(path.clone()))?;
        make_room(&path)?;
        let before = rustix::process::umask(Mode::from_raw_mode(0o177));
        let bound = unix::bind(&path);
        rustix::process::umask(before);
        let listener = bound.map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let inode = inode(&path).map_err(failed)?;
        Ok(Self { path, listener, inode, _lock: lock })
    }

    /// A handle for the runtime.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn listener(&self) -> Result<tokio::net::UnixListener, Error> {
        let failed = |error| Error::Socket { path: self.path.clone(), error };
        let listener = self.listener.try_clone().map_err(failed)?;
        tokio::net::UnixListener::from_std(listener).map_err(failed)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if inode(&self.path).is_ok_and(|inode| inode == self.inode) {
            // The file existed a moment ago. A file that is gone needs no removal.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Takes the lock that belongs to the path; `None` if another server has it. Its file stays: a lock file that is
/// removed can be locked twice.
fn lock(socket: &Path) -> io::Result<Option<File>> {
    let mut name = socket.file_name().unwrap_or_default().to_owned();
    name.push(".lock");
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(false);
    let file = regular_file::open(options, &socket.with_file_name(name))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Removes a stale socket, or the link that a real Codex puts there. A socket that accepts connections is not stale.
fn make_room(path: &Path) -> Result<(), Error> {
    let kind = match fs::symlink_metadata(path) {
        Ok(look) => look.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::Socket { path: path.to_owned(), error }),
    };
    let no_other_file = || fs::metadata(path).map_or(true, |look| look.file_type().is_socket());
    let removable = kind.is_socket() || (kind.is_symlink() && no_other_file());
    if !removable {
        return Err(Error::NotASocket(path.to_owned()));
    }
    match unix::connect(path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => {}
        _ => return Err(Error::SocketInUse(path.to_owned())),
    }
    fs::remove_file(path).map_err(|error| Error::Socket { path: path.to_owned(), error })
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|look| (look.dev(), look.ino()))
}
