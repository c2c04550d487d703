//! Orphans: the processes that an app-server and its tools started and left running.
//!
//! Tools run in sessions of their own, so killing the app-server's process group does not reach them, and after the app-server's exit
//! its children have another parent. So every app-server is started with a generation id in `CODEXD_GENERATION`, which its descendants
//! inherit, and in the session of its supervisor, which is a subreaper. This module uses all three as evidence.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use codexd_core::clock::Monotonic;
use codexd_core::identity::{Pid, Process};
use codexd_core::limits::{KILL_TIMEOUT_MS, ORPHAN_GRACE_MS};
use rustix::event::{PollFd, PollFlags};
use rustix::process::Signal;
use rustix::time::Timespec;

use crate::clock;
use crate::process::{self, Stat};
use crate::process_table::ProcessTable;

/// The environment variable that carries the generation id.
pub const GENERATION_VARIABLE: &str = "CODEXD_GENERATION";

/// Evidence that an app-server started a process. A tool may lack one kind of evidence, hardly all: MCP servers get an environment of
/// their own, shells a session of their own, and an orphan another parent.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct OwnershipEvidence {
    /// The generation id of the app-server.
    pub generation: Option<String>,
    /// When the app-server started, in ticks since boot; older processes are excluded. Zero if unknown.
    pub since_ticks: u64,
    /// The session of the supervisor that started it. Only the supervisor's children use it.
    pub session: Option<Pid>,
    /// Whether the orphans have become children of this process.
    pub inherited: bool,
    /// Known descendants.
    pub known: Vec<Process>,
}

impl OwnershipEvidence {
    /// The evidence that excludes other generations of the same supervisor: while they run, a process without a generation id may be
    /// theirs.
    #[must_use]
    pub fn while_other_generations_live(self) -> Self {
        Self { session: None, inherited: false, ..self }
    }
}

/// Processes that are not signalled.
#[derive(Clone, Copy, Debug, Default)]
pub struct Excluded<'a> {
    /// These processes.
    pub pids: &'a [Pid],
    /// These app-servers, with all their descendants.
    pub servers: &'a [Pid],
}

/// Every running process with this generation id.
pub fn of_generation(generation: &str) -> Vec<Process> {
    find(
        &OwnershipEvidence { generation: Some(generation.to_owned()), ..OwnershipEvidence::default() },
        Excluded::default(),
    )
}

/// Every running process that at least one kind of evidence identifies.
pub fn find(evidence: &OwnershipEvidence, excluded: Excluded<'_>) -> Vec<Process> {
    let (me, table) = (Pid(std::process::id()), ProcessTable::read());
    let variable =
        evidence.generation.as_ref().map(|generation| format!("{GENERATION_VARIABLE}={generation}"));
    // The kernel does not reuse the id of a session that has members, nor the pid of a process that was not reaped. If another process
    // has the pid now, it has a session of its own. A leader that `/proc` hides counts as running.
    let has_ended = |leader| table.stat(leader).map_or_else(|| process::is_free(leader), Stat::is_zombie);
    let session = evidence.session.filter(|&leader| leader == me || has_ended(leader));
    let is_excluded = |pid: Pid| {
        excluded.pids.contains(&pid)
            || excluded.servers.iter().any(|&server| table.descends_from(pid, server))
    };
    table.find(|process, stat| {
        let is_owned = session.is_some_and(|session| stat.session == session.0)
            || (evidence.inherited && table.descends_from(process.pid, me))
            || evidence.known.contains(process);
        // Reading an environment costs more than all other checks.
        let may_have_variable = || stat.start_ticks >= evidence.since_ticks;
        let has_variable =
            || variable.as_ref().is_some_and(|variable| carries(process.pid, variable.as_bytes()));
        !is_excluded(process.pid) && (is_owned || (may_have_variable() && has_variable()))
    })
}

/// Whether a process has the generation id.
pub fn is_of_generation(pid: Pid, generation: &str) -> bool {
    carries(pid, format!("{GENERATION_VARIABLE}={generation}").as_bytes())
}

fn carries(pid: Pid, variable: &[u8]) -> bool {
    fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|environment| environment.split(|&byte| byte == 0).any(|entry| entry == variable))
}

/// The outcome of a sweep.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Swept {
    /// Number of ended processes.
    pub ended: usize,
    /// Those that still run.
    pub left: Vec<Pid>,
}

/// Ends every process that the evidence identifies, and waits for the exits: see [`Sweep`].
pub fn sweep(evidence: &OwnershipEvidence, excluded: Excluded<'_>) -> Swept {
    match Sweep::begin(evidence.clone(), excluded) {
        Ok(sweep) => sweep.finish(excluded),
        Err(swept) => swept,
    }
}

