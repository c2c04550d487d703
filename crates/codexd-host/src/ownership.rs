//! Which folders and files belong to this user, and access to them by descriptor.
//!
//! A path proves nothing: where another user may write to a folder above, that user decides what stands there. So a folder is
//! opened once, its owner is read from the descriptor, and the files in it are opened relative to that. A symbolic link is
//! followed only if this user or root made it. root is trusted: it can do everything anyway.
//!
//! Failure modes: an error of the kind `PermissionDenied` that carries a [`ForeignOwner`]; nothing was read or written then.

use std::fs::{File, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::home::Home;
use crate::users;

/// The mode of a folder that only its owner may enter.
const PRIVATE: u32 = 0o700;
const WRITABLE_BY_OTHERS: u32 = 0o022;
const STICKY: u32 = 0o1000;
/// The mode of every file that codexd makes.
const FILE_MODE: Mode = Mode::from_raw_mode(0o600);

/// A folder, a file or a link of another user, which codexd does not use.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{} belongs to {}", .path.display(), users::named(*.uid))]
pub struct ForeignOwner {
    /// What belongs to the other user.
    pub path: PathBuf,
    /// The other user.
    pub uid: u32,
}

impl ForeignOwner {
    /// The one that an error carries.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

impl From<ForeignOwner> for io::Error {
    fn from(foreign: ForeignOwner) -> Self {
        io::Error::new(ErrorKind::PermissionDenied, foreign)
    }
}

fn foreign(path: &Path, uid: u32) -> io::Error {
    ForeignOwner { path: path.to_owned(), uid }.into()
}

/// Whether codexd uses what belongs to this user: the user who runs it, or root.
pub fn is_trusted(uid: u32) -> bool {
    uid == 0 || is_own(uid)
}

fn is_own(uid: u32) -> bool {
    uid == rustix::process::geteuid().as_raw()
}

/// Whether the process belongs to this user or root; `false` if it cannot be seen.
pub fn is_trusted_process(pid: codexd_core::identity::Pid) -> bool {
    std::fs::metadata(format!("/proc/{pid}")).is_ok_and(|found| is_trusted(found.uid()))
}

/// Checks the folders of a home before anything in them is used. What does not exist is no error. A home that root owns
/// serves every user who may write to it; the folders in it belong to one user.
///
/// # Errors
/// [`ForeignOwner`]; the file system's.
pub fn check_home(home: &Home) -> io::Result<()> {
    check_root(home.root())?;
    check_state(home)
}

/// As [`check_home`], for a home that may belong to another user: only the folders of codexd are checked.
///
/// # Errors
/// As [`check_home`].
pub fn check_state(home: &Home) -> io::Result<()> {
    for path in [home.state_dir(), home.control_dir()] {
        match Folder::open_own(&path) {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
            other => drop(other?),
        }
    }
    Ok(())
}

/// Whether other users may write to this folder.
pub fn is_writable_by_others(folder: &Path) -> bool {
    Folder::open(folder).is_ok_and(|folder| folder.stat.st_mode & WRITABLE_BY_OTHERS != 0)
}

/// A home that root would create in the folder of another user counts as that user's.
fn check_root(root: &Path) -> io::Result<()> {
    let uid = match std::fs::metadata(root) {
        Ok(found) => found.uid(),
        Err(error) if error.kind() == ErrorKind::NotFound && is_own(0) => {
            let existing = root.ancestors().skip(1).find_map(|folder| std::fs::metadata(folder).ok());
            existing.map_or(0, |found| found.uid())
        }
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if is_trusted(uid) { Ok(()) } else { Err(foreign(root, uid)) }
}

/// Checks every folder and link between a home and a file in it: none of them, nor the file, may be another user's, and none of
/// the folders may be open to all for writing.
///
/// # Errors
/// [`ForeignOwner`]; the file system's.
pub fn check_below(root: &Path, file: &Path) -> io::Result<()> {
    let below = file.strip_prefix(root).unwrap_or(file);
    let mut place = root.to_owned();
    for part in below.components() {
        place.push(part);
        for found in [std::fs::symlink_metadata(&place)?, std::fs::metadata(&place)?] {
            if !is_trusted(found.uid()) {
                return Err(foreign(&place, found.uid()));
            }
            if !found.is_symlink() && found.mode() & 0o002 != 0 && found.mode() & STICKY == 0 {
                let message = format!("{} is writable by every user", place.display());
                return Err(io::Error::new(ErrorKind::PermissionDenied, message));
            }
        }
    }
    Ok(())
}

/// A folder of this user, open.
#[derive(Debug)]
pub struct Folder {
    fd: OwnedFd,
    path: PathBuf,
    stat: Stat,
}

impl Folder {
    /// Opens a folder of this user or of root. A link to one is followed if this user or root made it.
    ///
    /// # Errors
    /// [`ForeignOwner`]; `NotADirectory`; the file system's.
    pub fn open(path: &Path) -> io::Result<Self> {
        // The folder of a relative name without one.
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let fd = open_in_place(path)?;
        let stat = rustix::fs::fstat(&fd)?;
        let (fd, stat) = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => {
                let target = target_of(&fd, &stat, path)?;
                let target = path.parent().unwrap_or(Path::new("/")).join(target);
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let fd = rustix::fs::open(&target, flags, Mode::empty())?;
                let stat = rustix::fs::fstat(&fd)?;
                (fd, stat)
            }
            FileType::Directory => (fd, stat),
            _ => {
                let message = format!("{} is not a folder", path.display());
                return Err(io::Error::new(ErrorKind::NotADirectory, message));
            }
        };
        if !is_trusted(stat.st_uid) {
            return Err(foreign(path, stat.st_uid));
        }
        Ok(Self { fd, path: path.to_owned(), stat })
    }

    /// Opens a folder that belongs to this very user: root's own is another user's here.
    ///
    /// # Errors
    /// As [`Folder::open`].
    pub fn open_own(path: &Path) -> io::Result<Self> {
        let folder = Self::open(path)?;
        if is_own(folder.stat.st_uid) { Ok(folder) } else { Err(foreign(path, folder.stat.st_uid)) }
    }

    /// Closes the folder to everybody but its owner, and opens it to the owner, whatever a umask has made of it.
    ///
    /// # Errors
    /// The file system's, if other users may write to the folder and that cannot be changed.
    pub fn make_private(&self) -> io::Result<()> {
        let mode = self.stat.st_mode;
        if mode & 0o077 == 0 && mode & PRIVATE != 0 {
            return Ok(());
        }
        match self.set_private() {
            // A read-only file system refuses this; the folder is used as it is then.
            Err(error) if mode & WRITABLE_BY_OTHERS != 0 => {
                let path = self.path.display();
                let message =
                    format!("{path} is writable by other users, and its mode cannot be changed: {error}");
                Err(io::Error::new(error.kind(), message))
            }
            _ => Ok(()),
        }
    }

    /// Gives the folder the mode 0700.
    ///
    /// # Errors
    /// The file system's.
    pub fn set_private(&self) -> io::Result<()> {
        // The descriptor itself gives no such right, its name in /proc does.
        std::fs::set_permissions(self.address(), Permissions::from_mode(PRIVATE))
    }

    /// A path that leads to this very folder for as long as it is open.
    pub fn address(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.fd.as_raw_fd()).into()
    }

    /// Syncs the entries of the folder.
    ///
    /// # Errors
    /// The file system's.
    pub fn sync(&self) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(&self.fd, ".", flags, Mode::empty())?;
        Ok(rustix::fs::fsync(folder)?)
    }

    /// Opens the file `name`, which is a regular file of this user or of root, or a link to one that this user or root made. It is
    /// made with the mode 0600 if `flags` say so.
    ///
    /// # Errors
    /// [`ForeignOwner`]; `InvalidInput` if it is no regular file; the file system's.
    pub fn open_file(&self, name: &Path, flags: OFlags) -> io::Result<File> {
        let path = self.path.join(name);
        // To open a FIFO would wait for its other end.
        let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(&self.fd, name, flags | OFlags::NOFOLLOW, FILE_MODE) {
            Err(Errno::LOOP) => self.open_through_link(name, &path, flags),
            other => other.map_err(|error| not_openable(error, &path)),
        }?;
        let stat = rustix::fs::fstat(&fd)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(not_regular(&path));
        }
        if !is_trusted(stat.st_uid) {
            return Err(foreign(&path, stat.st_uid));
        }
        // A server that inherits the file is to find it as files are opened usually.
        let status = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, status - OFlags::NONBLOCK)?;
        Ok(File::from(fd))
    }

    fn open_through_link(&self, name: &Path, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let link = rustix::fs::openat(
            &self.fd,
            name,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let stat = rustix::fs::fstat(&link)?;
        let target = target_of(&link, &stat, path)?;
        rustix::fs::openat(&self.fd, &target, flags, FILE_MODE).map_err(|error| not_openable(error, path))
    }

    /// Gives the file `from` the name `to`, in the place of what has it.
    ///
    /// # Errors
    /// The file system's.
    pub fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.fd, from, &self.fd, to)?)
    }

    /// Removes the file `name`. A missing file is no error.
    ///
    /// # Errors
    /// The file system's.
    pub fn remove(&self, name: &Path) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Opens what stands at a path, also a link itself, without reading it.
