//! A short socket path for app-servers that cannot bind a long one (0.131.0), with a link at the long path.
//!
//! The path is `<runtime folder>/codexd-<uid>/<hash>.sock`, in a folder that only its owner may enter. The hash is that of the long path, so
//! every command and every supervisor derives the same one.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use sha2::{Digest, Sha256};

use crate::atomic;
use crate::ownership::{Folder, ForeignOwner};

/// Bytes of the hash: enough to distinguish homes, few enough to keep the path short.
const HASH_BYTES: usize = 12;

/// Creates the folder and the link for `socket`. Returns the short path.
///
/// # Errors
/// `PermissionDenied` if the folder belongs to another user or others may enter it; errors of the file system.
pub fn prepare(socket: &Path) -> io::Result<PathBuf> {
    let short = short_path(socket)?;
    match fs::read_link(socket) {
        Ok(target) if target == short => return Ok(short),
        _ => {}
    }
    let beside = socket.with_extension(format!("{}.tmp", std::process::id()));
    atomic::remove_if_exists(&beside)?;
    std::os::unix::fs::symlink(&short, &beside)?;
    fs::rename(&beside, socket)?;
    Ok(short)
}

/// Whether the file at `socket` is such a link. It dangles once its app-server has exited, which is no defect.
pub fn is_ours(socket: &Path) -> bool {
    matches!((fs::read_link(socket), short_path(socket)), (Ok(target), Ok(short)) if target == short)
}

fn short_path(socket: &Path) -> io::Result<PathBuf> {
    let me = rustix::process::geteuid().as_raw();
    let base = std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|base| base.is_absolute() && base.as_os_str().len() < 40 && Folder::open_own(base).is_ok());
    let folder = base.unwrap_or_else(|| PathBuf::from("/tmp")).join(format!("codexd-{me}"));
    match rustix::fs::mkdir(&folder, Mode::RWXU) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    // Another user may have created it first: it must be a folder of this user, no link, and private.
    let found = fs::symlink_metadata(&folder)?;
    if found.uid() != me {
        return Err(ForeignOwner { path: folder, uid: found.uid() }.into());
    }
    if !found.is_dir() || found.permissions().mode() & 0o077 != 0 {
        let message = format!("{} is not a folder that only its owner can access", folder.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    let hash = Sha256::digest(socket.as_os_str().as_bytes());
    let name: String = hash.iter().take(HASH_BYTES).map(|byte| format!("{byte:02x}")).collect();
    Ok(folder.join(format!("{name}.sock")))
}
