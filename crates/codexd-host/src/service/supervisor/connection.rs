//! A command's side of the conversation with the supervisor.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use codexd_core::generations::Role;
use codexd_core::identity::{Pid, Process};
use codexd_core::lifecycle::SupervisorSeen;
use codexd_core::limits::{BUSY_SUPERVISOR_TIMEOUT_MS, SUPERVISOR_TIMEOUT_MS};
use rustix::event::{PollFd, PollFlags};

use super::state::StatePhase;
use super::wire::{self, Generation, Message, Refusal, Report};
use crate::home::Home;
use crate::{launch, lock, process};

/// How soon to look again at a supervisor that has nothing to do but to end.
const EXIT_POLL_INTERVAL: Duration = Duration::from_millis(1);
/// So much more has a supervisor that is at work when its time is over, again and again until its last deadline.
const EXTENSION: Duration = Duration::from_millis(100);

/// A connection to a living supervisor.
#[derive(Debug)]
pub struct SupervisorConnection {
    pub(super) stream: UnixStream,
    unread: Vec<u8>,
    /// What was reported since the last order was taken up, and not read yet.
    pub(super) queued: VecDeque<Report>,
    /// The version of the protocol that the supervisor speaks.
    pub(super) protocol: u32,
    pub(super) last_id: u64,
    /// The supervisor.
    pub supervisor: Process,
    /// Where the server stands, by the last report.
    pub seen: SupervisorSeen,
    /// Every server that lives, by the last report; the current one first.
    pub generations: Vec<Generation>,
    /// The gateway, by the last report.
    pub gateway: GatewaySeen,
    /// What the gateway has reported through the supervisor since the last order was taken up, oldest first.
    pub relayed: Vec<serde_json::Value>,
}

/// What the supervisor says of the gateway.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct GatewaySeen {
    /// It, if it lives.
    pub pid: Option<Pid>,
    /// Whether it is connected to the supervisor and moves threads from one server to another.
    pub moves: bool,
}

/// Why a conversation with the supervisor ended.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// It is gone: look again.
    #[error("the supervisor exited")]
    Gone,
    /// It lives and says nothing.
    #[error("the supervisor did not answer within {0} ms")]
    Silent(u64),
    /// It was started and cannot serve this home.
    #[error("{}", .0.message)]
    Refused(Refusal),
    /// It does not carry out the order.
    #[error("the supervisor refused the order: {}", .0.message)]
    OrderRefused(Refusal),
    /// The system refused something.
    #[error("failed to communicate with the supervisor: {0}")]
    System(#[from] io::Error),
}

/// A deadline that is put off while the one who is waited for is at work.
#[derive(Debug)]
pub(super) struct Deadline {
    next: Instant,
    last: Instant,
}

impl Deadline {
    pub(super) fn after(timeout: Duration) -> Self {
        Self::at(Instant::now() + timeout)
    }

    fn at(next: Instant) -> Self {
        Self { next, last: next + Duration::from_millis(BUSY_SUPERVISOR_TIMEOUT_MS) }
    }

    /// Whether it has passed. While a suspended supervisor counts as unresponsive, one that computes, or waits for a disk, does not.
    pub(super) fn is_over_for(&mut self, supervisor: Option<&Process>) -> bool {
        let now = Instant::now();
        if now < self.next {
            return false;
        }
        if now >= self.last || !supervisor.is_some_and(|supervisor| process::is_at_work(supervisor.pid)) {
            return true;
        }
        self.next = (now + EXTENSION).min(self.last);
        false
    }
}

fn seen(phase: StatePhase, pid: Option<Pid>) -> SupervisorSeen {
    match (phase, pid) {
        (StatePhase::Stopping { then }, _) => SupervisorSeen::Stopping(then),
        (StatePhase::Waiting | StatePhase::Spawning, None) => SupervisorSeen::Waiting,
        (_, Some(pid)) => SupervisorSeen::Keeping(pid),
        (_, None) => SupervisorSeen::Idle,
    }
}