fn open_in_place(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
}

/// Where an open link leads, if this user or root made it.
fn target_of(link: impl AsFd, stat: &Stat, path: &Path) -> io::Result<PathBuf> {
    if !is_trusted(stat.st_uid) {
        return Err(foreign(path, stat.st_uid));
    }
    let target = rustix::fs::readlinkat(link, "", Vec::new())?;
    Ok(PathBuf::from(std::ffi::OsString::from_vec(target.into_bytes())))
}

fn not_regular(path: &Path) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, format!("{} is not a regular file", path.display()))
}

/// What open(2) answers for a socket, and for a FIFO without a reader.
fn not_openable(error: Errno, path: &Path) -> io::Error {
    if matches!(error, Errno::NXIO | Errno::ISDIR) { not_regular(path) } else { error.into() }
}

/// Splits a path into its folder, which is opened, and the name in it.
///
/// # Errors
/// As [`Folder::open`]; `InvalidInput` if the path has no name.
pub fn folder_of(path: &Path) -> io::Result<(Folder, &Path)> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(ErrorKind::InvalidInput, format!("{} has no file name", path.display())));
    };
    Ok((Folder::open(folder)?, Path::new(name)))
}

/// Opens a file in a folder of this user or of root: see [`Folder::open_file`].
///
/// # Errors
/// As [`Folder::open`] and [`Folder::open_file`].
pub fn open_file(path: &Path, flags: OFlags) -> io::Result<File> {
    let (folder, name) = folder_of(path)?;
    folder.open_file(name, flags)
}

/// Binds a listening socket for its owner alone, in a folder of this very user.
///
/// # Errors
/// As [`Folder::open_own`] and [`codexd_protocol::unix::bind`]; `NotFound` if another folder took the place of the folder meanwhile.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(ErrorKind::InvalidInput, format!("{} has no file name", path.display())));
    };
    let folder = Folder::open_own(parent)?;
    let listener = codexd_protocol::unix::bind(path)?;
    // The address holds the path, for people; that it led to this folder is checked here.
    let made = rustix::fs::statat(&folder.fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(made.st_mode) != FileType::Socket {
        return Err(io::Error::new(ErrorKind::NotFound, format!("{} is no longer a socket", path.display())));
    }
    std::fs::set_permissions(folder.address().join(name), Permissions::from_mode(0o600))?;
    Ok(listener)
}

#[cfg(test)]
mod tests;
