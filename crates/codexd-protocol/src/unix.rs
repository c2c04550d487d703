//! Unix sockets at paths of any length.
//!
//! `sockaddr_un` holds 108 bytes. A longer path is reached through its folder: the folder is opened, and the address is
//! `/proc/self/fd/N/<name>` (unix(7), proc(5)). Symbolic links on the way are followed as usual, so the link that
//! app-server 0.169.0 puts at its control path works too.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};

use crate::limits::CONNECT_TIMEOUT_MS;

/// The longest path that fits `sockaddr_un` with its closing zero byte.
pub const SUN_PATH_MAX: usize = 107;

/// A path that can be put into a socket address for as long as the value lives.
#[derive(Debug)]
pub struct SocketAddress {
    path: PathBuf,
    _folder: Option<OwnedFd>,
}

impl SocketAddress {
    /// Makes `path` addressable, opening its folder if the path is too long.
    ///
    /// # Errors
    /// The folder's, if it cannot be opened; `InvalidInput` if `path` has no file name, or one that is too long by itself.
    pub fn new(path: &Path) -> io::Result<Self> {
        if path.as_os_str().len() <= SUN_PATH_MAX {
            return Ok(Self { path: path.to_owned(), _folder: None });
        }
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a socket path needs a file name"));
        };
        let folder =
            rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let short = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
        if short.as_os_str().len() > SUN_PATH_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the socket's file name is too long"));
        }
        Ok(Self { path: short, _folder: Some(folder) })
    }

    /// The path to give to `bind` or `connect`.
    pub fn as_path(&self) -> &Path {
        &self.path
    }
}

/// Connects to the socket at `path`.
///
/// # Errors
/// `NotFound` when nothing is there, `ConnectionRefused` when nobody listens (a left-over socket), `PermissionDenied`,
/// `WouldBlock` when so many wait already that there was no room for 2 s: whoever listens does not accept.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
    let address = SocketAddress::new(path)?;
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_timeout(
        &socket,
        sockopt::Timeout::Send,
        Some(Duration::from_millis(CONNECT_TIMEOUT_MS)),
    )?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(address.as_path())?)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, None)?;
    Ok(UnixStream::from(socket))
}

/// Binds and listens at `path`, which must not exist.
///
/// # Errors
/// `AddrInUse` when something is at the path already, whether or not anybody listens there.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    UnixListener::bind(SocketAddress::new(path)?.as_path())
}

/// Who is at the other end of a connected stream: for a client's stream, the process that called `listen`; for an
/// accepted one, the process that connected (unix(7), `SO_PEERCRED`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Peer {
    /// The process, or `None` when it is in a pid namespace that we cannot see.
    pub pid: Option<u32>,
    /// Its effective user when it called `listen` or `connect`.
    pub uid: u32,
}

impl Peer {
    /// Whether codexd speaks with this user: the one who runs this process, or root, who can do everything anyway.
    pub fn is_trusted(self) -> bool {
        self.uid == 0 || self.uid == rustix::process::geteuid().as_raw()
    }
}

/// Reads the credentials of the other end.
///
/// # Errors
/// The kernel's, if the socket is not a connected Unix socket.
pub fn peer(stream: impl AsFd) -> io::Result<Peer> {
    let credentials = peer_credentials(stream.as_fd())?;
    Ok(Peer { pid: u32::try_from(credentials.pid).ok().filter(|&pid| pid > 0), uid: credentials.uid })
}

/// `rustix` has no form for the pid 0, which stands for a process of another pid namespace (pid_namespaces(7)).
fn peer_credentials(stream: BorrowedFd<'_>) -> io::Result<libc::ucred> {
    let mut credentials = libc::ucred { pid: 0, uid: libc::uid_t::MAX, gid: libc::gid_t::MAX };
    let size = size_of::<libc::ucred>();
    let mut length = libc::socklen_t::try_from(size).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open, and the kernel writes at most `length` bytes to `credentials`, which has that size.
    #[allow(unsafe_code)]
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    if usize::try_from(length).ok() != Some(size) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the kernel returned no peer credentials"));
    }
    Ok(credentials)
}

#[cfg(test)]
mod tests {
    use super::{Peer, bind, connect, peer};

    #[test]
    fn only_this_user_and_root_are_trusted() {
        let me = rustix::process::geteuid().as_raw();
        let peer = |uid| Peer { pid: None, uid };
        assert!(peer(me).is_trusted() && peer(0).is_trusted());
        assert!(!peer(me + 1).is_trusted());
    }

    #[test]
    fn a_path_of_four_hundred_bytes_is_bound_and_reached() {
        let home = tempfile::tempdir().expect("a folder");
        let long = home.path().join("n".repeat(200)).join("m".repeat(200));
        std::fs::create_dir_all(&long).expect("folders");
        let path = long.join("app-server-control.sock");
        let _listener = bind(&path).expect("bound");
        let stream = connect(&path).expect("connected");
        assert_eq!(peer(&stream).expect("credentials").pid, Some(std::process::id()));
    }

    #[test]
    fn a_listener_that_never_accepts_is_not_waited_for_without_end() {
        let home = tempfile::tempdir().expect("a folder");
        let path = home.path().join("s");
        let socket =
            rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM, None)
                .expect("a socket");
        let address = rustix::net::SocketAddrUnix::new(&path).expect("an address");
        rustix::net::bind(&socket, &address).expect("bound");
        rustix::net::listen(&socket, 0).expect("listening");
        let mut queued = Vec::new();
        let error = loop {
            match connect(&path) {
                Ok(stream) => queued.push(stream),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_symbolic_link_at_a_long_path_is_followed() {
        let home = tempfile::tempdir().expect("a folder");
        let real = home.path().join("s");
        let _listener = bind(&real).expect("bound");
        let long = home.path().join("n".repeat(200));
        std::fs::create_dir_all(&long).expect("folder");
        let link = long.join("app-server-control.sock");
        std::os::unix::fs::symlink(&real, &link).expect("link");
        connect(&link).expect("connected through the link");
    }
}
