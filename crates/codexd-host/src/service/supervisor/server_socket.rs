//! The socket of an app-server: which process listens there, and how its path is restored after a removal.
//!
//! Codex since 0.169.0 binds its socket in `/tmp/codex-daemon-<uid>` and makes the path that it was given a link to it. A
//! program that cleans `/tmp` removes the file, and then no new client reaches the running server. So the supervisor keeps a
//! spare: a hard link to the socket in the state folder, or, where `/tmp` is another file system, an open handle on the
//! inode. When the path leads nowhere, it is restored from the spare.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use codexd_core::identity::Pid;
use rustix::fs::{Mode, OFlags};

use super::stale_socket::{self, Inode};
use crate::atomic;

/// The socket of one running server.
#[derive(Debug)]
pub struct ServerSocket {
    path: PathBuf,
    inode: Inode,
    spare_path: PathBuf,
    /// The handle, if the socket has no hard link.
    handle: Option<OwnedFd>,
    /// The path leads to the spare.
    restored: bool,
}

impl ServerSocket {
    /// Connects to `path`, or else to `spare_path`. Returns the socket and the process that listens.
    ///
    /// # Errors
    /// As [`codexd_protocol::unix::connect`]: a server that is starting does not listen yet.
    pub fn find(path: &Path, spare_path: &Path) -> io::Result<(Self, Pid)> {
        let found = [path, spare_path].into_iter().find_map(|place| Some((place, listener(place).ok()?)));
        let Some((place, listener)) = found else {
            return Err(ErrorKind::ConnectionRefused.into());
        };
        let real = fs::canonicalize(place)?;
        let inode = Inode::of_socket(&real).ok_or(ErrorKind::NotFound)?;
        let handle = if place == spare_path { None } else { make_spare(&real, inode, spare_path)? };
        let socket = Self {
            path: path.to_owned(),
            inode,
            spare_path: spare_path.to_owned(),
            handle,
            restored: place == spare_path,
        };
        Ok((socket, listener))
    }

    /// The path that clients connect to.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of the socket itself, if it is not the folder of the path.
    pub fn other_folder(&self) -> Option<PathBuf> {
        let real = fs::canonicalize(&self.path).ok()?;
        let folder = real.parent()?;
        (self.path.parent().and_then(|own| fs::canonicalize(own).ok()).as_deref() != Some(folder))
            .then(|| folder.to_owned())
    }

    /// Whether the path leads to the socket.
    pub fn is_at_path(&self) -> bool {
        Inode::of_socket(&self.path) == Some(self.inode)
    }

    /// Makes the path lead to the spare.
    ///
    /// # Errors
    /// `AddrInUse` if another server listens at the path, `ConnectionRefused` if this server does not listen any more; errors of the
    /// file system.
    pub fn restore(&mut self) -> io::Result<()> {
        if !stale_socket::has_no_listener(&self.path) {
            return Err(ErrorKind::AddrInUse.into());
        }
        codexd_protocol::unix::connect(&self.spare())?;
        let beside = self.path.with_extension(format!("{}.tmp", std::process::id()));
        atomic::remove_if_exists(&beside)?;
        match &self.handle {
            Some(_) => symlink(self.spare(), &beside)?,
            // The control folder may be on another file system than the state folder.
            None => {
                fs::hard_link(&self.spare_path, &beside).or_else(|_| symlink(&self.spare_path, &beside))?;
            }
        }
        fs::rename(&beside, &self.path)?;
        self.restored = true;
        Ok(())
    }

    /// A path to the socket that no other program removes.
    fn spare(&self) -> PathBuf {
        match &self.handle {
            Some(handle) => format!("/proc/{}/fd/{}", std::process::id(), handle.as_raw_fd()).into(),
            None => self.spare_path.clone(),
        }
    }

    /// Removes the spare of a server that has exited, and the path if it was restored.
    pub fn close(self) {
        // A spare that stays is replaced by the next server with this path.
        let _ = self.inode.remove(&self.spare_path);
        if self.restored {
            stale_socket::remove_socket(&self.path);
        }
    }
}

/// The process that listens at a path.
fn listener(path: &Path) -> io::Result<Pid> {
    let stream = codexd_protocol::unix::connect(path)?;
    let peer = codexd_protocol::unix::peer(&stream)?;
    peer.pid
        .map(Pid)
        .ok_or_else(|| io::Error::other("the listener is in a pid namespace that cannot be seen"))
}

/// Makes a hard link to the socket at `spare`, in place of the spare of a dead server; or opens a handle if that fails.
fn make_spare(real: &Path, socket: Inode, spare: &Path) -> io::Result<Option<OwnedFd>> {
    if Inode::of_socket(spare) == Some(socket) {
        return Ok(None);
    }
    stale_socket::remove_socket(spare);
    if fs::hard_link(real, spare).is_ok() && Inode::of_socket(spare) == Some(socket) {
        return Ok(None);
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(Some(rustix::fs::open(real, flags, Mode::empty())?))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the tests remove folders as a cleaner of /tmp does")]
mod tests {
    use super::ServerSocket;
    use codexd_core::identity::Pid;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;

    struct Place {
        folder: tempfile::TempDir,
        _listener: UnixListener,
    }

    impl Place {
        /// A listener in a folder of its own, with a link to it.
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            fs::create_dir(folder.path().join("tmp")).expect("made");
            let listener = UnixListener::bind(folder.path().join("tmp/real")).expect("bound");
            symlink(folder.path().join("tmp/real"), folder.path().join("s")).expect("a link");
            Self { folder, _listener: listener }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn find(&self) -> ServerSocket {
            let (socket, listener) =
                ServerSocket::find(&self.path("s"), &self.path("spare")).expect("it listens");
            assert_eq!(listener, Pid(std::process::id()));
            socket
        }
    }

    #[test]
    fn a_socket_whose_file_is_removed_is_restored_from_its_hard_link() {
        let place = Place::new();
        let mut socket = place.find();
        assert_eq!(socket.other_folder(), Some(place.path("tmp")));
        for lost in ["tmp/real", "s"] {
            fs::remove_file(place.path(lost)).expect("removed");
            assert!(!socket.is_at_path(), "{lost}");
            socket.restore().expect("restored");
            assert!(socket.is_at_path(), "{lost}");
            codexd_protocol::unix::connect(&place.path("s")).expect("the same socket");
        }
    }

    #[test]
    fn a_socket_without_a_hard_link_is_restored_from_a_handle() {
        let place = Place::new();
        fs::create_dir_all(place.path("spare/in-the-way")).expect("no link can be made here");
        let mut socket = place.find();
        assert!(socket.handle.is_some());
        fs::remove_dir_all(place.path("tmp")).expect("removed");
        socket.restore().expect("restored");
        assert!(socket.is_at_path());
        codexd_protocol::unix::connect(&place.path("s")).expect("the same socket");
    }

    #[test]
    fn a_later_supervisor_finds_a_lost_socket_by_its_hard_link() {
        let place = Place::new();
        drop(place.find());
        fs::remove_dir_all(place.path("tmp")).expect("removed");
        let mut found = place.find();
        assert!(!found.is_at_path());
        found.restore().expect("restored");
        assert!(found.is_at_path());
    }

    #[test]
    fn the_socket_of_another_server_at_the_path_is_not_replaced() {
        let place = Place::new();
        let mut socket = place.find();
        fs::remove_file(place.path("s")).expect("removed");
        let _theirs = UnixListener::bind(place.path("s")).expect("bound");
        socket.restore().expect_err("in use");
        socket.close();
        assert!(place.path("s").exists() && !place.path("spare").exists());
    }
}
