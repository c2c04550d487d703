//! The version of a binary: printed by `--version`, and cached by the identity of the file.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use codexd_core::foreign_text;
use codexd_core::identity::FileIdentity;
use codexd_core::limits::{VERSION_BYTES_MAX, VERSION_POLL_MS, VERSIONS_CACHED_MAX};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::find::is_script;
use crate::process_group::ProcessGroup;

/// Why the version of a binary is unknown.
#[derive(Debug, thiserror::Error)]
pub enum VersionError {
    /// It could not be run.
    #[error("failed to run {} --version: {source}", path.display())]
    Run {
        /// The binary.
        path: PathBuf,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
    /// It did not exit and was idle: it was killed.
    #[error("{} --version hung: it was idle and had not exited after {} ms", path.display(), waited.as_millis())]
    Hung {
        /// The binary.
        path: PathBuf,
        /// How long it ran.
        waited: Duration,
    },
    /// It was still at work at the timeout, and was killed.
    #[error("{} --version was still running after {} ms", path.display(), waited.as_millis())]
    Slow {
        /// The binary.
        path: PathBuf,
        /// How long it ran.
        waited: Duration,
    },
    /// It exited without printing a version.
    #[error("{} --version printed {} ({status})", path.display(), printed_text(printed))]
    Odd {
        /// The binary.
        path: PathBuf,
        /// Its exit status.
        status: String,
        /// Its output.
        printed: String,
    },
}

/// The time limits of a binary. Codex has some hundred megabytes, of which the first `--version` after a boot reads more than half
/// (187 MB of 294 of 0.169.0): on a slow disk that takes seconds and is no failure.
#[derive(Clone, Copy, Debug)]
pub struct VersionTimeout {
    /// Longest idle time.
    pub idle: Duration,
    /// Longest total time.
    pub total: Duration,
}

/// Runs `path --version` and returns the last word of the first line, which begins with a digit. Every half second `is_at_work` checks
/// whether a process of the group computes or waits for a disk.
///
/// # Errors
/// See [`VersionError`]. None of its processes runs afterwards.
pub fn ask(
    path: &Path,
    timeout: VersionTimeout,
    is_at_work: &mut dyn FnMut(u32) -> bool,
) -> Result<String, VersionError> {
    ask_named(path, timeout, is_at_work).map(|printed| printed.version)
}

/// The first line of `--version`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PrintedVersion {
    /// What stands before the version: `codex-cli`, `codexd`.
    pub name: String,
    /// The last word.
    pub version: String,
}

/// As [`ask`], with the name of the program.
///
/// # Errors
/// As [`ask`].
pub fn ask_named(
    path: &Path,
    timeout: VersionTimeout,
    is_at_work: &mut dyn FnMut(u32) -> bool,
) -> Result<PrintedVersion, VersionError> {
    let run = |source| VersionError::Run { path: path.to_owned(), source };
    let mut command = Command::new(path);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut group = ProcessGroup::spawn(&mut command).map_err(run)?;
    let (began, id) = (Instant::now(), group.id());
    let wait = group.handle().map(|handle| await_answer(&handle, timeout, &mut || is_at_work(id)));
    let waited = began.elapsed();
    let stdout = group.child().stdout.take();
    let status = group.end().map_err(run)?;
    match wait.map_err(run)? {
        Wait::Ended => {}
        Wait::Idle => return Err(VersionError::Hung { path: path.to_owned(), waited }),
        Wait::Over => return Err(VersionError::Slow { path: path.to_owned(), waited }),
    }
    let printed = stdout.map(read_what_is_there).unwrap_or_default();
    let first = printed.lines().next().unwrap_or_default().trim();
    let (name, version) = first.rsplit_once(char::is_whitespace).unwrap_or(("", first));
    match is_version(version) && status.success() {
        true => Ok(PrintedVersion { name: name.trim_end().to_owned(), version: version.to_owned() }),
        false => Err(VersionError::Odd { path: path.to_owned(), status: status.to_string(), printed }),
    }
}

/// Whether a word is a version, which is printed, stored and compared.
fn is_version(word: &str) -> bool {
    word.len() <= VERSION_BYTES_MAX
        && word.starts_with(|first: char| first.is_ascii_digit())
        && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-+_~".contains(&byte))
}

fn printed_text(printed: &str) -> String {
    match foreign_text::quote(printed) {
        text if text.is_empty() => "nothing".to_owned(),
        text => format!("`{text}`"),
    }
}

/// How the wait for the exit ended.
#[derive(Debug, Eq, PartialEq)]
enum Wait {
    /// The process exited.
    Ended,
    /// It was idle for too long.
    Idle,
    /// It was at work until the timeout.
    Over,
}

