//! A command's connection to the supervisor.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use codexd_core::contract::Backend;
use codexd_core::generations::Role;
use codexd_core::home_state::StatePhase;
use codexd_core::identity::{Pid, Process};
use codexd_core::lifecycle::SupervisorSeen;
use codexd_core::limits::{
    BUSY_SUPERVISOR_EXTENSION_MS, BUSY_SUPERVISOR_TIMEOUT_MS, SUPERVISOR_EXIT_POLL_MS, SUPERVISOR_TIMEOUT_MS,
};
use rustix::event::{PollFd, PollFlags};

use super::framing::{self, Message};
use super::wire::{Generation, Refusal, Report};
use crate::home::Home;
use crate::service::backend;
use crate::service::systemd::SYSTEMCTL;
use crate::{launch, lock, process};

/// A connection to a running supervisor.
#[derive(Debug)]
pub struct SupervisorConnection {
    pub(super) stream: UnixStream,
    unread: Vec<u8>,
    /// Unread reports since the last order began to be carried out.
    pub(super) queued: VecDeque<Report>,
    /// The protocol version of the supervisor.
    pub(super) protocol: u32,
    pub(super) last_id: u64,
    /// The supervisor.
    pub supervisor: Process,
    /// The state of the supervisor, by the last report.
    pub seen: SupervisorSeen,
    /// The running app-servers, by the last report; the current one first.
    pub generations: Vec<Generation>,
    /// The gateway, by the last report.
    pub gateway: GatewaySeen,
    /// Reports of the gateway since the last order began to be carried out, the oldest first.
    pub relayed: Vec<serde_json::Value>,
}

/// The gateway as the supervisor reports it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct GatewaySeen {
    /// Its pid, if it runs.
    pub pid: Option<Pid>,
    /// Whether it is connected to the supervisor and migrates threads between app-servers.
    pub moves: bool,
}

/// Why a connection to the supervisor failed.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// It is gone: look again.
    #[error("the supervisor exited")]
    Gone,
    /// The supervisor runs and did not answer in time.
    #[error("the supervisor did not answer within {0} ms")]
    Silent(u64),
    /// The supervisor started and cannot manage this home.
    #[error("{}", .0.message)]
    Refused(Refusal),
    /// The supervisor does not carry out the order.
    #[error("the supervisor refused the order: {}", .0.message)]
    OrderRefused(Refusal),
    /// The socket failed.
    #[error("failed to communicate with the supervisor: {0}")]
    System(#[from] io::Error),
}

/// A deadline that is extended while the supervisor is at work.
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

    /// Whether it has passed. A supervisor that computes, or waits for a disk or for systemd, gets more time, a suspended one does not.
    pub(super) fn is_over_for(&mut self, supervisor: Option<&Process>) -> bool {
        let now = Instant::now();
        if now < self.next {
            return false;
        }
        let is_busy = |pid| process::is_at_work(pid) || process::has_child_named(pid, SYSTEMCTL);
        if now >= self.last || !supervisor.is_some_and(|supervisor| is_busy(supervisor.pid)) {
            return true;
        }
        self.next = (now + Duration::from_millis(BUSY_SUPERVISOR_EXTENSION_MS)).min(self.last);
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
        // A supervisor that hangs reads no order, and a long order fills the socket.
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

    /// Reads the first reports; `false` if they are not those of a supervisor.
    pub(super) fn greeting(&mut self, deadline: Instant) -> Result<bool, ConnectionError> {
        let state = match self.next_or_busy(deadline)? {
            Report::Refused(refusal) => return Err(ConnectionError::Refused(refusal)),
            report => matches!(report, Report::State { .. }),
        };
        Ok(state && matches!(self.next_or_busy(deadline)?, Report::Generations { .. }))
    }

    /// As [`SupervisorConnection::next`]; a supervisor that is at work when `deadline` passes gets up to
    /// [`BUSY_SUPERVISOR_TIMEOUT_MS`] more.
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

    /// The current app-server, if it runs.
    pub fn current(&self) -> Option<&Generation> {
        self.generations.iter().find(|generation| generation.role == Role::Current)
    }

    /// Starts a supervisor and waits until it answers.
    ///
    /// # Errors
    /// [`ConnectionError::Gone`] if it exited at once (`supervisor.log` has the reason), [`ConnectionError::Silent`].
    pub fn launch(home: &Home, codexd: &Path) -> Result<Self, ConnectionError> {
        home.create_state()?;
        if backend::read(home) == Backend::Systemd {
            return super::launch_unit::launch(home);
        }
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

    /// Waits for input and reads it.
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

    /// The next message that is not queued. A supervisor that is at work when `deadline` passes gets up to
    /// [`BUSY_SUPERVISOR_TIMEOUT_MS`] more.
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
            // A reply whose order was given up is ignored.
            if let Message::Report(report) = self.arrived()? {
                return Some(report);
            }
        }
    }

    /// A message that has already arrived. Unknown messages of a newer supervisor are skipped.
    pub(super) fn arrived(&mut self) -> Option<Message> {
        loop {
            let end = self.unread.iter().position(|&byte| byte == b'\n')?;
            let line: Vec<u8> = self.unread.drain(..=end).collect();
            if let Some(message) = framing::read_message(&line) {
                if let Message::Report(report) = &message {
                    self.apply(report);
                }
                return Some(message);
            }
        }
    }

    fn apply(&mut self, report: &Report) {
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

    /// Whether the supervisor has hung up, also if unread messages are left.
    pub fn is_cut(&self) -> bool {
        let mut waits = [PollFd::new(&self.stream, PollFlags::IN)];
        let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(rustix::event::poll(&mut waits, Some(&now)), Ok(1..))
            && waits[0].revents().contains(PollFlags::HUP)
    }

    /// The descriptor to poll.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Reads input; waits if there is none.
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

    /// Waits until the supervisor, which has reported that it exits, has exited and its lock is free. It counts as exited when its memory
    /// is freed: closing its files takes the kernel some more milliseconds and delays no command.
    ///
    /// # Errors
    /// [`ConnectionError::Silent`] if it still runs after `timeout`.
    pub fn await_exit(mut self, home: &Home, timeout: Duration) -> Result<(), ConnectionError> {
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
            // The release of its memory is no event, only its exit is.
            process::await_end(&self.supervisor, Duration::from_millis(SUPERVISOR_EXIT_POLL_MS));
        }
        if lock::try_supervisor_lock(&home.supervisor_lock())?.is_some() {
            return Ok(());
        }
        // A supervisor that was killed releases its lock when its exit is complete.
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
