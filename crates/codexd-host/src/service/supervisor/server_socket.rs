//! The socket on which an app-server listens: who listens there, and a way back for its file.
//!
//! Codex since 0.169.0 binds its socket in `/tmp/codex-daemon-<uid>` and makes the path that it was given a link to it. A
//! program that cleans `/tmp` takes the file, and the server lives on where no new connection reaches it. So the supervisor
//! keeps a second way to the same socket: a hard link in the state folder, or, where `/tmp` is another file system, an open
//! handle on the inode. The path leads there as soon as it leads nowhere else.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use codexd_core::identity::Pid;
use rustix::fs::{Mode, OFlags};

use super::control_listener;

/// The socket of one living server.
#[derive(Debug)]
pub struct ServerSocket {
    path: PathBuf,
    inode: (u64, u64),
    spare_path: PathBuf,
    /// The handle, where the socket has no second name.
    handle: Option<OwnedFd>,
    /// The path was led to the second way.
    restored: bool,
}

impl ServerSocket {
    /// Connects to `path`, or, if nothing is left there, to the name at `spare_path`; answers the socket and who listens.
    ///
    /// # Errors
    /// As [`codexd_protocol::unix::connect`]: a server that is starting does not listen yet.
    pub fn find(path: &Path, spare_path: &Path) -> io::Result<(Self, Pid)> {
        let found = [path, spare_path].into_iter().find_map(|place| Some((place, listener(place).ok()?)));
        let Some((place, listener)) = found else {
            return Err(ErrorKind::ConnectionRefused.into());
        };
        let real = fs::canonicalize(place)?;
        let inode = inode(&real).ok_or(ErrorKind::NotFound)?;
        let handle = if place == spare_path { None } else { second_way(&real, inode, spare_path)? };
        let socket = Self {
            path: path.to_owned(),
            inode,
            spare_path: spare_path.to_owned(),
            handle,
            restored: place == spare_path,
        };
        Ok((socket, listener))
    }

    /// Where clients look for it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of the socket itself, where that is not the folder of the path.
    pub fn other_folder(&self) -> Option<PathBuf> {
        let real = fs::canonicalize(&self.path).ok()?;
        let folder = real.parent()?;
        (self.path.parent().and_then(|own| fs::canonicalize(own).ok()).as_deref() != Some(folder))
            .then(|| folder.to_owned())
    }

    /// Whether the path leads to the socket.
    pub fn is_at_path(&self) -> bool {
        inode(&self.path) == Some(self.inode)
    }

    /// Leads the path to the second way. What stands there and leads to another server is left alone.
    ///
    /// # Errors
    /// The file system's; `AddrInUse` if another server listens there, `ConnectionRefused` if the server listens no more.
    pub fn restore(&mut self) -> io::Result<()> {
        if !control_listener::has_no_listener(&self.path) {
            return Err(ErrorKind::AddrInUse.into());
        }
        codexd_protocol::unix::connect(&self.second_way())?;
        let beside = self.path.with_extension(format!("{}.tmp", std::process::id()));
        let _ = fs::remove_file(&beside);
        match &self.handle {
            Some(_) => symlink(self.second_way(), &beside)?,
            // The control folder may be on another file system than the state folder.
            None => {
                fs::hard_link(&self.spare_path, &beside).or_else(|_| symlink(&self.spare_path, &beside))?;
            }
        }
        fs::rename(&beside, &self.path)?;
        self.restored = true;
        Ok(())
    }

    /// Where the socket is reached whatever becomes of its path.
    fn second_way(&self) -> PathBuf {
        match &self.handle {
            Some(handle) => format!("/proc/{}/fd/{}", std::process::id(), handle.as_raw_fd()).into(),
            None => self.spare_path.clone(),
        }
    }

    /// The server has ended: the second way goes, and what it led the path to.
    pub fn close(self) {
        if inode(&self.spare_path) == Some(self.inode) {
            let _ = fs::remove_file(&self.spare_path);
        }
        if self.restored {
            control_listener::remove_socket(&self.path);
        }
    }
}

/// Who listens at a path.
fn listener(path: &Path) -> io::Result<Pid> {
    let stream = codexd_protocol::unix::connect(path)?;
    let peer = codexd_protocol::unix::peer(&stream)?;
    peer.pid
        .map(Pid)
        .ok_or_else(|| io::Error::other("the listener is in a pid namespace that cannot be seen"))
}

/// Gives the socket a second name; where that cannot be, a handle on it.
fn second_way(real: &Path, inode_wanted: (u64, u64), spare: &Path) -> io::Result<Option<OwnedFd>> {
    if inode(spare) == Some(inode_wanted) {
        return Ok(None);
    }
    let _ = fs::remove_file(spare);
    if fs::hard_link(real, spare).is_ok() && inode(spare) == Some(inode_wanted) {
        return Ok(None);
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(Some(rustix::fs::open(real, flags, Mode::empty())?))
}

/// What a path leads to, if that is a socket.
fn inode(path: &Path) -> Option<(u64, u64)> {
    let found = fs::metadata(path).ok().filter(|found| found.file_type().is_socket())?;
    Some((found.dev(), found.ino()))
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
    fn a_socket_whose_file_is_removed_is_reached_by_its_second_name() {
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
    fn a_socket_without_a_second_name_is_reached_by_a_handle() {
        let place = Place::new();
        fs::create_dir_all(place.path("spare/in-the-way")).expect("no name can be made here");
        let mut socket = place.find();
        assert!(socket.handle.is_some());
        fs::remove_dir_all(place.path("tmp")).expect("removed");
        socket.restore().expect("restored");
        assert!(socket.is_at_path());
        codexd_protocol::unix::connect(&place.path("s")).expect("the same socket");
    }

    #[test]
    fn a_later_supervisor_finds_a_lost_socket_by_its_second_name() {
        let place = Place::new();
        drop(place.find());
        fs::remove_dir_all(place.path("tmp")).expect("removed");
        let mut found = place.find();
        assert!(!found.is_at_path());
        found.restore().expect("restored");
        assert!(found.is_at_path());
    }

    #[test]
    fn the_socket_of_another_server_at_the_path_is_left_alone() {
        let place = Place::new();
        let mut socket = place.find();
        fs::remove_file(place.path("s")).expect("removed");
        let _theirs = UnixListener::bind(place.path("s")).expect("bound");
        socket.restore().expect_err("in use");
        socket.close();
        assert!(place.path("s").exists() && !place.path("spare").exists());
    }
}
