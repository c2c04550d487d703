//! Files that are replaced as a whole: a new file is written beside the old one and renamed over it.

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use codexd_core::identity::Pid;
use codexd_core::limits::STATE_FILE_MAX_BYTES;
use rustix::fs::{Mode, OFlags};

use crate::ownership::{self, Folder};
use crate::process;

/// The error of the kernel's boot time, and so of every start time.
const START_IS_KNOWN_TO_SECONDS: i64 = 2;

/// What the contents of a file must survive.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Durability {
    /// The death of any process, but not of the machine: the contents are void after a reboot.
    Process,
    /// A power cut: the contents are synced before the rename and the folder after it.
    Power,
}

/// Replaces the file at `path` by `contents`, mode 0600. If this process is killed meanwhile, a temporary file stays until
/// [`remove_abandoned`] is called.
///
/// # Errors
/// Errors of the file system. The old file is unchanged then, and no other file stays.
pub fn replace(path: &Path, contents: &[u8], durability: Durability) -> io::Result<()> {
    let (folder, name) = ownership::folder_of(path)?;
    let beside = name.with_added_extension(format!("{}.tmp", std::process::id()));
    let result = write_and_rename(&folder, &beside, name, contents, durability);
    if result.is_err() {
        let _ = folder.remove(&beside);
    }
    result
}

fn write_and_rename(
    folder: &Folder,
    beside: &Path,
    name: &Path,
    contents: &[u8],
    durability: Durability,
) -> io::Result<()> {
    // A dead process with the same pid may have left one; no existing file is written to.
    folder.remove(beside)?;
    let mut file = folder.open_file(beside, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)?;
    allow_owner(&file)?;
    file.write_all(contents)?;
    if durability == Durability::Power {
        file.sync_all()?;
    }
    drop(file);
    folder.rename(beside, name)?;
    if durability == Durability::Power { folder.sync() } else { Ok(()) }
}