impl SupervisorConnection {
    pub(super) fn new(stream: UnixStream, supervisor: Process) -> io::Result<Self> {
        // An order that a hanging supervisor does not read fills the socket.
        stream.set_write_timeout(Some(Duration::from_millis(SUPERVISOR_TIMEOUT_MS)))?;
        let (generations, gateway) = (Vec::new(), GatewaySeen::default());
        Ok(Self {
            stream,
            unread: Vec::new(),
            queued: VecDeque::new(),
            protocol: 0,
            last_id: 0,
            supervisor,
            seen: SupervisorSeen::Idle,
            generations,
            gateway,
            relayed: Vec::new(),
        })
    }

    /// Takes in what a supervisor says first; `false` if it says something else, as one of another kind would.
    pub(super) fn greeting(&mut self, deadline: Instant) -> Result<bool, ConnectionError> {
        let state = match self.next_or_busy(deadline)? {
            Report::Refused(refusal) => return Err(ConnectionError::Refused(refusal)),
            report => matches!(report, Report::State { .. }),
        };
        Ok(state && matches!(self.next_or_busy(deadline)?, Report::Generations { .. }))
    }

    /// As [`SupervisorConnection::next`]; a supervisor that is at work when `deadline` passes has 25 s more.
    ///
    /// # Errors
    /// As [`SupervisorConnection::next`].
    pub fn next_or_busy(&mut self, deadline: Instant) -> Result<Report, ConnectionError> {
        let mut deadline = Deadline::at(deadline);
        loop {
            match self.next(deadline.next) {
                Err(ConnectionError::Silent(_)) if !deadline.is_over_for(Some(&self.supervisor)) => {}
                other => return other,
            }
        }
    }

    /// The current server, if it lives.
    pub fn current(&self) -> Option<&Generation> {
        self.generations.iter().find(|generation| generation.role == Role::Current)
    }

    /// Starts a supervisor and waits until it is up.
    ///
    /// # Errors
    /// [`ConnectionError::Gone`] if it ended at once (its last words are in `supervisor.log`), [`ConnectionError::Silent`].
    pub fn launch(home: &Home, codexd: &Path) -> Result<Self, ConnectionError> {
        home.create_state()?;
        let (stream, its_end) = UnixStream::pair()?;
        let child = launch::supervisor::spawn(home, codexd, OwnedFd::from(its_end))?;
        let supervisor = process::identify(Pid(child.id())).map_err(|_| ConnectionError::Gone)?;
        let mut connection = Self::new(stream, supervisor)?;
        let deadline = Instant::now() + Duration::from_millis(SUPERVISOR_TIMEOUT_MS);
        if connection.greeting(deadline)? { Ok(connection) } else { Err(ConnectionError::Gone) }
    }

    /// The next report.
    ///
    /// # Errors
    /// [`ConnectionError::Silent`] if `deadline` passes first, [`ConnectionError::Gone`] at the end.
    pub fn next(&mut self, deadline: Instant) -> Result<Report, ConnectionError> {
        let began = Instant::now();
        loop {
            if let Some(report) = self.buffered() {
                return Ok(report);
            }
            self.await_more(began, deadline)?;
        }
    }

    /// Until something has arrived.
    fn await_more(&mut self, began: Instant, deadline: Instant) -> Result<(), ConnectionError> {
        let timeout = deadline.saturating_duration_since(Instant::now()).try_into().ok();
        let mut waits = [PollFd::new(&self.stream, PollFlags::IN)];
        match rustix::event::poll(&mut waits, timeout.as_ref()) {
            Ok(0) => {
                let waited = began.elapsed().as_millis();
                Err(ConnectionError::Silent(u64::try_from(waited).unwrap_or(u64::MAX)))
            }
            Ok(_) => self.fill(),
            Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(ConnectionError::System(error.into())),
        }
    }

    /// The next message, of those that have not been queued. A supervisor that is at work when `deadline` passes has 25 s more.
    pub(super) fn next_message(&mut self, deadline: Instant) -> Result<Message, ConnectionError> {
        let (began, mut deadline) = (Instant::now(), Deadline::at(deadline));
        loop {
            if let Some(message) = self.arrived() {
                return Ok(message);
            }
            match self.await_more(began, deadline.next) {
                Err(ConnectionError::Silent(_)) if !deadline.is_over_for(Some(&self.supervisor)) => {}
                other => other?,
            }
        }
    }

