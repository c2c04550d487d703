//! The lock that every installer of a home holds: `flock` on `install.lock`. Where flock(1) is missing, the official installer creates a
//! folder instead, for which codexd waits as well.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime};

use codexd_core::foreign_text::quote;
use rustix::io::Errno;
use rustix::process::Pid;

use crate::error::InstallError;
use crate::limits::{LOCK_FOLDER_POLL, LOCK_FOLDER_STALE_AFTER, LOCK_HOLDER_BYTES_MAX};
use crate::store::paths::StorePaths;

/// The lock, held until it is dropped or the process exits.
#[derive(Debug)]
pub struct InstallLock {
    file: File,
}

impl InstallLock {
    /// Takes the lock. While another installer holds it, `on_wait` is called with what it wrote about itself.
    ///
    /// # Errors
    /// [`InstallError::Locked`] after `timeout`; the error of the file system.
    pub fn take(
        paths: &StorePaths,
        timeout: Duration,
        on_wait: &mut dyn FnMut(&str),
    ) -> Result<Self, InstallError> {
        let (path, until) = (paths.lock(), Instant::now() + timeout);
        let failed = |error| InstallError::File { what: "lock", path: path.clone(), error };
        let mut options = OpenOptions::new();
        let file = options.read(true).append(true).create(true).mode(0o644).open(&path).map_err(failed)?;
        let file = match file.try_lock() {
            Ok(()) => file,
            Err(TryLockError::Error(error)) => return Err(failed(error)),
            Err(TryLockError::WouldBlock) => {
                on_wait(&holder(&path).unwrap_or_default());
                let locked = lock_within(file, timeout).map_err(failed)?;
                locked.ok_or_else(|| timed_out(&path, timeout))?
            }
        };
        await_lock_folder(&paths.lock_folder(), until, timeout, on_wait)?;
        let mut lock = Self { file };
        // The text is for people.
        let text = format!("pid {} (codexd) since {}\n", std::process::id(), jiff::Timestamp::now());
        let _ = lock.file.set_len(0).and_then(|()| lock.file.write_all(text.as_bytes()));
        Ok(lock)
    }
}

impl Drop for InstallLock {
    fn drop(&mut self) {
        // A file with text has a holder.
        let _ = self.file.set_len(0);
    }
}

fn timed_out(path: &Path, waited: Duration) -> InstallError {
    InstallError::Locked { path: path.to_owned(), waited, holder: holder(path) }
}

fn holder(path: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(LOCK_HOLDER_BYTES_MAX).read_to_string(&mut text).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| quote(text))
}

/// flock(2) has no timeout, so a thread waits in it. After the timeout the thread stays; if it gets the lock, dropping the file
/// releases it.
fn lock_within(file: File, timeout: Duration) -> io::Result<Option<File>> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let result = file.lock();
        let _ = sender.send(result.map(|()| file));
    });
    receiver.recv_timeout(timeout).ok().transpose()
}

/// Waits until the folder is gone, or its installer is. The folder itself stays: the official installer removes a stale one.
#[expect(
    clippy::disallowed_methods,
    reason = "the official installer polls, too; the end of a process of another user is no event"
)]
fn await_lock_folder(
    folder: &Path,
    until: Instant,
    timeout: Duration,
    on_wait: &mut dyn FnMut(&str),
) -> Result<(), InstallError> {
    while is_held(folder, SystemTime::now()) {
        let now = Instant::now();
        if now >= until {
            return Err(timed_out(folder, timeout));
        }
        on_wait(&format!("the installer that created {}", folder.display()));
        std::thread::sleep(LOCK_FOLDER_POLL.min(until - now));
    }
    Ok(())
}

