//! A verb's side of the conversation with the keeper.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use codexd_core::generations::Role;
use codexd_core::identity::{Pid, Process};
use codexd_core::lifecycle::KeeperSeen;
use codexd_core::limits::{KEEPER_TIMEOUT_MS, PROBE_TIMEOUT_MS};
use rustix::event::{PollFd, PollFlags};

use super::state::StatePhase;
use super::wire::{self, Generation, Order, Report};
use crate::home::Home;
use crate::strays::MARK;
use crate::{lock, logs, process};

/// How soon to look again at a keeper that has nothing to do but to end.
const LAST_BREATH: Duration = Duration::from_millis(1);
/// How soon to look again for a keeper that holds the lock and does not listen.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// A connection to a living keeper.
#[derive(Debug)]
pub struct KeeperLink {
    stream: UnixStream,
    unread: Vec<u8>,
    /// The keeper.
    pub keeper: Process,
    /// Where the server stands, by the last report.
    pub seen: KeeperSeen,
    /// Every server that lives, by the last report; the current one first.
    pub generations: Vec<Generation>,
    /// The gateway, by the last report.
    pub gateway: GatewaySeen,
}

/// What the keeper says of the gateway.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct GatewaySeen {
    /// It, if it lives.
    pub pid: Option<Pid>,
    /// Whether it is connected to the keeper and moves threads from one server to another.
    pub moves: bool,
}

/// What a look for the keeper found.
#[derive(Debug)]
pub struct Seen {
    /// For the decision.
    pub seen: KeeperSeen,
    /// The connection, if it answered.
    pub link: Option<KeeperLink>,
}

/// Why a conversation with the keeper ended.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// It is gone: look again.
    #[error("the keeper has gone")]
    Gone,
    /// It lives and says nothing.
    #[error("the keeper did not answer within {0} ms")]
    Silent(u64),
    /// The system refused something.
    #[error("failed to talk to the keeper: {0}")]
    System(#[from] io::Error),
}

