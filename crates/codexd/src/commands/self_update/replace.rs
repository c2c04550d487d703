//! Replacing the binary in its folder: a copy beside it, then one rename. The folder is locked, so two updates do not mix.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use codexd_core::contract::{ErrorCode, Failure};
use rustix::fs::FlockOperation;

use super::{sync_folder, unwritable, update_file};

/// The ending of the copy's name; a dot stands before the name.
const COPY_ENDING: &str = ".new";
/// The ending of the name of the replaced binary.
const PREVIOUS_ENDING: &str = ".previous";

/// A replacement that was begun. The copy is removed when this is dropped.
pub struct Replacement<'b> {
    binary: &'b Path,
    folder: PathBuf,
    copy: PathBuf,
    /// Holds the lock.
    _locked: File,
}

impl<'b> Replacement<'b> {
    /// Locks the folder of the binary.
    ///
    /// # Errors
    /// Another update of this binary runs, or the folder cannot be opened.
    pub fn begin(binary: &'b Path) -> Result<Replacement<'b>, Failure> {
        let folder = binary.parent().unwrap_or(Path::new("/")).to_owned();
        let locked = File::open(&folder).map_err(|error| unwritable("open", &folder, &error))?;
        match rustix::fs::flock(&locked, FlockOperation::NonBlockingLockExclusive) {
            // A file system without locks: the rename still replaces the binary as a whole.
            Ok(()) | Err(rustix::io::Errno::NOTSUP | rustix::io::Errno::NOLCK) => {}
            Err(_) => {
                let message = format!("another `codexd self-update` works in {}", folder.display());
                return Err(Failure::new(ErrorCode::LockTimeout, message)
                    .hint("run the command again when it has ended"));
            }
        }
        let copy = folder.join(format!(".{}{COPY_ENDING}", name_of(binary)));
        Ok(Replacement { binary, folder, copy, _locked: locked })
    }

    /// Lets `write` fill the copy, which gets owner and mode of the binary and is synced. A copy that a killed update left is discarded.
    ///
    /// # Errors
    /// That of `write`, or of the file system.
    pub fn copy<T>(
        &self,
        write: impl FnOnce(&mut File) -> Result<T, Failure>,
    ) -> Result<(T, PathBuf), Failure> {
        let failed = |error: io::Error| unwritable("write", &self.copy, &error);
        match fs::remove_file(&self.copy) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let model = fs::metadata(self.binary).map_err(|error| unwritable("read", self.binary, &error))?;
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.copy).map_err(failed)?;
        let written = write(&mut file)?;
        let own = file.metadata().map_err(failed)?;
        if (own.uid(), own.gid()) != (model.uid(), model.gid()) {
            fchown(&file, Some(model.uid()), Some(model.gid())).map_err(failed)?;
        }
        // Not setuid and setgid: they were given to the old contents.
        file.set_permissions(PermissionsExt::from_mode(model.mode() & 0o777)).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        Ok((written, self.copy.clone()))
    }

    /// Gives the copy the name of the binary, and the binary the name of the previous one. Returns that path.
    ///
    /// # Errors
    /// Of the file system, or the file under the name of the binary is not the copy afterwards.
    pub fn finish(self, sha256: &str) -> Result<PathBuf, Failure> {
        let previous = self.folder.join(format!("{}{PREVIOUS_ENDING}", name_of(self.binary)));
        keep_previous(self.binary, &previous).map_err(|error| unwritable("write", &previous, &error))?;
        fs::rename(&self.copy, self.binary).map_err(|error| unwritable("replace", self.binary, &error))?;
        let synced = sync_folder(&self.folder);
        let is_there = update_file::sha256_of(self.binary).is_ok_and(|found| found == sha256);
        if synced.is_ok() && is_there {
            return Ok(previous);
        }
        let why =
            synced.err().map_or_else(|| "another program replaced it".to_owned(), |error| error.to_string());
        let message =
            format!("{} was replaced, but it is not sure that it stays: {why}", self.binary.display());
        Err(Failure::new(ErrorCode::Internal, message)
            .hint(format!("run the command again; the binary before is {}", previous.display())))
    }
}

impl Drop for Replacement<'_> {
    fn drop(&mut self) {
        // After `finish` there is none.
        let _ = fs::remove_file(&self.copy);
    }
}

/// A second name for the binary, which keeps its own until the rename. Where hard links do not work, a copy.
fn keep_previous(binary: &Path, previous: &Path) -> io::Result<()> {
    let beside = previous.with_added_extension("new");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    if fs::hard_link(binary, &beside).is_err() {
        fs::copy(binary, &beside)?;
        File::open(&beside)?.sync_all()?;
    }
    fs::rename(&beside, previous)?;
    // A rename of two names of one file does nothing and leaves both.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn name_of(binary: &Path) -> String {
    binary.file_name().map_or_else(|| "codexd".to_owned(), |name| name.to_string_lossy().into_owned())
}
