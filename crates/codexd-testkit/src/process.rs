//! Processes of this machine by identity: the pid together with the start time that the kernel gave it (proc(5)).

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// One process, alive or gone.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// When it started, in clock ticks since boot: with the pid, its name until the machine is rebooted.
    pub start_ticks: u64,
    /// Its parent when it was looked at.
    pub parent: u32,
    /// Its process group when it was looked at.
    pub group: u32,
    /// Its session when it was looked at.
    pub session: u32,
    /// Its command line when it was looked at, arguments parted by blanks.
    pub command: String,
}

/// What a process holds in memory, in KiB.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Memory {
    /// `VmRSS`: what is resident now.
    pub resident_kib: u64,
    /// `VmHWM`: the most that was ever resident.
    pub peak_kib: u64,
    /// `Private_Clean` and `Private_Dirty`: memory that no other process shares now, program text included.
    pub private_kib: u64,
    /// `RssAnon`: what can never be shared.
    pub anonymous_kib: u64,
}

/// A process that is stopped for so long.
#[derive(Debug)]
pub struct Paused(Process);

impl Drop for Paused {
    fn drop(&mut self) {
        let _gone_already = self.0.signal(Signal::CONT);
    }
}

impl Process {
    /// Looks at a process; `None` if there is none, or only its unreaped remains.
    pub fn of(pid: u32) -> Option<Process> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields = stat_fields(&stat)?;
        if matches!(fields.first(), Some(&"Z" | &"X")) {
            return None;
        }
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        let small = |index: usize| u32::try_from(number(index)?).ok();
        let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command).replace('\0', " ").trim_end().to_owned();
        let (parent, group, session) = (small(1)?, small(2)?, small(3)?);
        Some(Process { pid, start_ticks: number(19)?, parent, group, session, command })
    }

    /// Every process whose environment at its start held `path` or something below it, except the caller.
    pub fn with_environment(path: &Path) -> Vec<Process> {
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|&pid| pid != std::process::id() && mentions(pid, path)).filter_map(Process::of).collect()
    }

    /// Whether this very process still runs.
    pub fn is_alive(&self) -> bool {
        Process::of(self.pid).is_some_and(|now| now.start_ticks == self.start_ticks)
    }

    /// Sends a signal to this very process, never to a later one with its number.
    ///
    /// # Errors
    /// It is gone already, or the kernel refuses.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let handle = self.open()?.with_context(|| format!("process {} is gone", self.pid))?;
        pidfd_send_signal(handle, signal).with_context(|| format!("failed to signal process {}", self.pid))
    }

    /// Stops it until what this gives is dropped.
    ///
    /// # Errors
    /// It is gone.
    pub fn pause(self) -> anyhow::Result<Paused> {
        self.signal(Signal::STOP)?;
        Ok(Paused(self))
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// It still runs at the deadline.
    pub fn wait_gone(&self, timeout: Duration) -> anyhow::Result<()> {
        let Some(handle) = self.open()? else { return Ok(()) };
        ensure!(
            wait_readable(&handle, timeout)?,
            "process {} still ran after {timeout:?}: {}",
            self.pid,
            self.command
        );
        Ok(())
    }

    /// Waits until it has ended and its parent has taken note, so that nothing of it is left.
    ///
    /// # Errors
    /// Its remains are still there at the deadline: process 1 does not reap here.
    pub fn wait_reaped(&self, timeout: Duration) -> anyhow::Result<()> {
        crate::until(timeout, &format!("process {} to be reaped", self.pid), || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
            let start_ticks = stat_fields(&stat).and_then(|fields| fields.get(19)?.parse::<u64>().ok());
            (start_ticks != Some(self.start_ticks)).then_some(())
        })
    }

    /// The file that it runs, with all links resolved; `None` if the process is gone or of another user.
    pub fn executable(&self) -> Option<PathBuf> {
        fs::read_link(format!("/proc/{}/exe", self.pid)).ok()
    }

    /// What it holds in memory; zeros for what the kernel does not tell.
    ///
    /// # Errors
    /// It is gone.
    pub fn memory(&self) -> anyhow::Result<Memory> {
        let read = |name: &str| fs::read_to_string(format!("/proc/{}/{name}", self.pid));
        let status = read("status").with_context(|| format!("process {} is gone", self.pid))?;
        let maps = read("smaps_rollup").unwrap_or_default();
        Ok(Memory {
            resident_kib: kib(&status, "VmRSS:"),
            peak_kib: kib(&status, "VmHWM:"),
            anonymous_kib: kib(&status, "RssAnon:"),
            private_kib: kib(&maps, "Private_Clean:") + kib(&maps, "Private_Dirty:"),
        })
    }

    /// How many descriptors it has open.
    ///
    /// # Errors
    /// It is gone.
    pub fn descriptors(&self) -> anyhow::Result<usize> {
        let open = fs::read_dir(format!("/proc/{}/fd", self.pid));
        Ok(open.with_context(|| format!("process {} is gone", self.pid))?.count())
    }

    /// A handle to this very process, or `None` when it is gone.
    fn open(&self) -> anyhow::Result<Option<OwnedFd>> {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw).context("a pid is positive")?;
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(handle) => Ok(self.is_alive().then_some(handle)),
            Err(Errno::SRCH) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("failed to open process {}", self.pid)),
        }
    }
}