/// Looks for the keeper of a home. One that holds the lock and does not answer may be on its way up or out: it is given
/// some time before it counts as mute.
///
/// # Errors
/// The system's, but for the absence of anything; `PermissionDenied` if the listener is neither of our user nor root's.
pub fn observe(home: &Home) -> io::Result<Seen> {
    let deadline = Instant::now() + Duration::from_millis(PROBE_TIMEOUT_MS);
    loop {
        match connect(home) {
            Ok(stream) => {
                if let Some(seen) = greet(stream, deadline)? {
                    return Ok(seen);
                }
            }
            Err(error) if is_absence(&error) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        if !home.keeper_lock().exists() || lock::try_keeper_lock(&home.keeper_lock())?.is_some() {
            return Ok(Seen { seen: KeeperSeen::Absent, link: None });
        }
        let keeper = holder(home);
        if Instant::now() >= deadline {
            return Ok(Seen { seen: KeeperSeen::Mute(keeper.map(|keeper| keeper.pid)), link: None });
        }
        match keeper {
            // Its end is an event; its socket is none that could be waited for in the same wait.
            Some(keeper) => drop(process::await_end(&keeper, LOOK_AGAIN)),
            None => std::thread::sleep(LOOK_AGAIN),
        }
    }
}

/// Waits until nobody holds the keeper's lock; `false` if somebody still does after `patience`. A keeper that was killed may
/// hold it for some time when it cannot be found any more, so that there is no end to wait for: it has no arguments
/// from when its memory is gone, and its open files go last.
///
/// # Errors
/// The lock's file's.
pub fn await_free_lock(home: &Home, patience: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + patience;
    while home.keeper_lock().exists() && lock::try_keeper_lock(&home.keeper_lock())?.is_none() {
        if Instant::now() >= deadline {
            return Ok(false);
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    Ok(true)
}

/// Connects to the keeper of a home.
///
/// # Errors
/// The system's; `PermissionDenied` if the listener is neither of our user nor root's.
pub fn connect(home: &Home) -> io::Result<UnixStream> {
    let stream = codexd_protocol::unix::connect(&home.keeper_socket())?;
    let peer = codexd_protocol::unix::peer(&stream)?;
    if may_keep(peer.uid) {
        return Ok(stream);
    }
    let message = format!("user {} listens there, who is neither you nor root", peer.uid);
    Err(io::Error::new(ErrorKind::PermissionDenied, message))
}

/// Whether this process is a keeper of this home, by its arguments.
pub fn is_one(pid: Pid, home: &Home) -> bool {
    let arguments = process::arguments(pid);
    matches!(&arguments[..], [_, verb, option, path]
        if verb == "keeper" && option == "--codex-home" && path == home.root().as_os_str())
}

/// Whether the keeper of a home answers, or is not there at all: only one that hangs does neither.
pub fn answers(home: &Home) -> bool {
    !matches!(observe(home), Ok(Seen { seen: KeeperSeen::Mute(_), .. }))
}

fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused | ErrorKind::NotADirectory)
}

/// The keeper at the other end, if it says by `deadline` how things stand; `None` if it has left.
fn greet(stream: UnixStream, deadline: Instant) -> io::Result<Option<Seen>> {
    let pid = codexd_protocol::unix::peer(&stream)?.pid.map(Pid);
    let Some(keeper) = pid.and_then(|pid| process::identify(pid).ok()) else { return Ok(None) };
    let mut link = KeeperLink::new(stream, keeper)?;
    match link.greeting(deadline) {
        Ok(true) => Ok(Some(Seen { seen: link.seen, link: Some(link) })),
        Ok(false) | Err(LinkError::Silent(_)) => Ok(Some(Seen { seen: KeeperSeen::Mute(pid), link: None })),
        Err(LinkError::Gone) => Ok(None),
        Err(LinkError::System(error)) => Err(error),
    }
}

/// An order holds our whole environment, and a report is believed: neither is for a user who got a socket into the folder.
fn may_keep(uid: u32) -> bool {
    uid == rustix::process::geteuid().as_raw() || uid == 0
}

fn seen(phase: StatePhase, pid: Option<Pid>) -> KeeperSeen {
    match (phase, pid) {
        (StatePhase::Stopping { then }, _) => KeeperSeen::Stopping(then),
        (StatePhase::Waiting | StatePhase::Spawning, None) => KeeperSeen::Waiting,
        (_, Some(pid)) => KeeperSeen::Keeping(pid),
        (_, None) => KeeperSeen::Idle,
    }
}

/// The keeper that holds the lock, found by its open file: it may hang before it has said who it is.
fn holder(home: &Home) -> Option<Process> {
    let lock = home.keeper_lock().canonicalize().ok()?;
    let entries = std::fs::read_dir("/proc").ok()?;
    let pids = entries.flatten().filter_map(|entry| Some(Pid(entry.file_name().to_str()?.parse().ok()?)));
    let keepers = pids.filter(|&pid| process::arguments(pid).get(1).is_some_and(|verb| verb == "keeper"));
    keepers.filter(|&pid| process::has_open(pid, &lock)).find_map(|pid| process::identify(pid).ok())
}

impl KeeperLink {
    fn new(stream: UnixStream, keeper: Process) -> io::Result<Self> {
        // An order that a hanging keeper does not read fills the socket.
        stream.set_write_timeout(Some(Duration::from_millis(KEEPER_TIMEOUT_MS)))?;
        let (generations, gateway) = (Vec::new(), GatewaySeen::default());
        Ok(Self { stream, unread: Vec::new(), keeper, seen: KeeperSeen::Idle, generations, gateway })
    }

    /// Takes in what a keeper says first; `false` if it says something else, as one of another kind would.
    fn greeting(&mut self, deadline: Instant) -> Result<bool, LinkError> {
        let state = matches!(self.next(deadline)?, Report::State { .. });
        Ok(state && matches!(self.next(deadline)?, Report::Generations { .. }))
    }

    /// The current server, if it lives.
    pub fn current(&self) -> Option<&Generation> {
        self.generations.iter().find(|generation| generation.role == Role::Current)
    }

    /// Starts a keeper and waits until it is up.
    ///
    /// # Errors
    /// [`LinkError::Gone`] if it ended at once (its last words are in `keeper.log`), [`LinkError::Silent`].
    pub fn launch(home: &Home, codexd: &Path) -> Result<Self, LinkError> {
        home.create_state()?;
        let (stream, its_end) = UnixStream::pair()?;
        let words = logs::open_for_append(&home.keeper_log())?;
        let child = Command::new(codexd)
            .arg("keeper")
            .arg("--codex-home")
            .arg(home.root())
            .env_clear()
            // The mark of a server that we may run under is not the keeper's.
            .envs(std::env::vars_os().filter(|(name, _)| name != MARK))
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(its_end)))
            .stdout(words.try_clone()?)
            .stderr(words)
            // It makes a session of its own first thing, which the leader of a group may not.
            .spawn()?;
        let keeper = process::identify(Pid(child.id())).map_err(|_| LinkError::Gone)?;
        let mut link = Self::new(stream, keeper)?;
        let deadline = Instant::now() + Duration::from_millis(KEEPER_TIMEOUT_MS);
        if link.greeting(deadline)? { Ok(link) } else { Err(LinkError::Gone) }
    }

    /// Takes in what the keeper has said until now, without waiting, and keeps no more of it than where the server stands.
    ///
    /// # Errors
    /// [`LinkError::Gone`] if the keeper has left.
    pub fn skip_what_was_said(&mut self) -> Result<(), LinkError> {
        let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
        loop {
            while self.buffered().is_some() {}
            let mut waits = [PollFd::new(&self.stream, PollFlags::IN)];
            match rustix::event::poll(&mut waits, Some(&now)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(()),
                Ok(_) => self.fill()?,
                Err(error) => return Err(LinkError::System(error.into())),
            }
        }
    }

    /// Gives an order. What comes of it is told by the reports.
    ///
    /// # Errors
    /// [`LinkError::Gone`] if the keeper has left.
    pub fn order(&mut self, order: &Order) -> Result<(), LinkError> {
        let line = wire::line(order).map_err(io::Error::from)?;
        self.stream.write_all(&line).map_err(gone_or)
    }

    /// The next report.
    ///
    /// # Errors
    /// [`LinkError::Silent`] if `deadline` passes first, [`LinkError::Gone`] at the end.
    pub fn next(&mut self, deadline: Instant) -> Result<Report, LinkError> {
        let began = Instant::now();
        loop {
            if let Some(report) = self.buffered() {
                return Ok(report);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = left.try_into().ok();
            let mut waits = [PollFd::new(&self.stream, PollFlags::IN)];
            match rustix::event::poll(&mut waits, timeout.as_ref()) {
                Ok(0) => {
                    let waited = began.elapsed().as_millis();
                    return Err(LinkError::Silent(u64::try_from(waited).unwrap_or(u64::MAX)));
                }
                Ok(_) => self.fill()?,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(LinkError::System(error.into())),
            }
        }
    }

    /// A report that has already arrived, without waiting. Call it before waiting on [`KeeperLink::fd`].
    pub fn buffered(&mut self) -> Option<Report> {
        let end = self.unread.iter().position(|&byte| byte == b'\n')?;
        let line: Vec<u8> = self.unread.drain(..=end).collect();
        let Ok(report) = serde_json::from_slice(&line) else {
            // A report that a newer keeper knows and we do not is passed over.
            return self.buffered();
        };
        match &report {
            Report::Generations { generations, gateway_pid, gateway_moves } => {
                self.generations.clone_from(generations);
                self.gateway = GatewaySeen { pid: *gateway_pid, moves: *gateway_moves };
            }
            Report::State { phase, pid, .. } => self.seen = seen(*phase, *pid),
            Report::Spawned { pid } => self.seen = KeeperSeen::Keeping(*pid),
            Report::Exited { .. } | Report::SpawnFailed { .. } => self.seen = KeeperSeen::Waiting,
            _ => {}
        }
        Some(report)
    }

    /// Whether the keeper has ended, whatever it has said before.
    pub fn is_cut(&self) -> bool {
        let mut waits = [PollFd::new(&self.stream, PollFlags::IN)];
        let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(rustix::event::poll(&mut waits, Some(&now)), Ok(1..))
            && waits[0].revents().contains(PollFlags::HUP)
    }

    /// What to wait on.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Reads what has arrived; waits if nothing has.
    ///
    /// # Errors
    /// [`LinkError::Gone`] at the end.
    pub fn fill(&mut self) -> Result<(), LinkError> {
        let mut bytes = [0u8; 8192];
        match self.stream.read(&mut bytes).map_err(gone_or)? {
            0 => Err(LinkError::Gone),
            count => {
                self.unread.extend_from_slice(&bytes[..count]);
                Ok(())
            }
        }
    }

    /// Waits until the keeper, which has said that it leaves, is gone and its lock is free. It counts as gone when it has no
    /// memory any more: what it had open may take the kernel some more milliseconds, and holds nobody up.
    ///
    /// # Errors
    /// [`LinkError::Silent`] if it is still there after `patience`.
    pub fn await_departure(mut self, home: &Home, patience: Duration) -> Result<(), LinkError> {
        let silent = || LinkError::Silent(u64::try_from(patience.as_millis()).unwrap_or(u64::MAX));
        let deadline = Instant::now() + patience;
        loop {
            match self.next(deadline) {
                Ok(_) => {}
                Err(LinkError::Gone) => break,
                Err(error) => return Err(error),
            }
        }
        while process::is_alive(&self.keeper) && !process::arguments(self.keeper.pid).is_empty() {
            if Instant::now() >= deadline {
                return Err(silent());
            }
            // The loss of its memory is no event, its whole end is.
            process::await_end(&self.keeper, LAST_BREATH);
        }
        if lock::try_keeper_lock(&home.keeper_lock())?.is_some() {
            return Ok(());
        }
        // One that was killed could not give its lock back: that is done by its end.
        process::await_end(&self.keeper, deadline.saturating_duration_since(Instant::now()));
        lock::try_keeper_lock(&home.keeper_lock())?.map(drop).ok_or_else(silent)
    }
}

fn gone_or(error: io::Error) -> LinkError {
    match error.kind() {
        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof => LinkError::Gone,
        ErrorKind::WouldBlock => LinkError::Silent(KEEPER_TIMEOUT_MS),
        _ => LinkError::System(error),
    }
}

#[cfg(test)]
mod tests {
    use super::may_keep;

    #[test]
    fn a_keeper_is_of_our_user_or_root() {
        let me = rustix::process::geteuid().as_raw();
        assert!(may_keep(me) && may_keep(0));
        assert!(!may_keep(me + 1));
    }
}