/// A running sweep: SIGTERM, a grace period, SIGKILL; repeated until no process is left, including those started meanwhile. It never
/// blocks: poll its descriptors until its deadline.
#[derive(Debug)]
pub struct Sweep {
    evidence: OwnershipEvidence,
    /// Signalled processes that have not exited.
    handles: Vec<OwnedFd>,
    /// The end of their grace period.
    round_until: Monotonic,
    /// When the sweep is given up.
    until: Monotonic,
    /// Number of processes found at first.
    found: usize,
    signal: Signal,
}

impl Sweep {
    /// Sends SIGTERM to every process that the evidence identifies.
    ///
    /// # Errors
    /// No error, but the outcome: there is no such process.
    pub fn begin(evidence: OwnershipEvidence, excluded: Excluded<'_>) -> Result<Self, Swept> {
        let now = clock::monotonic();
        let until = now + KILL_TIMEOUT_MS;
        let mut sweep =
            Self { evidence, handles: Vec::new(), round_until: now, until, found: 0, signal: Signal::TERM };
        match sweep.next_round(excluded) {
            Some(swept) => Err(swept),
            None => Ok(sweep),
        }
    }

    /// The descriptors to poll.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.handles.iter().map(AsFd::as_fd)
    }

    /// When to continue at the latest.
    pub fn deadline(&self) -> Monotonic {
        self.round_until
    }

    /// Continues the sweep. Returns the outcome once it is done.
    pub fn advance(&mut self, excluded: Excluded<'_>) -> Option<Swept> {
        self.handles.retain(|handle| !has_ended(handle));
        if !self.handles.is_empty() && clock::monotonic() < self.round_until {
            return None;
        }
        self.next_round(excluded)
    }

    /// Continues until it is done.
    pub fn finish(mut self, excluded: Excluded<'_>) -> Swept {
        loop {
            if let Some(swept) = self.advance(excluded) {
                return swept;
            }
            let left = self.round_until.since_ms(clock::monotonic());
            let timeout = Timespec::try_from(Duration::from_millis(left)).ok();
            let mut waits: Vec<PollFd<'_>> =
                self.handles.iter().map(|handle| PollFd::new(handle, PollFlags::IN)).collect();
            let _ = rustix::event::poll(&mut waits, timeout.as_ref());
        }
    }

    fn next_round(&mut self, excluded: Excluded<'_>) -> Option<Swept> {
        let (now, found) = (clock::monotonic(), find(&self.evidence, excluded));
        if found.is_empty() || now >= self.until {
            let left = found.iter().map(|process| process.pid).collect();
            return Some(Swept { ended: self.found, left });
        }
        if self.signal == Signal::TERM && self.found == 0 {
            self.found = found.len();
        } else {
            self.signal = Signal::KILL;
        }
        self.handles = found.iter().filter_map(|process| process::open(process).ok()).collect();
        for handle in &self.handles {
            // It may have exited already.
            let _ = rustix::process::pidfd_send_signal(handle, self.signal);
        }
        self.round_until = now + ORPHAN_GRACE_MS;
        None
    }
}

fn has_ended(handle: &OwnedFd) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(rustix::event::poll(&mut [PollFd::new(handle, PollFlags::IN)], Some(&now)), Ok(1..))
}

#[cfg(test)]
mod tests {
    use super::{Excluded, GENERATION_VARIABLE, OwnershipEvidence, Swept, find, of_generation, sweep};
    use std::process::Command;

    #[test]
    fn a_grandchild_in_its_own_session_that_ignores_sigterm_is_found_and_ended() {
        let variable = uuid::Uuid::now_v7().to_string();
        let script = "setsid sh -c 'trap \"\" TERM; echo up; while :; do sleep 100; done' & wait";
        let mut child = Command::new("sh")
            .args(["-c", script])
            .env(GENERATION_VARIABLE, &variable)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("a child");
        let mut said = [0u8; 3];
        std::io::Read::read_exact(&mut child.stdout.take().expect("piped"), &mut said).expect("it is up");
        assert!(of_generation(&variable).len() >= 2, "the shell and the grandchild");
        let later =
            crate::process::stat(codexd_core::identity::Pid(child.id())).expect("it lives").start_ticks
                + 1_000;
        let evidence = OwnershipEvidence {
            generation: Some(variable.clone()),
            since_ticks: later,
            ..OwnershipEvidence::default()
        };
        assert!(
            find(&evidence, Excluded::default()).is_empty(),
            "a process older than the app-server cannot have its generation id"
        );
        let evidence = OwnershipEvidence { generation: Some(variable), ..OwnershipEvidence::default() };
        let swept = sweep(&evidence, Excluded::default());
        assert!(swept.ended >= 2 && swept.left.is_empty(), "{swept:?}");
        child.wait().expect("reaped");
        assert_eq!(sweep(&evidence, Excluded::default()), Swept::default(), "nothing is left to end");
    }
}