/// Waits until the descriptor is readable; for a pidfd, until the process has ended. `false` at the deadline.
///
/// # Errors
/// The kernel's, except an interruption.
pub fn wait_readable(handle: &OwnedFd, timeout: Duration) -> anyhow::Result<bool> {
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).context("the deadline is out of range")?;
        match poll(&mut [PollFd::new(handle, PollFlags::IN)], Some(&timeout)) {
            Ok(0) if left.is_zero() => return Ok(false),
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(error).context("failed to poll"),
        }
    }
}

/// The fields of a stat file from the third on: the name in parentheses before them may hold anything.
fn stat_fields(stat: &str) -> Option<Vec<&str>> {
    Some(stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace().collect())
}

/// The number of KiB behind `name` in a text of proc(5).
pub(crate) fn kib(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_ascii_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn mentions(pid: u32, path: &Path) -> bool {
    let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else { return false };
    let path = path.as_os_str().as_bytes();
    environment.split(|&byte| byte == 0).any(|variable| {
        let Some(at) = variable.iter().position(|&byte| byte == b'=') else { return false };
        let value = &variable[at + 1..];
        value.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use rustix::process::Signal;

    use super::Process;

    #[test]
    fn a_process_is_found_by_its_environment_and_by_nothing_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut child = Command::new("cat")
            .env("CODEX_HOME", folder.path().join("h"))
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("cat runs");
        // In the middle of exec it has none yet.
        let found = crate::until(Duration::from_secs(20), "cat", || {
            Some(Process::with_environment(folder.path())).filter(|found| !found.is_empty())
        })
        .expect("found");
        assert_eq!(found.iter().map(|process| process.pid).collect::<Vec<_>>(), [child.id()]);
        assert!(Process::with_environment(&folder.path().with_extension("other")).is_empty());
        found[0].signal(Signal::KILL).expect("it is ours");
        found[0].wait_gone(Duration::from_secs(10)).expect("killed");
        child.wait().expect("reaped");
        assert!(!found[0].is_alive());
    }

    #[test]
    fn a_recycled_pid_is_not_signalled() {
        let mut child = Command::new("cat").stdin(std::process::Stdio::piped()).spawn().expect("cat runs");
        let mut other = Process::of(child.id()).expect("it runs");
        other.start_ticks -= 1;
        assert!(other.signal(Signal::KILL).is_err());
        assert!(Process::of(child.id()).is_some());
        drop(child.stdin.take());
        child.wait().expect("cat ends with its input");
    }
}
