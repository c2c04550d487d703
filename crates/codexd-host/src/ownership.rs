//! Checks that folders and files belong to this user, and opens them by descriptor.
//!
//! A path proves nothing: a user who may write to a folder above decides what the path leads to. So a folder is opened once, its owner is
//! read from the descriptor, and its files are opened relative to that. A symbolic link is followed only if this user or root created
//! it. root is trusted, because it may do everything anyway.
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

use crate::users;

/// The mode of a folder that only its owner may enter.
const PRIVATE: u32 = 0o700;
const WRITABLE_BY_OTHERS: u32 = 0o022;
const STICKY: u32 = 0o1000;
/// The mode of every file that codexd creates.
const FILE_MODE: Mode = Mode::from_raw_mode(0o600);

/// A folder, a file or a link of another user, which codexd does not use.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{} belongs to {}", .path.display(), users::named(*.uid))]
pub struct ForeignOwner {
    /// The file or folder.
    pub path: PathBuf,
    /// Its owner.
    pub uid: u32,
}

impl ForeignOwner {
    /// The foreign owner that an error carries.
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

/// Whether codexd uses files of this user: the one that runs it, or root.
pub fn is_trusted(uid: u32) -> bool {
    uid == 0 || is_own(uid)
}

fn is_own(uid: u32) -> bool {
    uid == rustix::process::geteuid().as_raw()
}

/// Whether a process belongs to this user or root; `false` if it is not visible.
pub fn is_trusted_process(pid: codexd_core::identity::Pid) -> bool {
    std::fs::metadata(format!("/proc/{pid}")).is_ok_and(|found| is_trusted(found.uid()))
}

/// Whether other users may write to this folder.
pub fn is_writable_by_others(folder: &Path) -> bool {
    Folder::open(folder).is_ok_and(|folder| folder.stat.st_mode & WRITABLE_BY_OTHERS != 0)
}

/// Checks the owner of a home. A home that root would create in the folder of another user counts as that user's.
pub(crate) fn check_root(root: &Path) -> io::Result<()> {
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

/// Checks every folder and link between a home and a file in it, and the file: none may belong to another user, and no folder may be
/// writable by all users.
///
/// # Errors
/// [`ForeignOwner`]; `PermissionDenied` for a writable folder; errors of the file system.
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

/// An open folder of this user or root.
#[derive(Debug)]
pub struct Folder {
    fd: OwnedFd,
    path: PathBuf,
    stat: Stat,
}

impl Folder {
    /// Opens a folder of this user or root. A link to one is followed if this user or root created it.
    ///
    /// # Errors
    /// [`ForeignOwner`]; `NotADirectory`; other errors of the file system.
    pub fn open(path: &Path) -> io::Result<Self> {
        // The parent of a relative path with one component.
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

    /// Opens a folder that belongs to this user; a folder of root does not.
    ///
    /// # Errors
    /// As [`Folder::open`].
    pub fn open_own(path: &Path) -> io::Result<Self> {
        let folder = Self::open(path)?;
        if is_own(folder.stat.st_uid) { Ok(folder) } else { Err(foreign(path, folder.stat.st_uid)) }
    }

    /// Sets the mode to 0700, unless the folder is private already.
    ///
    /// # Errors
    /// Other users may write to the folder, and its mode cannot be changed.
    pub fn make_private(&self) -> io::Result<()> {
        let mode = self.stat.st_mode;
        if mode & 0o077 == 0 && mode & PRIVATE != 0 {
            return Ok(());
        }
        match self.set_private() {
            // A read-only file system refuses this; the folder is used unchanged then.
            Err(error) if mode & WRITABLE_BY_OTHERS != 0 => {
                let path = self.path.display();
                let message =
                    format!("{path} is writable by other users, and its mode cannot be changed: {error}");
                Err(io::Error::new(error.kind(), message))
            }
            _ => Ok(()),
        }
    }

    /// Sets the mode to 0700.
    ///
    /// # Errors
    /// The mode cannot be changed.
    pub fn set_private(&self) -> io::Result<()> {
        // An O_PATH descriptor does not allow fchmod(2); its path in /proc allows chmod(2).
        std::fs::set_permissions(self.address(), Permissions::from_mode(PRIVATE))
    }

    /// A path that leads to this folder as long as it is open.
    pub fn address(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.fd.as_raw_fd()).into()
    }

    /// Syncs the entries of the folder.
    ///
    /// # Errors
    /// The sync failed.
    pub fn sync(&self) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(&self.fd, ".", flags, Mode::empty())?;
        Ok(rustix::fs::fsync(folder)?)
    }

    /// Opens the file `name`: a regular file of this user or root, or a link to one that this user or root created. A file created by `flags`
    /// gets the mode 0600.
    ///
    /// # Errors
    /// [`ForeignOwner`]; `InvalidInput` if it is no regular file; other errors of the file system.
    pub fn open_file(&self, name: &Path, flags: OFlags) -> io::Result<File> {
        let path = self.path.join(name);
        // Opening a FIFO would block until its other end is opened.
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
        // An app-server that inherits the file expects it to be blocking.
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

    /// Renames the file `from` to `to` and replaces an existing file.
    ///
    /// # Errors
    /// The rename failed.
    pub fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.fd, from, &self.fd, to)?)
    }

    /// Removes the file `name`. A missing file is no error.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn remove(&self, name: &Path) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Opens the file at a path with `O_PATH`; of a link the link itself.
fn open_in_place(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
}

/// The target of an open link, if this user or root created it.
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

/// The error for a file that open(2) refuses: a socket, a folder, or a FIFO without a reader.
fn not_openable(error: Errno, path: &Path) -> io::Error {
    if matches!(error, Errno::NXIO | Errno::ISDIR) { not_regular(path) } else { error.into() }
}

/// Opens the folder of a path, and returns it with the file name.
///
/// # Errors
/// As [`Folder::open`]; `InvalidInput` if the path has no name.
pub fn folder_of(path: &Path) -> io::Result<(Folder, &Path)> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(ErrorKind::InvalidInput, format!("{} has no file name", path.display())));
    };
    Ok((Folder::open(folder)?, Path::new(name)))
}

/// Opens a file in a folder of this user or root: see [`Folder::open_file`].
///
/// # Errors
/// As [`Folder::open`] and [`Folder::open_file`].
pub fn open_file(path: &Path, flags: OFlags) -> io::Result<File> {
    let (folder, name) = folder_of(path)?;
    folder.open_file(name, flags)
}

/// Binds a listening socket with mode 0600, in a folder of this user.
///
/// # Errors
/// As [`Folder::open_own`] and [`codexd_protocol::unix::bind`]; `NotFound` if another folder took the place of the folder meanwhile.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(ErrorKind::InvalidInput, format!("{} has no file name", path.display())));
    };
    let folder = Folder::open_own(parent)?;
    let listener = codexd_protocol::unix::bind(path)?;
    // bind(2) takes the path, so that the address shows it; this checks that the path led to the opened folder.
    let made = rustix::fs::statat(&folder.fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(made.st_mode) != FileType::Socket {
        return Err(io::Error::new(ErrorKind::NotFound, format!("{} is no longer a socket", path.display())));
    }
    std::fs::set_permissions(folder.address().join(name), Permissions::from_mode(0o600))?;
    Ok(listener)
}

#[cfg(test)]
mod tests;