    /// A report that has already arrived, without waiting. Call it before waiting on [`SupervisorConnection::fd`].
    pub fn buffered(&mut self) -> Option<Report> {
        if let Some(report) = self.queued.pop_front() {
            return Some(report);
        }
        loop {
            // A reply that nothing waits for any more is ignored.
            if let Message::Report(report) = self.arrived()? {
                return Some(report);
            }
        }
    }

    /// A message that has already arrived. One that a newer supervisor knows and this program does not is ignored.
    pub(super) fn arrived(&mut self) -> Option<Message> {
        loop {
            let end = self.unread.iter().position(|&byte| byte == b'\n')?;
            let line: Vec<u8> = self.unread.drain(..=end).collect();
            if let Some(message) = wire::read_message(&line) {
                if let Message::Report(report) = &message {
                    self.take_in(report);
                }
                return Some(message);
            }
        }
    }

    fn take_in(&mut self, report: &Report) {
        match report {
            Report::Generations { generations, gateway_pid, gateway_moves } => {
                self.generations.clone_from(generations);
                self.gateway = GatewaySeen { pid: *gateway_pid, moves: *gateway_moves };
            }
            Report::Relayed { value } => self.relayed.push(value.clone()),
            Report::State { phase, pid, protocol, .. } => {
                (self.seen, self.protocol) = (seen(*phase, *pid), *protocol);
            }
            Report::Spawned { pid } => self.seen = SupervisorSeen::Keeping(*pid),
            Report::Exited { .. } | Report::SpawnFailed { .. } => self.seen = SupervisorSeen::Waiting,
            _ => {}
        }
    }

    /// Whether the supervisor has ended, whatever it has said before.
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
    /// [`ConnectionError::Gone`] at the end.
    pub fn fill(&mut self) -> Result<(), ConnectionError> {
        let mut bytes = [0u8; 8192];
        match self.stream.read(&mut bytes).map_err(gone_or)? {
            0 => Err(ConnectionError::Gone),
            count => {
                self.unread.extend_from_slice(&bytes[..count]);
                Ok(())
            }
        }
    }

    /// Waits until the supervisor, which has said that it leaves, is gone and its lock is free. It counts as gone when it has no
    /// memory any more: what it had open may take the kernel some more milliseconds, and delays no command.
    ///
    /// # Errors
    /// [`ConnectionError::Silent`] if it is still there after `timeout`.
    pub fn await_departure(mut self, home: &Home, timeout: Duration) -> Result<(), ConnectionError> {
        let silent = || ConnectionError::Silent(u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
        let deadline = Instant::now() + timeout;
        loop {
            match self.next_or_busy(deadline) {
                Ok(_) => {}
                Err(ConnectionError::Gone) => break,
                Err(error) => return Err(error),
            }
        }
        let mut deadline = Deadline::at(deadline);
        while process::is_alive(&self.supervisor) && !process::is_exiting(self.supervisor.pid) {
            if deadline.is_over_for(Some(&self.supervisor)) {
                return Err(silent());
            }
            // The loss of its memory is no event, its whole end is.
            process::await_end(&self.supervisor, EXIT_POLL_INTERVAL);
        }
        if lock::try_supervisor_lock(&home.supervisor_lock())?.is_some() {
            return Ok(());
        }
        // One that was killed could not give its lock back: that is done by its end.
        process::await_end(&self.supervisor, deadline.last.saturating_duration_since(Instant::now()));
        lock::try_supervisor_lock(&home.supervisor_lock())?.map(drop).ok_or_else(silent)
    }
}

pub(super) fn gone_or(error: io::Error) -> ConnectionError {
    match error.kind() {
        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof => {
            ConnectionError::Gone
        }
        ErrorKind::WouldBlock => ConnectionError::Silent(SUPERVISOR_TIMEOUT_MS),
        _ => ConnectionError::System(error),
    }
}
