//! The listening socket at the well-known place. The supervisor makes it and keeps it, gateways come and go: who connects while
//! there is none waits in its queue.
//!
//! A client is told who listens by the credentials of the last process that called listen(2) (`unix(7)`, `SO_PEERCRED`): the
//! gateway does so when it takes over, the supervisor when a gateway is gone.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use codexd_core::identity::Pid;
use codexd_core::limits::{BLOCKING_WAIT_MS, CONTROL_BACKLOG};
use rustix::net::sockopt;

use crate::home::Home;
use crate::{atomic, ownership, process};

/// How often one who is about to end and holds the place is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// The socket.
#[derive(Debug)]
pub struct ControlListener {
    listener: OwnedFd,
    path: PathBuf,
    /// The second name of the socket, by which it comes back to its place if it is removed there.
    spare: PathBuf,
    /// What has these names.
    inode: Option<(u64, u64)>,
}

impl ControlListener {
    /// Binds the socket. What a dead server or supervisor has left at the place is removed.
    ///
    /// # Errors
    /// `AddrInUse` if a process listens there, `AlreadyExists` if another kind of file is there; the system's.
    pub fn open(home: &Home) -> io::Result<ControlListener> {
        home.create_state()?;
        let path = home.control_socket();
        make_room(&path)?;
        let listener = ownership::bind(&path)?;
        let control_listener = ControlListener {
            listener: listener.into(),
            inode: inode(&path),
            path,
            spare: home.spare_socket(),
        };
        control_listener.listen()?;
        // Where there are no second names, a socket that is removed is made anew by the next restart.
        let _ = atomic::remove_if_exists(&control_listener.spare)
            .and_then(|()| fs::hard_link(&control_listener.path, &control_listener.spare));
        Ok(control_listener)
    }

    /// Takes over the socket that a gateway has handed back; `None` if it is no listening one.
    pub fn from_gateway(home: &Home, listener: OwnedFd) -> Option<ControlListener> {
        let listens = sockopt::socket_acceptconn(&listener).unwrap_or_default();
        let (path, spare) = (home.control_socket(), home.spare_socket());
        listens.then(|| ControlListener {
            listener,
            inode: inode(&spare).or_else(|| inode(&path)),
            path,
            spare,
        })
    }

    /// Puts the socket back into its place, if nothing is there.
    pub fn restore_path(&self) {
        if !self.path.exists() && inode(&self.spare) == self.inode {
            // A client that cannot connect shows the failure.
            let _ = fs::hard_link(&self.spare, &self.path);
        }
    }

    /// Listens anew, so that clients are told that it is this process who does.
    ///
    /// # Errors
    /// The system's.
    pub fn listen(&self) -> io::Result<()> {
        Ok(rustix::net::listen(&self.listener, CONTROL_BACKLOG)?)
    }

    /// Whether the path still leads to this socket.
    pub fn is_at_path(&self) -> bool {
        self.inode.is_some() && inode(&self.path) == self.inode
    }

    /// The socket.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Takes the socket away.
    pub fn close(self) {
        for name in [&self.path, &self.spare] {
            if self.inode.is_some() && inode(name) == self.inode {
                // What cannot be removed is found by the next command to be left over.
                let _ = fs::remove_file(name);
            }
        }
    }
}

