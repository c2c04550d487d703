//! Orphans: the processes that a server and its tools started and left running.
//!
//! Tools run in sessions of their own, so killing the server's process group does not reach them, and once the server is
//! dead its children have another parent. Every server is therefore started with a generation id in `CODEXD_GENERATION` that its
//! descendants inherit, in the session of its supervisor, which inherits what it leaves behind; this module goes by all three.

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

/// Evidence that a server started a process. A tool may have dropped one kind of evidence, hardly all of them: MCP servers are
/// started with an environment of their own, shells with a session of their own, and what outlives its parent loses that.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct OwnershipEvidence {
    /// The generation id of the server.
    pub generation: Option<String>,
    /// When the server was started, in ticks since boot: an older process cannot carry its generation id. Zero if that is not known.
    pub since_ticks: u64,
    /// The session of the supervisor that started it, which no other process uses.
    pub session: Option<Pid>,
    /// Whether what the server's processes left behind has become ours: it is a child of this process then.
    pub inherited: bool,
    /// Those that are known by name.
    pub known: Vec<Process>,
}

impl OwnershipEvidence {
    /// Only what leads to this server and to no other one: while others live that were started by the same supervisor, what
    /// has lost its generation id may be theirs.
    #[must_use]
    pub fn while_other_generations_live(self) -> Self {
        Self { session: None, inherited: false, ..self }
    }
}

/// Processes that are not signalled.
#[derive(Clone, Copy, Debug, Default)]
pub struct Excluded<'a> {
    /// These, by number.
    pub pids: &'a [Pid],
    /// The servers that live now, with all that descends from them.
    pub servers: &'a [Pid],
}

/// Every living process that carries `generation`.
pub fn of_generation(generation: &str) -> Vec<Process> {
    find(
        &OwnershipEvidence { generation: Some(generation.to_owned()), ..OwnershipEvidence::default() },
        Excluded::default(),
    )
}

/// Every living process that one kind of evidence identifies.
pub fn find(evidence: &OwnershipEvidence, excluded: Excluded<'_>) -> Vec<Process> {
    let (me, table) = (Pid(std::process::id()), ProcessTable::read());
    let variable =
        evidence.generation.as_ref().map(|generation| format!("{GENERATION_VARIABLE}={generation}"));
    // The number of a session is not given out again while anybody is in it, nor that of one who was not reaped; a living
    // process of that number which is not the one we mean has a session of its own.
    // A leader whom `/proc` does not show to us lives all the same.
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
        // Reading an environment costs more than all the rest.
        let may_have_variable = || stat.start_ticks >= evidence.since_ticks;
        let has_variable =
            || variable.as_ref().is_some_and(|variable| carries(process.pid, variable.as_bytes()));
        !is_excluded(process.pid) && (is_owned || (may_have_variable() && has_variable()))
    })
}

/// Whether a process carries the generation id.
pub fn is_of_generation(pid: Pid, generation: &str) -> bool {
    carries(pid, format!("{GENERATION_VARIABLE}={generation}").as_bytes())
}

fn carries(pid: Pid, variable: &[u8]) -> bool {
    fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|environment| environment.split(|&byte| byte == 0).any(|entry| entry == variable))
}

/// What came of a sweep.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Swept {
    /// How many processes were ended.
    pub ended: usize,
    /// Those that are still there.
    pub left: Vec<Pid>,
}

/// Ends every process that one kind of evidence identifies, and waits for that: see [`Sweep`].
pub fn sweep(evidence: &OwnershipEvidence, excluded: Excluded<'_>) -> Swept {
    match Sweep::begin(evidence.clone(), excluded) {
        Ok(sweep) => sweep.finish(excluded),
        Err(swept) => swept,
    }
}

/// A sweep that is under way: SIGTERM, a short grace, SIGKILL; then another look, until none is left, also of those that were started
/// meanwhile. It never blocks: wait for its descriptors and its deadline.
#[derive(Debug)]
pub struct Sweep {
    evidence: OwnershipEvidence,
    /// Those that were signalled and have not ended.
    handles: Vec<OwnedFd>,
    /// Until when they have time.
    round_until: Monotonic,
    /// When the sweep is given up.
    until: Monotonic,
    /// How many were found first.
    found: usize,
    signal: Signal,
}

impl Sweep {
    /// Asks every process to leave that one kind of evidence identifies.
    ///
    /// # Errors
    /// It is no error: there is none, and so the sweep is done.
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

    /// What to wait on.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.handles.iter().map(AsFd::as_fd)
    }

    /// When to go on, whatever has ended.
    pub fn deadline(&self) -> Monotonic {
        self.round_until
    }

    /// Goes on, if it can. Answers what came of it once it is done.
    pub fn advance(&mut self, excluded: Excluded<'_>) -> Option<Swept> {
        self.handles.retain(|handle| !has_ended(handle));
        if !self.handles.is_empty() && clock::monotonic() < self.round_until {
            return None;
        }
        self.next_round(excluded)
    }

    /// Goes on until it is done.
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
            // Gone already is as good.
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
    fn a_grandchild_in_a_session_of_its_own_that_ignores_term_is_found_and_ended() {
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
            "a process older than the server cannot carry its generation id"
        );
        let evidence = OwnershipEvidence { generation: Some(variable), ..OwnershipEvidence::default() };
        let swept = sweep(&evidence, Excluded::default());
        assert!(swept.ended >= 2 && swept.left.is_empty(), "{swept:?}");
        child.wait().expect("reaped");
        assert_eq!(sweep(&evidence, Excluded::default()), Swept::default(), "nothing is left to end");
    }
}
