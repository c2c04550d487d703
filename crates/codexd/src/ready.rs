//! Waiting until the server answers `initialize`. The wait is for reports of the supervisor: that the server was started, and
//! that the folder of its socket changed. It polls only between the creation of the socket and the `listen` of the server.

use std::path::Path;
use std::time::{Duration, Instant};

use codexd_core::contract::status::LastExit;
use codexd_core::foreign_text::quote;
use codexd_core::generations::Role;
use codexd_core::identity::Pid;
use codexd_core::lifecycle::{ListenerSeen, SupervisorSeen};
use codexd_core::limits::{
    BUSY_START_TIMEOUT_MS, LISTENER_NAMED_TIMEOUT_MS, PROBE_TIMEOUT_MS, START_TIMEOUT_MS,
};
use codexd_host::process;
use codexd_host::process_table::Activity;
use codexd_host::service::supervisor::{self, ConnectionError, Report, SupervisorConnection};
use codexd_protocol::probe::{self, ProbeError};
use codexd_protocol::unix;
use rustix::event::{PollFd, PollFlags};

use crate::context::{Context, VERSION};
use crate::limits::{SERVER_ACTIVITY_INTERVAL, SERVER_IDLE_AFTER, SOCKET_POLL_FIRST, SOCKET_POLL_LAST};
use crate::observe::ListenerReport;
use crate::progress::ProgressReporter;

/// Why no server answers.
#[derive(Debug)]
pub enum NotReady {
    /// The server exited.
    Exited(LastExit),
    /// The server could not be started.
    SpawnFailed {
        /// A sentence.
        message: String,
        /// The error number of the system call.
        errno: Option<i32>,
    },
    /// The old server is still alive after SIGKILL.
    Unkillable(Pid),
    /// The deadline passed.
    TimedOut {
        /// The server, if one runs.
        pid: Option<Pid>,
        /// The result of the last probe.
        last: String,
    },
    /// The supervisor exited: observe again.
    SupervisorGone,
    /// A system call failed.
    System(ConnectionError),
}

impl From<ConnectionError> for NotReady {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::Gone => NotReady::SupervisorGone,
            other => NotReady::System(other),
        }
    }
}

/// The server whose answer is awaited.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Target {
    /// The current server, which the supervisor runs or is about to start because of an order of this command.
    Current,
    /// The current server without such an order: it ran before, or the supervisor is restarting it.
    Found,
    /// The successor, on its own socket.
    Successor,
}

/// The deadline of a server. It is extended while the server is busy.
#[derive(Debug)]
struct ReadyDeadline {
    next: Instant,
    last: Instant,
    at_work: Instant,
    activity: Activity,
}

impl ReadyDeadline {
    /// The deadline of a server that starts now.
    fn begin() -> Self {
        let now = Instant::now();
        let at_work = now + Duration::from_millis(START_TIMEOUT_MS).saturating_sub(SERVER_IDLE_AFTER);
        let last = now + Duration::from_millis(BUSY_START_TIMEOUT_MS);
        Self { next: at_work, last, at_work, activity: Activity::default() }
    }

    fn is_over(&mut self, now: Instant, server: Option<Pid>) -> bool {
        if now < self.next {
            return false;
        }
        if server.is_some_and(|pid| self.activity.is_seen(pid.0)) {
            self.at_work = now;
        }
        self.next = now + SERVER_ACTIVITY_INTERVAL;
        now >= self.last || now.saturating_duration_since(self.at_work) >= SERVER_IDLE_AFTER
    }
}

struct Wait<'a> {
    context: &'a Context,
    connection: &'a mut SupervisorConnection,
    target: Target,
    expected: Option<Pid>,
    /// A server that ran when the wait began, without an order of this command. If it exits, the supervisor starts another one.
    found: Option<Pid>,
    /// Set when a descendant of the expected process answers: the time until which the supervisor may name that descendant as
    /// the server.
    listener_identity_deadline: Option<Instant>,
    /// The server answers on its own socket. Only the answer through the gateway is missing.
    answers_on_own_socket: bool,
    deadline: ReadyDeadline,
    next_poll: Duration,
    last: String,
}