/// Removes a socket without a listening process.
fn make_room(path: &Path) -> io::Result<()> {
    let kind = match fs::symlink_metadata(path) {
        Ok(found) => found.file_type(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let leads_to_a_socket =
        fs::metadata(path).map_or(kind.is_symlink(), |found| found.file_type().is_socket());
    if !leads_to_a_socket {
        let message = format!("{} exists but is not a socket", path.display());
        return Err(io::Error::new(ErrorKind::AlreadyExists, message));
    }
    let deadline = Instant::now() + Duration::from_millis(BLOCKING_WAIT_MS);
    while !has_no_listener(path) {
        if !is_held_by_exiting_process(path) || Instant::now() >= deadline {
            let message = format!("another process already listens on {}", path.display());
            return Err(io::Error::new(ErrorKind::AddrInUse, message));
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    atomic::remove_if_exists(path)
}

/// A process that was killed has lost its memory, and with it its name, some moments before its sockets.
fn is_held_by_exiting_process(path: &Path) -> bool {
    let peer = codexd_protocol::unix::connect(path).and_then(|stream| codexd_protocol::unix::peer(&stream));
    // No process listens any more, as the next check shows.
    peer.map_or(true, |peer| peer.pid.is_some_and(|pid| process::is_exiting(Pid(pid))))
}

/// Removes the socket of a dead server, and what a link in its place leads to.
pub fn remove_socket(path: &Path) {
    if !has_no_listener(path) {
        return;
    }
    let target = crate::socket_path::is_ours(path).then(|| fs::read_link(path).ok()).flatten();
    for socket in target.iter().map(PathBuf::as_path).chain([path]) {
        let is_one = fs::symlink_metadata(socket)
            .is_ok_and(|found| found.file_type().is_socket() || found.file_type().is_symlink());
        if is_one {
            // The next server at this place removes what is left over, too.
            let _ = atomic::remove_if_exists(socket);
        }
    }
}

/// Whether no process listens on a socket.
pub(super) fn has_no_listener(path: &Path) -> bool {
    let gone = |kind| matches!(kind, ErrorKind::NotFound | ErrorKind::ConnectionRefused);
    codexd_protocol::unix::connect(path).is_err_and(|error| gone(error.kind()))
}

fn inode(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use super::ControlListener;
    use crate::home::Home;
    use std::io::ErrorKind;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    fn home() -> (tempfile::TempDir, Home) {
        let folder = tempfile::tempdir().expect("a folder");
        let home = Home::new(folder.path());
        home.create_state().expect("made");
        (folder, home)
    }

    #[test]
    fn what_is_left_over_makes_room_and_the_socket_is_its_owners_alone() {
        let (_folder, home) = home();
        let socket = home.control_socket();
        drop(UnixListener::bind(&socket).expect("bound"));
        let control_listener = ControlListener::open(&home).expect("opened");
        let mode = std::fs::symlink_metadata(&socket).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        codexd_protocol::unix::connect(&socket).expect("it listens");
        control_listener.close();
        assert!(!socket.exists());
        std::os::unix::fs::symlink("/nonexistent/socket", &socket).expect("a link");
        ControlListener::open(&home).expect("a link that leads nowhere makes room, too");
    }

    #[test]
    fn nobody_who_listens_and_no_file_is_removed() {
        let (_folder, home) = home();
        let socket = home.control_socket();
        let theirs = UnixListener::bind(&socket).expect("bound");
        assert_eq!(ControlListener::open(&home).expect_err("taken").kind(), ErrorKind::AddrInUse);
        drop(theirs);
        std::fs::remove_file(&socket).expect("removed");
        std::fs::write(&socket, "mine").expect("written");
        assert_eq!(ControlListener::open(&home).expect_err("a file").kind(), ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read_to_string(&socket).expect("there"), "mine");
    }

    #[test]
    fn a_socket_that_somebody_removed_is_not_in_its_place() {
        let (_folder, home) = home();
        let control_listener = ControlListener::open(&home).expect("opened");
        assert!(control_listener.is_at_path());
        std::fs::remove_file(home.control_socket()).expect("removed");
        assert!(!control_listener.is_at_path());
        control_listener.restore_path();
        assert!(control_listener.is_at_path());
        codexd_protocol::unix::connect(&home.control_socket()).expect("it is the same socket");
        std::fs::remove_file(home.control_socket()).expect("removed again");
        let other = UnixListener::bind(home.control_socket()).expect("another process's");
        control_listener.restore_path();
        control_listener.close();
        assert!(home.control_socket().exists(), "it is not ours to remove");
        assert!(!home.spare_socket().exists(), "that was");
        drop(other);
    }
}