/// Waits for the exit. A signal to this program does not end the wait; its handler decides.
fn await_answer(process: &OwnedFd, timeout: VersionTimeout, is_at_work: &mut dyn FnMut() -> bool) -> Wait {
    let over = Instant::now() + timeout.total;
    let mut idle_over = Instant::now() + timeout.idle;
    loop {
        let now = Instant::now();
        let left =
            over.min(idle_over).saturating_duration_since(now).min(Duration::from_millis(VERSION_POLL_MS));
        match rustix::event::poll(&mut [PollFd::new(process, PollFlags::IN)], left.try_into().ok().as_ref()) {
            Err(Errno::INTR) => continue,
            Ok(0) => {}
            _ => return Wait::Ended,
        }
        let now = Instant::now();
        if is_at_work() {
            idle_over = now + timeout.idle;
        }
        if now >= idle_over {
            return Wait::Idle;
        }
        if now >= over {
            return Wait::Over;
        }
    }
}

/// Reads the output that is there. A child of the dead process may still hold the pipe, so it does not wait for the end.
fn read_what_is_there(mut pipe: std::process::ChildStdout) -> String {
    let flags = rustix::fs::fcntl_getfl(&pipe).unwrap_or(rustix::fs::OFlags::empty());
    let _ = rustix::fs::fcntl_setfl(&pipe, flags | rustix::fs::OFlags::NONBLOCK);
    let mut bytes = vec![0u8; 4096];
    let count = pipe.read(&mut bytes).unwrap_or_default();
    String::from_utf8_lossy(&bytes[..count]).trim().to_owned()
}

/// The versions of binaries, by file identity. A replaced binary is run again; a script always is, because the program that it starts
/// may change.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(transparent)]
pub struct VersionCache {
    known: BTreeMap<String, Known>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct Known {
    identity: FileIdentity,
    version: String,
}

impl VersionCache {
    /// Reads a stored cache. An unreadable one counts as empty.
    pub fn parse(bytes: &[u8]) -> Self {
        serde_json::from_slice(bytes).unwrap_or_default()
    }

    /// The form to store.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The cached version of a native binary that has not changed.
    pub fn get(&self, path: &Path, identity: FileIdentity) -> Option<&str> {
        let known = self.known.get(path.to_str()?)?;
        (known.identity == identity && !is_script(path)).then_some(known.version.as_str())
    }

    /// Adds a version.
    pub fn put(&mut self, path: &Path, identity: FileIdentity, version: &str) {
        if self.known.len() >= VERSIONS_CACHED_MAX {
            self.known.clear();
        }
        if let Some(path) = path.to_str() {
            self.known.insert(path.to_owned(), Known { identity, version: version.to_owned() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{VersionError, VersionTimeout, ask};
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    fn script(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("codex");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("marked");
        (folder, path)
    }

    const LONG: VersionTimeout =
        VersionTimeout { idle: Duration::from_secs(20), total: Duration::from_secs(20) };
    const SHORT: VersionTimeout =
        VersionTimeout { idle: Duration::from_millis(100), total: Duration::from_secs(20) };

    fn tell(path: &Path, timeout: VersionTimeout) -> Result<String, VersionError> {
        ask(path, timeout, &mut |_| false)
    }

    #[test]
    fn a_binary_prints_its_version_hangs_or_prints_something_else() {
        let (_folder, path) = script("echo codex-cli 0.169.0");
        assert_eq!(tell(&path, LONG).expect("told"), "0.169.0");
        let (_folder, path) = script("sleep 1000 & sleep 1000");
        assert!(matches!(tell(&path, SHORT), Err(VersionError::Hung { .. })));
        let (_folder, path) = script("echo no version; exit 3");
        assert!(matches!(tell(&path, LONG), Err(VersionError::Odd { .. })));
        assert!(matches!(tell(&PathBuf::from("/nonexistent/codex"), LONG), Err(VersionError::Run { .. })));
    }

    #[test]
    fn a_binary_at_work_gets_more_time_than_an_idle_one_within_a_limit() {
        let (folder, path) = script("until [ -e \"$0.go\" ]; do sleep 0.01; done; echo codex-cli 0.169.0");
        let mut looks = 0;
        let told = ask(&path, SHORT, &mut |_| {
            looks += 1;
            if looks == 3 {
                std::fs::write(folder.path().join("codex.go"), "").expect("written");
            }
            true
        });
        assert_eq!(told.expect("told"), "0.169.0");
        assert!(looks >= 3);
        let (_folder, path) = script("sleep 1000");
        let timeout = VersionTimeout { idle: Duration::from_millis(100), total: Duration::from_millis(300) };
        assert!(matches!(ask(&path, timeout, &mut |_| true), Err(VersionError::Slow { .. })));
    }
}