/// Waits for an answer on the control socket. A server with its own socket must answer there first.
///
/// # Errors
/// See [`NotReady`].
pub fn await_ready(
    context: &Context,
    connection: &mut SupervisorConnection,
    target: Target,
) -> Result<ListenerReport, NotReady> {
    let expected = match (connection.seen, target) {
        (SupervisorSeen::Keeping(pid), Target::Current | Target::Found) => Some(pid),
        (_, Target::Successor) => successor(connection),
        _ => None,
    };
    let mut wait = Wait {
        context,
        connection,
        target,
        expected,
        found: expected.filter(|_| target == Target::Found),
        listener_identity_deadline: None,
        answers_on_own_socket: false,
        deadline: ReadyDeadline::begin(),
        next_poll: SOCKET_POLL_FIRST,
        last: "no process listens on its socket".to_owned(),
    };
    wait.run()
}

fn successor(connection: &SupervisorConnection) -> Option<Pid> {
    let successor = connection.generations.iter().find(|generation| generation.role == Role::Successor);
    successor.map(|generation| generation.pid)
}

impl Wait<'_> {
    fn run(&mut self) -> Result<ListenerReport, NotReady> {
        let mut progress = ProgressReporter::start();
        loop {
            while let Some(report) = self.connection.buffered() {
                self.receive(report)?;
            }
            let result = match self.expected {
                Some(pid) => self.probe(pid),
                None => ProbeResult::Nothing,
            };
            let again = match result {
                ProbeResult::Ready(listening) => return Ok(listening),
                ProbeResult::Soon => {
                    self.next_poll = (self.next_poll * 2).min(SOCKET_POLL_LAST);
                    Some(Instant::now() + self.next_poll)
                }
                ProbeResult::Nothing => None,
            };
            let now = Instant::now();
            let waits_for_an_answer = self.expected.is_some() || self.target == Target::Successor;
            if waits_for_an_answer && self.deadline.is_over(now, self.expected) {
                return Err(NotReady::TimedOut { pid: self.expected, last: self.last.clone() });
            }
            // Without this check the wait for a supervisor that hangs would not end.
            if now >= progress.next_due() && !supervisor::answers(&self.context.home) {
                return Err(NotReady::SupervisorGone);
            }
            progress.report(|| match self.expected {
                Some(pid) => format!("waiting for the app-server (pid {pid}) to answer"),
                None if self.target == Target::Found => {
                    "waiting for the supervisor to restart the app-server".to_owned()
                }
                None => "waiting for running turns of the old app-server to finish".to_owned(),
            });
            let mut until = again.unwrap_or(self.deadline.last).min(progress.next_due());
            if waits_for_an_answer {
                until = until.min(self.deadline.next);
            }
            self.sleep(until.max(now))?;
        }
    }

    fn receive(&mut self, report: Report) -> Result<(), NotReady> {
        match (self.target, report) {
            (_, Report::SocketFolderChanged) => self.next_poll = SOCKET_POLL_FIRST,
            (Target::Successor, report) => return self.handle_successor_report(report),
            (_, Report::Spawned { pid }) => {
                self.target = Target::Current;
                self.answers_on_own_socket = false;
                self.expected = Some(pid);
                self.deadline = ReadyDeadline::begin();
                self.next_poll = SOCKET_POLL_FIRST;
            }
            (Target::Current | Target::Found, Report::State { pid, .. })
                if matches!(self.connection.seen, SupervisorSeen::Keeping(_)) =>
            {
                self.expected = pid;
                self.found = self.found.and(pid);
            }
            (_, Report::Exited { exit }) if !exit.requested => {
                if self.found.take() != Some(exit.pid) {
                    return Err(NotReady::Exited(exit));
                }
                self.expected = None;
            }
            (_, Report::Exited { .. } | Report::Signalled { .. }) => self.expected = None,
            (_, Report::SpawnFailed { message, errno } | Report::GatewayFailed { message, errno }) => {
                return Err(NotReady::SpawnFailed { message, errno });
            }
            (_, Report::Unkillable { pid }) => return Err(NotReady::Unkillable(pid)),
            _ => {}
        }
        Ok(())
    }

    /// The supervisor handles the exit of the current server.
    fn handle_successor_report(&mut self, report: Report) -> Result<(), NotReady> {
        match report {
            Report::Generations { .. } => self.expected = successor(self.connection),
            Report::SuccessorEnded { exit } => return Err(NotReady::Exited(exit)),
            Report::SuccessorFailed { message, errno } => {
                return Err(NotReady::SpawnFailed { message, errno });
            }
            _ => {}
        }
        Ok(())
    }

    fn probe(&mut self, expected: Pid) -> ProbeResult {
        let generation = self.connection.generations.iter().find(|generation| generation.pid == expected);
        // The list of generations follows right after the report of the start.
        let Some(own) = generation.map(|generation| generation.socket.clone()) else {
            return ProbeResult::Nothing;
        };
        let Some(own) = own else { return self.ask(&self.context.home.control_socket(), Some(expected)) };
        if !self.answers_on_own_socket {
            let result = self.ask(&own, Some(expected));
            if !matches!(result, ProbeResult::Ready(_)) || self.target == Target::Successor {
                return result;
            }
            self.answers_on_own_socket = true;
        }
        self.ask(&self.context.home.control_socket(), None)
    }

    /// Sends `initialize` to the listener on `socket`. The listener must be `expected`, or the gateway of this home if that is
    /// `None`.
    fn ask(&mut self, socket: &Path, expected: Option<Pid>) -> ProbeResult {
        let stream = match unix::connect(socket) {
            Ok(stream) => stream,
            Err(error) => {
                self.last = format!("failed to connect to {}: {error}", socket.display());
                // A socket that does not listen, or a link without a target, is about to be completed.
                return if socket.symlink_metadata().is_ok() {
                    ProbeResult::Soon
                } else {
                    ProbeResult::Nothing
                };
            }
        };
        let peer = unix::peer(&stream).ok().filter(|peer| peer.is_trusted());
        let listener = peer.and_then(|peer| peer.pid).map(Pid);
        let is_right = |listener| match expected {
            Some(expected) => process::descends_from(listener, expected),
            None => supervisor::holds_control_socket(listener, &self.context.home),
        };
        if !listener.is_some_and(is_right) {
            self.last = format!("another process listens on {}", socket.display());
            return ProbeResult::Soon;
        }
        if expected.is_some() && listener != expected && self.awaits_listener_identity() {
            return ProbeResult::Soon;
        }
        let left = self.deadline.last.saturating_duration_since(Instant::now());
        match probe::ask_on(stream, VERSION, left.min(Duration::from_millis(PROBE_TIMEOUT_MS))) {
            Ok(answer) => {
                let seen = ListenerSeen::Answering { pid: listener, ours: true };
                ProbeResult::Ready(ListenerReport { seen, answer: Some(answer) })
            }
            Err(error @ (ProbeError::Connect(_) | ProbeError::OtherUser { .. })) => {
                self.last = error.to_string();
                ProbeResult::Soon
            }
            Err(ProbeError::Unresponsive { why, .. } | ProbeError::Foreign { why, .. }) => {
                self.last = quote(&why);
                ProbeResult::Soon
            }
        }
    }

    /// The server has a wrapper, and the supervisor is about to find the process that listens. A supervisor of an older codexd
    /// never reports it.
    fn awaits_listener_identity(&mut self) -> bool {
        let wait = Duration::from_millis(LISTENER_NAMED_TIMEOUT_MS);
        Instant::now() < *self.listener_identity_deadline.get_or_insert_with(|| Instant::now() + wait)
    }

    /// Waits for a message of the supervisor until `until`.
    fn sleep(&mut self, until: Instant) -> Result<(), NotReady> {
        let timeout = until.saturating_duration_since(Instant::now()).try_into().ok();
        let mut waits = [PollFd::from_borrowed_fd(self.connection.fd(), PollFlags::IN)];
        let spoke = match rustix::event::poll(&mut waits, timeout.as_ref()) {
            Ok(_) => !waits[0].revents().is_empty(),
            Err(rustix::io::Errno::INTR) => false,
            Err(error) => return Err(NotReady::System(ConnectionError::System(error.into()))),
        };
        if spoke {
            self.connection.fill()?;
        }
        Ok(())
    }
}

enum ProbeResult {
    Ready(ListenerReport),
    /// A socket is about to listen: probe again soon.
    Soon,
    /// There is no socket: wait for a change.
    Nothing,
}
