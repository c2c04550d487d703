//! The listening control socket. The supervisor creates it and keeps it open, so clients that connect while no gateway runs wait in
//! its backlog.
//!
//! A client sees as its peer the process that last called listen(2) (`unix(7)`, `SO_PEERCRED`): the gateway calls it when it
//! takes over, the supervisor when a gateway has exited.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use codexd_core::limits::CONTROL_BACKLOG;
use rustix::net::sockopt;

use super::stale_socket::{self, Inode};
use crate::home::Home;
use crate::ownership;

/// The listening socket and its two names.
#[derive(Debug)]
pub struct ControlListener {
    listener: OwnedFd,
    path: PathBuf,
    /// A hard link to the socket, from which the path is restored after a removal.
    spare: PathBuf,
    /// The file with these names; `None` if it was gone when it was looked up.
    inode: Option<Inode>,
    /// systemd has bound the socket: the supervisor neither binds nor removes it.
    is_of_service_manager: bool,
}

impl ControlListener {
    /// Binds the socket. The stale socket of a dead server or supervisor is removed.
    ///
    /// # Errors
    /// `AddrInUse` if a process listens there, `AlreadyExists` if the path is another kind of file.
    pub fn open(home: &Home) -> io::Result<ControlListener> {
        home.create_state()?;
        let path = home.control_socket();
        stale_socket::make_room(&path)?;
        let listener = ownership::bind(&path)?;
        let control_listener = ControlListener {
            listener: listener.into(),
            inode: Inode::at(&path),
            path,
            spare: home.spare_socket(),
            is_of_service_manager: false,
        };
        control_listener.listen()?;
        control_listener.give_second_name();
        Ok(control_listener)
    }

    /// Takes over the socket that systemd has bound and handed to this process.
    ///
    /// # Errors
    /// It is not a listening socket.
    pub fn from_service_manager(home: &Home, listener: OwnedFd) -> io::Result<ControlListener> {
        let path = home.control_socket();
        let control_listener = ControlListener {
            listener,
            inode: Inode::at(&path),
            path,
            spare: home.spare_socket(),
            is_of_service_manager: true,
        };
        control_listener.listen()?;
        control_listener.give_second_name();
        Ok(control_listener)
    }

    fn give_second_name(&self) {
        // Without hard links, a removed socket is created again by the next restart only.
        stale_socket::remove_socket(&self.spare);
        let _ = fs::hard_link(&self.path, &self.spare);
    }

    /// Whether systemd has bound it.
    pub fn is_of_service_manager(&self) -> bool {
        self.is_of_service_manager
    }

    /// Whether systemd has bound it, and this is another socket.
    pub fn is_not(&self, other: &OwnedFd) -> bool {
        let identity =
            |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).ok().map(|found| (found.st_dev, found.st_ino));
        self.is_of_service_manager && identity(self.fd()) != identity(other.as_fd())
    }

    /// Takes over the socket that a gateway has sent back; `None` if it does not listen.
    pub fn from_gateway(home: &Home, listener: OwnedFd) -> Option<ControlListener> {
        let listens = sockopt::socket_acceptconn(&listener).unwrap_or_default();
        let (path, spare) = (home.control_socket(), home.spare_socket());
        let control_listener = listens.then(|| ControlListener {
            listener,
            inode: Inode::at(&spare).or_else(|| Inode::at(&path)),
            path,
            spare,
            is_of_service_manager: false,
        })?;
        // systemd has removed the path of a socket that it had bound.
        control_listener.restore_path();
        Some(control_listener)
    }

    /// Restores the path if no file is there.
    pub fn restore_path(&self) {
        if !self.path.exists() && Inode::at(&self.spare) == self.inode {
            // If this fails, clients cannot connect and report it.
            let _ = fs::hard_link(&self.spare, &self.path);
        }
    }

    /// Calls listen(2) again, so that clients see this process as their peer.
    ///
    /// # Errors
    /// The socket cannot listen.
    pub fn listen(&self) -> io::Result<()> {
        Ok(rustix::net::listen(&self.listener, CONTROL_BACKLOG)?)
    }

    /// Whether the path leads to this socket.
    pub fn is_at_path(&self) -> bool {
        self.inode.is_some() && Inode::at(&self.path) == self.inode
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Closes the socket and removes its names, as far as they still lead to it. The path of a socket that systemd has bound stays.
    pub fn close(self) {
        let Some(inode) = self.inode else { return };
        let path = (!self.is_of_service_manager).then_some(&self.path);
        for name in path.into_iter().chain([&self.spare]) {
            // A stale socket that cannot be removed is handled by the next command.
            let _ = inode.remove(name);
        }
    }
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
    fn a_stale_socket_is_replaced_and_the_new_one_is_private() {
        let (_folder, home) = home();
        let socket = home.control_socket();
        drop(UnixListener::bind(&socket).expect("bound"));
        let control_listener = ControlListener::open(&home).expect("opened");
        let mode = std::fs::symlink_metadata(&socket).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        codexd_protocol::unix::connect(&socket).expect("listening");
        control_listener.close();
        assert!(!socket.exists());
        std::os::unix::fs::symlink("/nonexistent/socket", &socket).expect("a link");
        ControlListener::open(&home).expect("a dangling link is replaced");
    }

    #[test]
    fn a_listening_socket_and_a_regular_file_are_not_removed() {
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
    fn a_removed_socket_is_restored_and_the_socket_of_another_process_is_not_removed() {
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
        assert!(home.control_socket().exists(), "the socket of another process");
        assert!(!home.spare_socket().exists(), "the own name");
        drop(other);
    }
}