/// Removes a file. A missing file is no error.
///
/// # Errors
/// The file cannot be removed.
pub fn remove_if_exists(path: &Path) -> io::Result<()> {
    let (folder, name) = match ownership::folder_of(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    folder.remove(name)
}

/// Removes the temporary files of killed writers of `names` in `folder`. The file of a running writer stays.
pub fn remove_abandoned(folder: &Path, names: &[&str]) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let writer = name.to_str().and_then(|name| names.iter().find_map(|base| writer_of(name, base)));
        let Some(writer) = writer else { continue };
        if entry.metadata().is_ok_and(|beside| !beside.is_dir() && is_abandoned(writer, &beside)) {
            // A file that cannot be removed stays; it is never read.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// The writer of a temporary file, if [`replace`] uses this name for the file `base`.
fn writer_of(name: &str, base: &str) -> Option<Pid> {
    let pid = name.strip_prefix(base)?.strip_prefix('.')?.strip_suffix(".tmp")?;
    pid.bytes().all(|byte| byte.is_ascii_digit()).then(|| pid.parse().ok().map(Pid))?
}

/// Whether the writer has exited. A process with its pid that started after the write is another one; start times are known in whole
/// seconds only.
fn is_abandoned(writer: Pid, beside: &Metadata) -> bool {
    let started = || process::started_at_seconds(process::stat(writer)?.start_ticks);
    process::is_free(writer)
        || started().is_some_and(|started| started > beside.mtime() + START_IS_KNOWN_TO_SECONDS)
}

/// Lets the owner read and write a new file: a umask may have removed these rights.
pub(crate) fn allow_owner(file: &File) -> io::Result<()> {
    let mode = Mode::from_raw_mode(rustix::fs::fstat(file)?.st_mode);
    let owner = Mode::RUSR | Mode::WUSR;
    if !mode.contains(owner) {
        rustix::fs::fchmod(file, mode | owner)?;
    }
    Ok(())
}

/// Copies an unusable file to a name of its own beside it, and returns that name. The file itself stays.
///
/// # Errors
/// Errors of the file system. No partial copy stays then.
pub fn keep_copy(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let stamp = jiff::Timestamp::now().as_millisecond();
    let aside = path.with_file_name(format!("{name}.corrupt-{stamp}"));
    match fs::hard_link(path, &aside) {
        Ok(()) => Ok(aside),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
        // Not every file system has hard links.
        Err(_) => copy(path, &aside).map(|()| aside),
    }
}

fn copy(path: &Path, to: &Path) -> io::Result<()> {
    let mut from = open_regular(path)?;
    let mut copy = ownership::open_file(to, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)?;
    let written =
        allow_owner(&copy).and_then(|()| io::copy(&mut from, &mut copy)).and_then(|_| copy.sync_all());
    if written.is_err() {
        let _ = fs::remove_file(to);
    }
    written
}

/// Reads a file; `None` if it is missing.
///
/// # Errors
/// `InvalidInput` if it is no regular file, `FileTooLarge` past [`STATE_FILE_MAX_BYTES`]; other errors of the file system.
pub fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match open_regular(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let mut contents = Vec::new();
    file.take(STATE_FILE_MAX_BYTES + 1).read_to_end(&mut contents)?;
    if contents.len() as u64 > STATE_FILE_MAX_BYTES {
        let message = format!("{} is larger than {STATE_FILE_MAX_BYTES} bytes", path.display());
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(Some(contents))
}

/// Opens a regular file of this user for reading.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    ownership::open_file(path, OFlags::RDONLY)
}

#[cfg(test)]
mod tests {
    use super::{Durability, allow_owner, copy, keep_copy, open_regular, read, remove_abandoned, replace};
    use codexd_core::limits::STATE_FILE_MAX_BYTES;
    use rustix::fs::{CWD, Mode};
    use std::fs::{File, Permissions};
    use std::io::ErrorKind;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_replaced_file_is_private_and_leaves_no_other_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.json");
        replace(&path, b"1", Durability::Power).expect("written");
        replace(&path, b"2", Durability::Process).expect("written");
        assert_eq!(read(&path).expect("read").as_deref(), Some(b"2".as_slice()));
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).expect("listed").count(), 1);
    }

    #[test]
    fn the_temporary_file_of_a_killed_writer_is_removed_and_that_of_a_running_one_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: String| {
            std::fs::write(folder.path().join(&name), "half").expect("written");
            name
        };
        let mut gone = std::process::Command::new("true").spawn().expect("a child");
        gone.wait().expect("ended and reaped");
        let gone = gone.id();
        let abandoned = write(format!("x.json.{gone}.tmp"));
        let mut stays: Vec<String> = [format!("x.json.{}.tmp", std::process::id())]
            .into_iter()
            .chain(
                ["x.json", "x.json.tmp", "x.json..tmp", "x.json.+1.tmp", "x.json.a.tmp"].map(str::to_owned),
            )
            .chain([format!("y.json.{gone}.tmp"), format!("x.json.old.{gone}.tmp")])
            .map(write)
            .collect();
        // The pid of a running process that is younger than the file: the pid was reused.
        let reused = write("x.json.1.tmp".to_owned());
        let long_ago = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1);
        let file = File::options().write(true).open(folder.path().join(&reused)).expect("opened");
        file.set_modified(long_ago).expect("aged");
        remove_abandoned(folder.path(), &["x.json"]);
        let entries = std::fs::read_dir(folder.path()).expect("listed").flatten();
        let mut left: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        left.sort();
        stays.sort();
        assert_eq!(left, stays, "without {abandoned} and {reused}");
        remove_abandoned(&folder.path().join("none"), &["x.json"]);
    }

    #[test]
    fn an_unusable_file_is_copied_and_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.json");
        std::fs::write(&path, "{ bad").expect("written");
        let aside = keep_copy(&path).expect("linked");
        let copied = folder.path().join("copied");
        copy(&path, &copied).expect("copied, where links are unknown");
        for file in [&path, &aside, &copied] {
            assert_eq!(std::fs::read_to_string(file).expect("there"), "{ bad");
        }
    }

    #[test]
    fn only_regular_files_of_a_bounded_size_are_read_without_blocking() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        rustix::fs::mkfifoat(CWD, path("fifo"), Mode::RWXU).expect("made");
        std::fs::create_dir(path("folder")).expect("made");
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).expect("bound");
        for name in ["fifo", "folder", "socket"] {
            let error = read(&path(name)).expect_err("no file");
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
            assert!(error.to_string().contains(name), "{error}");
        }
        let huge = File::create(path("huge")).expect("made");
        huge.set_len(STATE_FILE_MAX_BYTES + 1).expect("grown");
        assert_eq!(read(&path("huge")).expect_err("too large").kind(), ErrorKind::FileTooLarge);
        assert_eq!(read(&path("none")).expect("absent is no error"), None);
        assert_eq!(read(&path("huge").join("below")).expect("absent is no error"), None);
    }

    #[test]
    fn the_owner_may_read_and_write_a_file_in_spite_of_the_umask() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x");
        let file = File::create(&path).expect("made");
        file.set_permissions(Permissions::from_mode(0o000)).expect("closed");
        allow_owner(&file).expect("opened");
        assert_eq!(file.metadata().expect("there").permissions().mode() & 0o777, 0o600);
        open_regular(&path).expect("readable");
    }
}
