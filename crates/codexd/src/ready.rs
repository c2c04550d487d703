//! Waiting until the server answers `initialize`: for the supervisor's word that it runs and that something has changed beside
//! its socket, then for the answer; never by looking every so often, but for the moments between a server's making its socket and listening on it.

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
use crate::gateway_program;
use crate::observe::ListenerReport;
use crate::progress::ProgressReporter;

/// The wait between two looks while a socket is being made: doubled from the first to the last.
const FIRST_POLL: Duration = Duration::from_millis(1);
const LAST_POLL: Duration = Duration::from_millis(50);
/// A process counts as idle if it was not at work for so long; near the end of its time it is checked this often.
const IDLE_FOR: Duration = Duration::from_secs(2);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Why no server answers.
#[derive(Debug)]
pub enum NotReady {
    /// It ended.
    Exited(LastExit),
    /// It could not be started.
    SpawnFailed {
        /// Why.
        message: String,
        /// The number of the system's error.
        errno: Option<i32>,
    },
    /// The old one cannot be killed.
    Unkillable(Pid),
    /// Time is up.
    TimedOut {
        /// The server, if one lives.
        pid: Option<Pid>,
        /// What the last look found.
        last: String,
    },
    /// The supervisor is gone: look again.
    SupervisorGone,
    /// The system refused something.
    Link(ConnectionError),
}

impl From<ConnectionError> for NotReady {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::Gone => NotReady::SupervisorGone,
            other => NotReady::Link(other),
        }
    }
}

/// Whose answer is waited for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Target {
    /// That of the server that the supervisor keeps or is about to start, as it was ordered.
    Current,
    /// The same without an order now: it ran before, or is restarted.
    Found,
    /// That of the one that it starts beside the one that it keeps, on its own socket.
    Successor,
}

/// Until when a server is waited for: for longer if it computes, or reads itself from the disk.
#[derive(Debug)]
struct ReadyDeadline {
    next: Instant,
    last: Instant,
    at_work: Instant,
    activity: Activity,
}

impl ReadyDeadline {
    /// Of a server that begins now.
    fn begin() -> Self {
        let now = Instant::now();
        let at_work = now + Duration::from_millis(START_TIMEOUT_MS).saturating_sub(IDLE_FOR);
        let last = now + Duration::from_millis(BUSY_START_TIMEOUT_MS);
        Self { next: at_work, last, at_work, activity: Activity::default() }
    }

    fn are_over(&mut self, now: Instant, server: Option<Pid>) -> bool {
        if now < self.next {
            return false;
        }
        if server.is_some_and(|pid| self.activity.is_seen(pid.0)) {
            self.at_work = now;
        }
        self.next = now + POLL_INTERVAL;
        now >= self.last || now.saturating_duration_since(self.at_work) >= IDLE_FOR
    }
}

struct Wait<'a> {
    context: &'a Context,
    connection: &'a mut SupervisorConnection,
    whose: Target,
    expected: Option<Pid>,
    /// One that ran when the wait began, without an order: if it dies, the supervisor starts another.
    found: Option<Pid>,
    /// A process below the expected one answers: until when the supervisor may take to name it as the server.
    listener_identity_deadline: Option<Instant>,
    /// It answers on the socket of its own; what is left is the way through the gateway.
    answers_on_own_socket: bool,
    times: ReadyDeadline,
    next_poll: Duration,
    last: String,
}

