//! Processes of this machine, read from `/proc` (proc(5)).

use std::ffi::OsString;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use std::{fs, io};

use codexd_core::identity::{FileIdentity, Pid, Process, ProcessIdentity};
use codexd_core::limits::ARGUMENTS_POLL_MS;
use rustix::event::{PollFd, PollFlags};
use rustix::process::{PidfdFlags, Signal};

use crate::poll;

/// Fields of `/proc/<pid>/stat`, of a running process or a zombie.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stat {
    /// `R`, `S`, `D`, `T`, `Z`, …
    pub state: u8,
    /// Its parent.
    pub parent: u32,
    /// Its process group.
    pub group: u32,
    /// Its session.
    pub session: u32,
    /// When it started, in ticks since boot.
    pub start_ticks: u64,
    /// CPU time in ticks, including reaped children.
    pub worked_ticks: u64,
}

impl Stat {
    /// Whether it has exited and waits to be reaped.
    pub fn is_zombie(&self) -> bool {
        matches!(self.state, b'Z' | b'X')
    }
}

/// Reads the fields of `pid`; `None` if there is no such process.
pub fn stat(pid: Pid) -> Option<Stat> {
    // A line is far shorter, and one read returns it completely.
    let mut line = [0; 2048];
    let length = fs::File::open(format!("/proc/{pid}/stat")).ok()?.read(&mut line).ok()?;
    parse_stat(line.get(..length)?)
}

