//! What a server leaves behind: the processes that it and its tools started.
//!
//! Tools run in sessions of their own, so killing the server's process group does not reach them, and once the server is
//! dead nothing ties them to it any more but their environment. Every server is therefore started with a mark in
//! `CODEXD_GENERATION` that its descendants inherit, and this module finds them by it.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use codexd_core::identity::{Pid, Process};
use codexd_core::limits::{KILL_TIMEOUT_MS, STRAY_GRACE_MS};
use rustix::event::{PollFd, PollFlags};
use rustix::process::Signal;

use crate::process;

/// The variable that carries the mark.
pub const MARK: &str = "CODEXD_GENERATION";

/// Every living process that carries `generation`, except those in `spared`.
pub fn find(generation: &str, spared: &[Pid]) -> Vec<Process> {
    let mark = format!("{MARK}={generation}");
    let my_uid = rustix::process::geteuid().as_raw();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let uid = entry.metadata().ok()?.uid();
        (my_uid == 0 || uid == my_uid).then_some(Pid(pid))
    });
    pids.filter(|pid| !spared.contains(pid) && pid.0 != std::process::id())
        .filter(|&pid| carries(pid, mark.as_bytes()))
        .filter_map(|pid| process::identify(pid).ok())
        .collect()
}

fn carries(pid: Pid, mark: &[u8]) -> bool {
    fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|environment| environment.split(|&byte| byte == 0).any(|variable| variable == mark))
}

/// What came of a sweep.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Swept {
    /// How many processes were ended.
    pub ended: usize,
    /// Those that are still there.
    pub left: Vec<Pid>,
}

/// Ends every process that carries `generation`: SIGTERM, a short grace, SIGKILL; looks again until none is left, also
/// for those that were started meanwhile.
pub fn sweep(generation: &str, spared: &[Pid]) -> Swept {
    let deadline = Instant::now() + Duration::from_millis(KILL_TIMEOUT_MS);
    let mut swept = Swept::default();
    let mut first_round = true;
    loop {
        let found = find(generation, spared);
        if found.is_empty() {
            swept.left.clear();
            return swept;
        }
        if Instant::now() >= deadline {
            swept.left = found.iter().map(|process| process.pid).collect();
            return swept;
        }
        if first_round {
            swept.ended = found.len();
            end(&found, Signal::TERM, Duration::from_millis(STRAY_GRACE_MS));
            first_round = false;
        } else {
            end(&found, Signal::KILL, Duration::from_millis(STRAY_GRACE_MS));
        }
    }
}

/// Signals all of them and waits until all are gone or time is up.
fn end(processes: &[Process], signal: Signal, patience: Duration) {
    let handles: Vec<OwnedFd> = processes.iter().filter_map(|process| process::open(process).ok()).collect();
    for handle in &handles {
        // Gone already is as good.
        let _ = rustix::process::pidfd_send_signal(handle, signal);
    }
    let deadline = Instant::now() + patience;
    for handle in &handles {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = rustix::time::Timespec::try_from(left).ok();
        let mut waits = [PollFd::new(handle, PollFlags::IN)];
        let _ = rustix::event::poll(&mut waits, timeout.as_ref());
    }
}

#[cfg(test)]
mod tests {
    use super::{MARK, Swept, find, sweep};
    use std::process::Command;

    #[test]
    fn a_grandchild_in_a_session_of_its_own_that_ignores_term_is_found_and_ended() {
        let mark = uuid::Uuid::now_v7().to_string();
        let script = "setsid sh -c 'trap \"\" TERM; echo up; while :; do sleep 100; done' & wait";
        let mut child = Command::new("sh")
            .args(["-c", script])
            .env(MARK, &mark)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("a child");
        let mut said = [0u8; 3];
        std::io::Read::read_exact(&mut child.stdout.take().expect("piped"), &mut said).expect("it is up");
        assert!(find(&mark, &[]).len() >= 2, "the shell and the grandchild");
        let swept = sweep(&mark, &[]);
        assert!(swept.ended >= 2 && swept.left.is_empty(), "{swept:?}");
        child.wait().expect("reaped");
        assert_eq!(sweep(&mark, &[]), Swept::default(), "nothing is left to end");
    }
}