/// As the official installer has it: the folder is held as long as its process runs; if that is gone, for ten minutes.
fn is_held(folder: &Path, now: SystemTime) -> bool {
    if !folder.is_dir() {
        return false;
    }
    let number = |name: &str| fs::read_to_string(folder.join(name)).ok()?.trim().parse::<u64>().ok();
    let pid = number("pid").and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    // The process of another user cannot be signalled, and runs all the same.
    let runs = |pid| matches!(rustix::process::test_kill_process(pid), Ok(()) | Err(Errno::PERM));
    if pid.is_some_and(runs) {
        return true;
    }
    let began = match number("started_at") {
        Some(seconds) => SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.min(u64::from(u32::MAX))),
        // It was created a moment ago, or its installer was killed then.
        None => match folder.metadata().and_then(|found| found.modified()) {
            Ok(made) => made,
            Err(_) => return false,
        },
    };
    now.duration_since(began).is_ok_and(|age| age < LOCK_FOLDER_STALE_AFTER)
}

#[cfg(test)]
mod tests {
    use super::{InstallLock, is_held};
    use crate::error::InstallError;
    use crate::limits::LOCK_FOLDER_STALE_AFTER;
    use crate::store::durable::create_folder;
    use crate::store::paths::StorePaths;
    use std::fs;
    use std::time::{Duration, SystemTime};

    fn store() -> (tempfile::TempDir, StorePaths) {
        let home = tempfile::tempdir().expect("a folder");
        let paths = StorePaths::of_home(home.path());
        create_folder(paths.root()).expect("made");
        (home, paths)
    }

    #[test]
    fn a_second_installer_waits_and_learns_the_holder() {
        let (_home, paths) = store();
        let first = InstallLock::take(&paths, Duration::ZERO, &mut |_| {}).expect("free");
        let mut told = String::new();
        let second =
            InstallLock::take(&paths, Duration::from_millis(20), &mut |holder| told = holder.to_owned());
        assert!(matches!(second, Err(InstallError::Locked { holder: Some(_), .. })), "{second:?}");
        assert!(told.contains(&format!("pid {} (codexd)", std::process::id())), "{told}");
        drop(first);
        InstallLock::take(&paths, Duration::ZERO, &mut |_| {}).expect("free again");
    }

    #[test]
    fn the_lock_is_that_of_flock() {
        let (_home, paths) = store();
        fs::write(paths.lock(), "").expect("made");
        let mut other = std::process::Command::new("flock");
        other.arg(paths.lock()).args(["-c", "echo held; read end"]);
        other.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let Ok(mut other) = other.spawn() else {
            eprintln!("skipped: flock is not installed");
            return;
        };
        let mut line = String::new();
        let stdout = other.stdout.take().expect("piped");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line)
            .expect("it holds the lock");
        let taken = InstallLock::take(&paths, Duration::from_millis(20), &mut |_| {});
        assert!(matches!(taken, Err(InstallError::Locked { .. })), "{taken:?}");
        drop(other.stdin.take());
        InstallLock::take(&paths, Duration::from_secs(20), &mut |_| {}).expect("free after its end");
        other.wait().expect("reaped");
    }

    #[test]
    fn a_lock_folder_counts_while_its_installer_runs_or_is_recent() {
        let (_home, paths) = store();
        let folder = paths.lock_folder();
        let (now, later) = (SystemTime::now(), SystemTime::now() + LOCK_FOLDER_STALE_AFTER * 2);
        assert!(!is_held(&folder, now));
        fs::create_dir(&folder).expect("made");
        assert!(is_held(&folder, now) && !is_held(&folder, later), "without a pid");
        fs::write(folder.join("pid"), format!("{}\n", std::process::id())).expect("written");
        assert!(is_held(&folder, later), "its process runs");
        fs::write(folder.join("pid"), "4194304\n").expect("written");
        fs::write(folder.join("started_at"), "1000\n").expect("written");
        assert!(!is_held(&folder, now), "it is gone for long");
        fs::write(folder.join("pid"), format!("{}\n", std::process::id())).expect("written");
        let taken = InstallLock::take(&paths, Duration::from_millis(20), &mut |_| {});
        assert!(matches!(taken, Err(InstallError::Locked { .. })), "{taken:?}");
        fs::remove_file(folder.join("pid")).expect("removed");
        InstallLock::take(&paths, Duration::ZERO, &mut |_| {}).expect("stale");
    }
}
