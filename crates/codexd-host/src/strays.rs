//! What a server leaves behind: the processes that it and its tools started.
//!
//! Tools run in sessions of their own, so killing the server's process group does not reach them, and once the server is
//! dead its children have another parent. Every server is therefore started with a mark in `CODEXD_GENERATION` that its
//! descendants inherit, in the session of its keeper, which inherits what it leaves behind; this module goes by all three.

use std::fs;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use codexd_core::identity::{Pid, Process};
use codexd_core::limits::{KILL_TIMEOUT_MS, STRAY_GRACE_MS};
use rustix::event::{PollFd, PollFlags};
use rustix::process::Signal;

use crate::process::{self, Stat};
use crate::process_table::ProcessTable;

/// The variable that carries the mark.
pub const MARK: &str = "CODEXD_GENERATION";

/// How to know what a server has started. A tool may have dropped one of these ties, hardly all of them: MCP servers are
/// started with an environment of their own, shells with a session of their own, and what outlives its parent loses that.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Ties {
    /// The mark of the server.
    pub generation: Option<String>,
    /// When the server was started, in ticks since boot: nobody who is older has its mark. Zero if that is not known.
    pub since_ticks: u64,
    /// The session of the keeper that started it, which is nobody else's.
    pub session: Option<Pid>,
    /// Whether what the server's processes left behind has become ours: it is a child of this process then.
    pub inherited: bool,
    /// Those that are known by name.
    pub known: Vec<Process>,
}

impl Ties {
    /// Only what leads to this server and to no other one: while others live that were started by the same keeper, what
    /// has lost its mark may be theirs.
    #[must_use]
    pub fn while_others_live(self) -> Self {
        Self { session: None, inherited: false, ..self }
    }
}

/// Who is not to be touched.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spared<'a> {
    /// These, by number.
    pub pids: &'a [Pid],
    /// The servers that live now, with all that descends from them.
    pub servers: &'a [Pid],
}

/// Every living process that carries `generation`.
pub fn marked(generation: &str) -> Vec<Process> {
    find(&Ties { generation: Some(generation.to_owned()), ..Ties::default() }, Spared::default())
}

/// Every living process that one of the ties leads to.
pub fn find(ties: &Ties, spared: Spared<'_>) -> Vec<Process> {
    let (me, table) = (Pid(std::process::id()), ProcessTable::read());
    let mark = ties.generation.as_ref().map(|generation| format!("{MARK}={generation}"));
    // The number of a session is not given out again while anybody is in it, nor that of one who was not reaped; a living
    // process of that number which is not the one we mean has a session of its own.
    // A leader whom `/proc` does not show to us lives all the same.
    let has_ended = |leader| table.stat(leader).map_or_else(|| process::is_free(leader), Stat::is_zombie);
    let session = ties.session.filter(|&leader| leader == me || has_ended(leader));
    let is_spared = |pid: Pid| {
        spared.pids.contains(&pid) || spared.servers.iter().any(|&server| table.descends_from(pid, server))
    };
    table.find(|process, stat| {
        let is_tied = session.is_some_and(|session| stat.session == session.0)
            || (ties.inherited && table.descends_from(process.pid, me))
            || ties.known.contains(process);
        // Reading an environment costs more than all the rest.
        let may_be_marked = || stat.start_ticks >= ties.since_ticks;
        let is_marked = || mark.as_ref().is_some_and(|mark| carries(process.pid, mark.as_bytes()));
        !is_spared(process.pid) && (is_tied || (may_be_marked() && is_marked()))
    })
}

/// Whether a process carries the generation id.
pub fn is_of_generation(pid: Pid, generation: &str) -> bool {
    carries(pid, format!("{MARK}={generation}").as_bytes())
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

/// Ends every process that one of the ties leads to: SIGTERM, a short grace, SIGKILL; looks again until none is left, also
/// for those that were started meanwhile.
pub fn sweep(ties: &Ties, spared: Spared<'_>) -> Swept {
    let deadline = Instant::now() + Duration::from_millis(KILL_TIMEOUT_MS);
    let mut swept = Swept::default();
    let mut first_round = true;
    loop {
        let found = find(ties, spared);
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
    use super::{MARK, Spared, Swept, Ties, find, marked, sweep};
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
        assert!(marked(&mark).len() >= 2, "the shell and the grandchild");
        let later =
            crate::process::stat(codexd_core::identity::Pid(child.id())).expect("it lives").start_ticks
                + 1_000;
        let ties = Ties { generation: Some(mark.clone()), since_ticks: later, ..Ties::default() };
        assert!(
            find(&ties, Spared::default()).is_empty(),
            "who is older than the server cannot have its mark"
        );
        let ties = Ties { generation: Some(mark), ..Ties::default() };
        let swept = sweep(&ties, Spared::default());
        assert!(swept.ended >= 2 && swept.left.is_empty(), "{swept:?}");
        child.wait().expect("reaped");
        assert_eq!(sweep(&ties, Spared::default()), Swept::default(), "nothing is left to end");
    }
}