/// The name is in parentheses and may itself have parentheses and blanks, so fields are counted from the last parenthesis.
fn parse_stat(text: &[u8]) -> Option<Stat> {
    let end_of_name = text.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(text.get(end_of_name + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    let session = fields.next()?.parse().ok()?;
    // Fields 14 to 17 of the line, and 22; the state is field 3.
    let worked = fields.by_ref().skip(7).take(4).map(|ticks| ticks.parse::<u64>().unwrap_or_default());
    let worked_ticks = worked.sum();
    let start_ticks = fields.nth(4)?.parse().ok()?;
    Some(Stat { state, parent, group, session, start_ticks, worked_ticks })
}

/// The id of this boot of the machine.
///
/// # Errors
/// `/proc` is not mounted.
pub fn boot_id() -> io::Result<&'static str> {
    static BOOT_ID: OnceLock<String> = OnceLock::new();
    if let Some(id) = BOOT_ID.get() {
        return Ok(id);
    }
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(BOOT_ID.get_or_init(|| id.trim().to_owned()))
}

/// The identity of a running process.
///
/// # Errors
/// `NotFound` if no such process runs; a zombie does not.
pub fn identify(pid: Pid) -> io::Result<Process> {
    let stat = stat(pid).filter(|stat| !stat.is_zombie());
    let stat = stat.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no process {pid}")))?;
    let identity = ProcessIdentity { boot_id: boot_id()?.to_owned(), start_ticks: stat.start_ticks };
    Ok(Process { pid, identity })
}

/// This process.
///
/// # Errors
/// `/proc` is not mounted.
pub fn myself() -> io::Result<Process> {
    identify(Pid(std::process::id()))
}

/// The pid in the type of the system calls; `None` if it is out of range.
pub fn raw(pid: Pid) -> Option<rustix::process::Pid> {
    i32::try_from(pid.0).ok().and_then(rustix::process::Pid::from_raw)
}

/// Whether exactly this process runs.
pub fn is_alive(process: &Process) -> bool {
    boot_id().is_ok_and(|boot| boot == process.identity.boot_id)
        && stat(process.pid)
            .is_some_and(|stat| !stat.is_zombie() && stat.start_ticks == process.identity.start_ticks)
}

/// A pidfd of exactly this process, not of a later process with the same pid.
///
/// # Errors
/// `NotFound` if it has exited; `PermissionDenied` if `/proc` hides a running process with this pid.
pub fn open(process: &Process) -> io::Result<OwnedFd> {
    let gone = || io::Error::new(io::ErrorKind::NotFound, format!("process {} has exited", process.pid));
    let opened = rustix::process::pidfd_open(raw(process.pid).ok_or_else(gone)?, PidfdFlags::empty());
    let handle =
        opened.map_err(|error| if error == rustix::io::Errno::SRCH { gone() } else { error.into() })?;
    // Opened first, checked second: the pidfd belongs to the process that runs now.
    if is_alive(process) {
        return Ok(handle);
    }
    let is_of_this_boot = boot_id().is_ok_and(|boot| boot == process.identity.boot_id);
    if is_of_this_boot && stat(process.pid).is_none() && !is_free(process.pid) {
        let message = format!("process {} cannot be identified: /proc does not show it", process.pid);
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    Err(gone())
}

/// Sends a signal to exactly this process. If it has exited, that is no error.
///
/// # Errors
/// The signal is not permitted.
pub fn signal(process: &Process, signal: Signal) -> io::Result<()> {
    match open(process) {
        Ok(handle) => match rustix::process::pidfd_send_signal(handle, signal) {
            Err(rustix::io::Errno::SRCH) => Ok(()),
            result => Ok(result?),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Kills the process group that this running process leads, if it leads one.
pub fn kill_group_of(leader: &Process) {
    if let Some(group) = raw(leader.pid)
        && is_alive(leader)
        && stat(leader.pid).is_some_and(|stat| stat.group == leader.pid.0)
    {
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
    }
}

/// Waits until a process has exited, for a limited time. Returns whether it has; `false` if that cannot be known.
pub fn await_end(process: &Process, timeout: Duration) -> bool {
    let handle = match open(process) {
        Ok(handle) => handle,
        Err(error) => return error.kind() == io::ErrorKind::NotFound,
    };
    let mut waits = [PollFd::new(&handle, PollFlags::IN)];
    let timeout = timeout.try_into().ok();
    matches!(rustix::event::poll(&mut waits, timeout.as_ref()), Ok(count) if count > 0)
}

/// Waits until the last thread of a process has ended, for a limited time. Until then the process holds its sockets and locks,
/// although its first thread may be a zombie. The pid is not verified: the caller knows that the process is exiting.
pub fn await_exit_of(pid: Pid, timeout: Duration) {
    let open = |pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok();
    if let Some(handle) = raw(pid).and_then(open) {
        let mut waits = [PollFd::new(&handle, PollFlags::IN)];
        let _ = rustix::event::poll(&mut waits, timeout.try_into().ok().as_ref());
    }
}

/// Whether `pid` is `ancestor` or descends from it.
pub fn descends_from(pid: Pid, ancestor: Pid) -> bool {
    is_below(pid, ancestor, |pid| stat(pid).map(|stat| stat.parent))
}

/// The same, with the parents that `parent` returns.
pub(crate) fn is_below(pid: Pid, ancestor: Pid, parent: impl Fn(Pid) -> Option<u32>) -> bool {
    let mut current = pid;
    // No process tree is this deep; a loop can only come from reading it while it changes.
    for _ in 0..64 {
        if current == ancestor {
            return true;
        }
        match parent(current) {
            Some(parent) if parent > 1 => current = Pid(parent),
            _ => return false,
        }
    }
    false
}

/// Whether a thread of a process computes or waits for a disk (`R` or `D` in proc(5)).
pub fn is_at_work(pid: Pid) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let numbers = threads.filter_map(|thread| thread.file_name().to_str()?.parse().ok());
    // `/proc/<tid>` of a thread shows the state of that thread.
    numbers.filter_map(|thread| stat(Pid(thread))).any(|stat| matches!(stat.state, b'R' | b'D'))
}

/// Whether this is process 1 of its pid namespace, which becomes the parent of every orphan in it.
pub fn is_init() -> bool {
    std::process::id() == 1
}

/// The resident memory of a process, shared pages included; `None` if it has exited.
pub fn resident_bytes(pid: Pid) -> Option<u64> {
    let pages = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let resident: u64 = pages.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(resident * u64::try_from(rustix::param::page_size()).ok()?)
}

/// Whether a process has a child that runs a program of this name.
pub fn has_child_named(pid: Pid, name: &str) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let children = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let is_named = |child: &str| {
        fs::read_to_string(format!("/proc/{child}/comm")).is_ok_and(|comm| comm.trim_end() == name)
    };
    children.into_iter().any(|listed| listed.split_ascii_whitespace().any(is_named))
}

/// Whether a process has a handler for a signal, so that the signal does not kill it.
pub fn catches(pid: Pid, signal: Signal) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let mask = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    u32::try_from(signal.as_raw() - 1).is_ok_and(|bit| mask.checked_shr(bit).unwrap_or_default() & 1 == 1)
}

/// Whether no process has this pid, or only a zombie. Unlike [`stat`], it also finds processes that `/proc` hides.
pub fn is_free(pid: Pid) -> bool {
    let Some(raw) = raw(pid) else { return true };
    matches!(rustix::process::test_kill_process(raw), Err(rustix::io::Errno::SRCH))
        || stat(pid).is_some_and(|stat| stat.is_zombie())
}

/// The children of this process's only thread, including zombies.
pub fn children() -> Vec<Pid> {
    let listed = fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    listed.split_ascii_whitespace().filter_map(|pid| pid.parse().ok().map(Pid)).collect()
}

/// The arguments of a process, the program's name first; empty if it has exited.
pub fn arguments(pid: Pid) -> Vec<OsString> {
    nul_separated(&format!("/proc/{pid}/cmdline"))
}

/// The environment that a process was started with; empty if it has exited or belongs to another user.
pub fn environment(pid: Pid) -> Vec<(OsString, OsString)> {
    let variables = nul_separated(&format!("/proc/{pid}/environ"));
    variables
        .into_iter()
        .filter_map(|variable| {
            let mut name = variable.into_vec();
            let equals = name.iter().position(|&byte| byte == b'=')?;
            let value = name.split_off(equals + 1);
            name.pop();
            Some((OsString::from_vec(name), OsString::from_vec(value)))
        })
        .collect()
}

/// Whether a process has no arguments: it is about to exec or exit, or has exited. An exiting process frees its memory, where the
/// arguments are, before it closes its files.
pub fn is_exiting(pid: Pid) -> bool {
    arguments(pid).is_empty()
}

/// Waits for at most `timeout` until a process has arguments, and returns whether it has. A process that was just started gets them a moment
/// later; an exiting process has none any more.
pub fn await_arguments(process: &Process, timeout: Duration) -> bool {
    let deadline = Instant::now() + timeout;
    while is_exiting(process.pid) {
        if Instant::now() >= deadline || !is_alive(process) {
            return false;
        }
        poll::pause(Duration::from_millis(ARGUMENTS_POLL_MS));
    }
    true
}

fn nul_separated(path: &str) -> Vec<OsString> {
    let Ok(bytes) = fs::read(path) else { return Vec::new() };
    let parts = bytes.split(|&byte| byte == 0).filter(|part| !part.is_empty());
    parts.map(|part| OsString::from_vec(part.to_owned())).collect()
}

/// The executable of a process, also if its file was replaced or removed since.
///
/// # Errors
/// The process has exited or belongs to another user.
pub fn executable(pid: Pid) -> io::Result<(PathBuf, FileIdentity)> {
    let link = format!("/proc/{pid}/exe");
    Ok((fs::read_link(&link)?, file_identity(Path::new(&link))?))
}

/// The working directory of a process.
///
/// # Errors
/// The process has exited or belongs to another user.
pub fn working_directory(pid: Pid) -> io::Result<PathBuf> {
    fs::read_link(format!("/proc/{pid}/cwd"))
}

/// Whether a process has the file at `path`, which has no links in it, open.
pub fn has_open(pid: Pid, path: &Path) -> bool {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    entries.flatten().any(|entry| fs::read_link(entry.path()).is_ok_and(|open| open == path))
}

/// The identity of a file, independent of its path; links are followed.
///
/// # Errors
/// The file cannot be examined.
pub fn file_identity(path: &Path) -> io::Result<FileIdentity> {
    let found = fs::metadata(path)?;
    Ok(FileIdentity {
        device: found.dev(),
        inode: found.ino(),
        size: found.size(),
        modified_ns: found.mtime().saturating_mul(1_000_000_000).saturating_add(found.mtime_nsec()),
    })
}

/// How long a process has run, in milliseconds.
pub fn uptime_ms(process: &Process) -> Option<u64> {
    let uptime = fs::read_to_string("/proc/uptime").ok()?;
    let seconds: f64 = uptime.split_ascii_whitespace().next()?.parse().ok()?;
    let ticks = rustix::param::clock_ticks_per_second().max(1);
    let started_ms = process.identity.start_ticks.saturating_mul(1_000) / ticks;
    // No truncation in practice: a machine is not up for 500 million years.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Some(((seconds * 1_000.0) as u64).saturating_sub(started_ms))
}

/// When a process started, in seconds since 1970, as `ps` computes it: the boot time plus whole ticks.
pub fn started_at_seconds(start_ticks: u64) -> Option<i64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let boot: i64 = stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    let ticks = rustix::param::clock_ticks_per_second().max(1);
    Some(boot + i64::try_from(start_ticks / ticks).ok()?)
}

#[cfg(test)]
mod tests {
    use super::{descends_from, identify, is_alive, myself, parse_stat, signal};
    use codexd_core::identity::Pid;
    use std::process::Command;

    #[test]
    fn a_name_with_parentheses_and_blanks_does_not_shift_the_fields() {
        let text = b"77 (a) b ( c) S 5 6 7 0 -1 4 1 2 3 4 5 6 7 8 20 0 9 0 4711 99 1";
        let stat = parse_stat(text).expect("parsed");
        assert_eq!((stat.state, stat.parent, stat.group, stat.session), (b'S', 5, 6, 7));
        assert_eq!((stat.start_ticks, stat.worked_ticks), (4711, 5 + 6 + 7 + 8));
    }

    #[test]
    fn a_zombie_is_not_alive_and_signalling_it_is_no_error() {
        let mut child = Command::new("sleep").arg("1000").spawn().expect("a child");
        let process = identify(Pid(child.id())).expect("identified");
        assert!(is_alive(&process) && descends_from(process.pid, myself().expect("me").pid));
        signal(&process, rustix::process::Signal::KILL).expect("killed");
        let handle = super::open(&process);
        if let Ok(handle) = handle {
            let mut waits = [rustix::event::PollFd::new(&handle, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut waits, None).expect("the end is an event");
        }
        assert!(!is_alive(&process), "ended and not reaped");
        signal(&process, rustix::process::Signal::KILL).expect("no error");
        child.wait().expect("reaped");
        assert!(identify(Pid(child.id())).is_err());
    }

    #[test]
    fn another_process_with_the_same_pid_is_not_the_process() {
        let mut other = myself().expect("me");
        other.identity.start_ticks += 1;
        assert!(!is_alive(&other));
        let mut before_reboot = myself().expect("me");
        before_reboot.identity.boot_id = "another boot".into();
        assert!(!is_alive(&before_reboot));
    }
}
