//! Files that are never half there: written beside, then renamed over.

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use codexd_core::identity::Pid;
use codexd_core::limits::STATE_FILE_MAX_BYTES;
use rustix::fs::{Mode, OFlags};

use crate::ownership::{self, Folder};
use crate::process;

/// By so much the boot time that the kernel tells, and so every start, may be off.
const START_IS_KNOWN_TO_SECONDS: i64 = 2;

/// How much a file must survive.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Durability {
    /// The death of any process, not that of the machine: what it says is void after a reboot anyway.
    Process,
    /// A power cut: the contents are synced before the rename and the folder after it.
    Power,
}

/// Replaces the file at `path` by `contents`, mode 0600.
///
/// # Errors
/// The file system's. Whatever goes wrong, the old file is untouched and no other file is left behind, unless the
/// process is killed in between: then a file named after it stays until [`remove_abandoned`] is called.
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
    // A process of the same number may have left one, and nothing that is there already is written to.
    folder.remove(beside)?;
    let mut file = folder.open_file(beside, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)?;
    let_owner_in(&file)?;
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
/// The file system's.
pub fn remove_if_exists(path: &Path) -> io::Result<()> {
    let (folder, name) = match ownership::folder_of(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    folder.remove(name)
}

/// Removes what writers of `names` in `folder` left beside them when they were killed before the rename. That of a living
/// writer stays, however long it takes.
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

/// Whose file a name is, if it is one that [`replace`] makes beside the file `base`.
fn writer_of(name: &str, base: &str) -> Option<Pid> {
    let pid = name.strip_prefix(base)?.strip_prefix('.')?.strip_suffix(".tmp")?;
    pid.bytes().all(|byte| byte.is_ascii_digit()).then(|| pid.parse().ok().map(Pid))?
}

/// Whether the writer has ended. A process of its number that started after it wrote is another one; when a process started
/// is told in whole seconds only.
fn is_abandoned(writer: Pid, beside: &Metadata) -> bool {
    let started = || process::started_at_seconds(process::stat(writer)?.start_ticks);
    process::is_free(writer)
        || started().is_some_and(|started| started > beside.mtime() + START_IS_KNOWN_TO_SECONDS)
}

/// Lets the owner of a file that was just made read and write it: a umask may have taken that, too.
pub(crate) fn let_owner_in(file: &File) -> io::Result<()> {
    let mode = Mode::from_raw_mode(rustix::fs::fstat(file)?.st_mode);
    let owner = Mode::RUSR | Mode::WUSR;
    if !mode.contains(owner) {
        rustix::fs::fchmod(file, mode | owner)?;
    }
    Ok(())
}

/// Keeps a copy of a file that cannot be used, under a name of its own beside it, and answers that name. The file itself
/// stays where it is.
///
/// # Errors
/// The file system's; no part of a copy is left behind then.
pub fn keep_copy(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let stamp = jiff::Timestamp::now().as_millisecond();
    let aside = path.with_file_name(format!("{name}.corrupt-{stamp}"));
    match fs::hard_link(path, &aside) {
        Ok(()) => Ok(aside),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
        // Not every file system has links.
        Err(_) => copy(path, &aside).map(|()| aside),
    }
}

fn copy(path: &Path, to: &Path) -> io::Result<()> {
    let mut from = open_regular(path)?;
    let mut copy = ownership::open_file(to, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)?;
    let written =
        let_owner_in(&copy).and_then(|()| io::copy(&mut from, &mut copy)).and_then(|_| copy.sync_all());
    if written.is_err() {
        let _ = fs::remove_file(to);
    }
    written
}

/// Reads a file that may be absent.
///
/// # Errors
/// The file system's, but for absence; `InvalidInput` if something else than a file is there, `FileTooLarge` past
/// [`STATE_FILE_MAX_BYTES`].
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

/// Opens a file of this user for reading, and nothing but a file.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    ownership::open_file(path, OFlags::RDONLY)
}

#[cfg(test)]
mod tests {
    use super::{Durability, copy, keep_copy, let_owner_in, open_regular, read, remove_abandoned, replace};
    use codexd_core::limits::STATE_FILE_MAX_BYTES;
    use rustix::fs::{CWD, Mode};
    use std::fs::{File, Permissions};
    use std::io::ErrorKind;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_replaced_file_is_private_and_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.json");
        replace(&path, b"1", Durability::Power).expect("written");
        replace(&path, b"2", Durability::Process).expect("written");
        assert_eq!(read(&path).expect("read").as_deref(), Some(b"2".as_slice()));
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).expect("listed").count(), 1);
    }

    #[test]
    fn what_a_killed_writer_left_is_removed_and_that_of_a_living_one_stays() {
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
        // A number of a living process, and older than that: it was given out anew.
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
    fn a_bad_file_is_kept_under_another_name_and_stays_where_it_is() {
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
    fn only_files_of_a_bounded_size_are_read_and_nothing_waits() {
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
    fn the_owner_may_read_and_write_what_a_umask_has_closed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x");
        let file = File::create(&path).expect("made");
        file.set_permissions(Permissions::from_mode(0o000)).expect("closed");
        let_owner_in(&file).expect("opened");
        assert_eq!(file.metadata().expect("there").permissions().mode() & 0o777, 0o600);
        open_regular(&path).expect("readable");
    }
}
