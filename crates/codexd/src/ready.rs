//! Waiting until the server answers `initialize`: for the keeper's word that it runs and that something has changed beside
//! its socket, then for the answer; never by looking every so often, but for the moments between a server's making its socket and listening on it.

use std::time::{Duration, Instant};

use codexd_core::contract::status::LastExit;
use codexd_core::identity::Pid;
use codexd_core::lifecycle::{KeeperSeen, ListenerSeen};
use codexd_core::limits::{PROBE_TIMEOUT_MS, START_TIMEOUT_MS};
use codexd_host::process;
use codexd_host::service::keeper::{self, KeeperLink, LinkError, Report};
use codexd_protocol::probe::{self, ProbeError};
use codexd_protocol::unix;
use rustix::event::{PollFd, PollFlags};

use crate::context::{Context, VERSION};
use crate::observe::Listening;
use crate::patience::Progress;

/// The wait between two looks while a socket is being made: doubled from the first to the last.
const FIRST_LOOK: Duration = Duration::from_millis(1);
const LAST_LOOK: Duration = Duration::from_millis(50);

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
    /// The keeper would not begin; nothing was changed.
    Refused {
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
    /// The keeper is gone: look again.
    KeeperGone,
    /// The system refused something.
    Link(LinkError),
}

impl From<LinkError> for NotReady {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Gone => NotReady::KeeperGone,
            other => NotReady::Link(other),
        }
    }
}

struct Wait<'a> {
    context: &'a Context,
    link: &'a mut KeeperLink,
    expected: Option<Pid>,
    replacing: bool,
    deadline: Instant,
    next_look: Duration,
    last: String,
}

/// Waits for the answer of the server that the keeper keeps or is about to start; while `replacing`, only for that of the
/// next one it starts.
///
/// # Errors
/// See [`NotReady`].
pub fn await_ready(context: &Context, link: &mut KeeperLink, replacing: bool) -> Result<Listening, NotReady> {
    let expected = match link.seen {
        KeeperSeen::Keeping(pid) if !replacing => Some(pid),
        _ => None,
    };
    let mut wait = Wait {
        context,
        link,
        expected,
        replacing,
        deadline: Instant::now() + Duration::from_millis(START_TIMEOUT_MS),
        next_look: FIRST_LOOK,
        last: "nobody listens on the control socket".to_owned(),
    };
    wait.run()
}

impl Wait<'_> {
    fn run(&mut self) -> Result<Listening, NotReady> {
        let mut progress = Progress::begin();
        loop {
            while let Some(report) = self.link.buffered() {
                self.hear(report)?;
            }
            let looked = match self.expected {
                Some(pid) => self.look(pid),
                None => Looked::Nothing,
            };
            let again = match looked {
                Looked::Ready(listening) => return Ok(listening),
                Looked::Soon => {
                    self.next_look = (self.next_look * 2).min(LAST_LOOK);
                    Some(Instant::now() + self.next_look)
                }
                Looked::Nothing => None,
            };
            let now = Instant::now();
            if self.expected.is_some() && now >= self.deadline {
                return Err(NotReady::TimedOut { pid: self.expected, last: self.last.clone() });
            }
            // One that hangs would be waited for without end.
            if now >= progress.due() && !keeper::answers(&self.context.home) {
                return Err(NotReady::KeeperGone);
            }
            progress.tell(|| match self.expected {
                Some(pid) => format!("waiting for the app-server (pid {pid}) to answer"),
                None => "waiting for running turns of the old app-server to end".to_owned(),
            });
            let mut until = again.unwrap_or(self.deadline).min(progress.due());
            if self.expected.is_some() {
                until = until.min(self.deadline);
            }
            self.sleep(until.max(now))?;
        }
    }

    fn hear(&mut self, report: Report) -> Result<(), NotReady> {
        match report {
            Report::Spawned { pid } => {
                self.replacing = false;
                self.expected = Some(pid);
                self.deadline = Instant::now() + Duration::from_millis(START_TIMEOUT_MS);
                self.next_look = FIRST_LOOK;
            }
            Report::State { pid, .. } => {
                if !self.replacing && matches!(self.link.seen, KeeperSeen::Keeping(_)) {
                    self.expected = pid;
                }
            }
            // The old one, before the keeper had read that it is to be replaced.
            Report::Exited { exit } if !exit.requested && self.replacing => self.expected = None,
            Report::Exited { exit } if !exit.requested => return Err(NotReady::Exited(exit)),
            Report::Exited { .. } | Report::Signalled { .. } => self.expected = None,
            Report::SpawnFailed { message, errno } => return Err(NotReady::SpawnFailed { message, errno }),
            Report::Unkillable { pid } => return Err(NotReady::Unkillable(pid)),
            Report::SocketFolderChanged => self.next_look = FIRST_LOOK,
            Report::Refused { message, errno } => return Err(NotReady::Refused { message, errno }),
            Report::Swept { .. } | Report::Leaving => {}
        }
        Ok(())
    }

    fn look(&mut self, expected: Pid) -> Looked {
        let socket = self.context.home.control_socket();
        let stream = match unix::connect(&socket) {
            Ok(stream) => stream,
            Err(error) => {
                self.last = format!("failed to connect to {}: {error}", socket.display());
                // A socket or a link that is there and leads nowhere yet is one in the making.
                return if socket.symlink_metadata().is_ok() { Looked::Soon } else { Looked::Nothing };
            }
        };
        let listener = unix::peer(&stream).ok().and_then(|peer| peer.pid).map(Pid);
        if !listener.is_some_and(|listener| process::descends_from(listener, expected)) {
            self.last = "another process listens on the control socket".to_owned();
            return Looked::Soon;
        }
        let left = self.deadline.saturating_duration_since(Instant::now());
        match probe::ask_on(stream, VERSION, left.min(Duration::from_millis(PROBE_TIMEOUT_MS))) {
            Ok(answer) => {
                let seen = ListenerSeen::Answering { pid: listener, ours: true };
                Looked::Ready(Listening { seen, answer: Some(answer) })
            }
            Err(ProbeError::Connect(error)) => {
                self.last = error.to_string();
                Looked::Soon
            }
            Err(ProbeError::Mute { why, .. } | ProbeError::Foreign { why, .. }) => {
                self.last = why;
                Looked::Soon
            }
        }
    }

    /// Until the keeper says something or `until` has come.
    fn sleep(&mut self, until: Instant) -> Result<(), NotReady> {
        let timeout = until.saturating_duration_since(Instant::now()).try_into().ok();
        let mut waits = [PollFd::from_borrowed_fd(self.link.fd(), PollFlags::IN)];
        let spoke = match rustix::event::poll(&mut waits, timeout.as_ref()) {
            Ok(_) => !waits[0].revents().is_empty(),
            Err(rustix::io::Errno::INTR) => false,
            Err(error) => return Err(NotReady::Link(LinkError::System(error.into()))),
        };
        if spoke {
            self.link.fill()?;
        }
        Ok(())
    }
}

enum Looked {
    Ready(Listening),
    /// Something is in the making: look again soon.
    Soon,
    /// Nothing is there: wait for a change.
    Nothing,
}