/// Waits for an answer: on the control socket, and where the server has a socket of its own, there first.
///
/// # Errors
/// See [`NotReady`].
pub fn await_ready(
    context: &Context,
    connection: &mut SupervisorConnection,
    whose: Target,
) -> Result<ListenerReport, NotReady> {
    let expected = match (connection.seen, whose) {
        (SupervisorSeen::Keeping(pid), Target::Current | Target::Found) => Some(pid),
        (_, Target::Successor) => successor(connection),
        _ => None,
    };
    let mut wait = Wait {
        context,
        connection,
        whose,
        expected,
        found: expected.filter(|_| whose == Target::Found),
        listener_identity_deadline: None,
        answers_on_own_socket: false,
        times: ReadyDeadline::begin(),
        next_poll: FIRST_POLL,
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
            let looked = match self.expected {
                Some(pid) => self.look(pid),
                None => Looked::Nothing,
            };
            let again = match looked {
                Looked::Ready(listening) => return Ok(listening),
                Looked::Soon => {
                    self.next_poll = (self.next_poll * 2).min(LAST_POLL);
                    Some(Instant::now() + self.next_poll)
                }
                Looked::Nothing => None,
            };
            let now = Instant::now();
            let waits_for_an_answer = self.expected.is_some() || self.whose == Target::Successor;
            if waits_for_an_answer && self.times.are_over(now, self.expected) {
                return Err(NotReady::TimedOut { pid: self.expected, last: self.last.clone() });
            }
            // One that hangs would be waited for without end.
            if now >= progress.next_due() && !supervisor::answers(&self.context.home) {
                return Err(NotReady::SupervisorGone);
            }
            progress.report(|| match self.expected {
                Some(pid) => format!("waiting for the app-server (pid {pid}) to answer"),
                None if self.whose == Target::Found => {
                    "waiting for the supervisor to restart the app-server".to_owned()
                }
                None => "waiting for running turns of the old app-server to finish".to_owned(),
            });
            let mut until = again.unwrap_or(self.times.last).min(progress.next_due());
            if waits_for_an_answer {
                until = until.min(self.times.next);
            }
            self.sleep(until.max(now))?;
        }
    }

    fn receive(&mut self, report: Report) -> Result<(), NotReady> {
        match (self.whose, report) {
            (_, Report::SocketFolderChanged) => self.next_poll = FIRST_POLL,
            (Target::Successor, report) => return self.handle_successor_report(report),
            (_, Report::Spawned { pid }) => {
                self.whose = Target::Current;
                self.answers_on_own_socket = false;
                self.expected = Some(pid);
                self.times = ReadyDeadline::begin();
                self.next_poll = FIRST_POLL;
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

    /// What becomes of the current one meanwhile is the supervisor's business.
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

    fn look(&mut self, expected: Pid) -> Looked {
        let generation = self.connection.generations.iter().find(|generation| generation.pid == expected);
        // Who lives is told right after the news that one was started.
        let Some(own) = generation.map(|generation| generation.socket.clone()) else {
            return Looked::Nothing;
        };
        let Some(own) = own else { return self.ask(&self.context.home.control_socket(), Some(expected)) };
        if !self.answers_on_own_socket {
            let looked = self.ask(&own, Some(expected));
            if !matches!(looked, Looked::Ready(_)) || self.whose == Target::Successor {
                return looked;
            }
            self.answers_on_own_socket = true;
        }
        self.ask(&self.context.home.control_socket(), None)
    }

    /// Asks the listener on `socket`, which must be `expected`, or else our own gateway.
    fn ask(&mut self, socket: &Path, expected: Option<Pid>) -> Looked {
        let stream = match unix::connect(socket) {
            Ok(stream) => stream,
            Err(error) => {
                self.last = format!("failed to connect to {}: {error}", socket.display());
                // A socket or a link that is there and leads nowhere yet is one in the making.
                return if socket.symlink_metadata().is_ok() { Looked::Soon } else { Looked::Nothing };
            }
        };
        let peer = unix::peer(&stream).ok().filter(|peer| peer.is_trusted());
        let listener = peer.and_then(|peer| peer.pid).map(Pid);
        let is_right = |listener| match expected {
            Some(expected) => process::descends_from(listener, expected),
            None => gateway_program::is_ours(listener, &self.context.home),
        };
        if !listener.is_some_and(is_right) {
            self.last = format!("another process listens on {}", socket.display());
            return Looked::Soon;
        }
        if expected.is_some() && listener != expected && self.awaits_listener_identity() {
            return Looked::Soon;
        }
        let left = self.times.last.saturating_duration_since(Instant::now());
        match probe::ask_on(stream, VERSION, left.min(Duration::from_millis(PROBE_TIMEOUT_MS))) {
            Ok(answer) => {
                let seen = ListenerSeen::Answering { pid: listener, ours: true };
                Looked::Ready(ListenerReport { seen, answer: Some(answer) })
            }
            Err(error @ (ProbeError::Connect(_) | ProbeError::OtherUser { .. })) => {
                self.last = error.to_string();
                Looked::Soon
            }
            Err(ProbeError::Unresponsive { why, .. } | ProbeError::Foreign { why, .. }) => {
                self.last = quote(&why);
                Looked::Soon
            }
        }
    }

    /// The server has a wrapper: the supervisor learns in a moment which process listens. One of an older codexd never does.
    fn awaits_listener_identity(&mut self) -> bool {
        let wait = Duration::from_millis(LISTENER_NAMED_TIMEOUT_MS);
        Instant::now() < *self.listener_identity_deadline.get_or_insert_with(|| Instant::now() + wait)
    }

    /// Until the supervisor says something or `until` has come.
    fn sleep(&mut self, until: Instant) -> Result<(), NotReady> {
        let timeout = until.saturating_duration_since(Instant::now()).try_into().ok();
        let mut waits = [PollFd::from_borrowed_fd(self.connection.fd(), PollFlags::IN)];
        let spoke = match rustix::event::poll(&mut waits, timeout.as_ref()) {
            Ok(_) => !waits[0].revents().is_empty(),
            Err(rustix::io::Errno::INTR) => false,
            Err(error) => return Err(NotReady::Link(ConnectionError::System(error.into()))),
        };
        if spoke {
            self.connection.fill()?;
        }
        Ok(())
    }
}

enum Looked {
    Ready(ListenerReport),
    /// Something is in the making: look again soon.
    Soon,
    /// Nothing is there: wait for a change.
    Nothing,
}
