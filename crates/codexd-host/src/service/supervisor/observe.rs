//! Finds the supervisor of a home, and checks whether it answers.

use std::ffi::OsStr;
use std::io::{self, ErrorKind};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use codexd_core::identity::{Pid, Process};
use codexd_core::lifecycle::SupervisorSeen;
use codexd_core::limits::{PROBE_TIMEOUT_MS, SUPERVISOR_LOCK_POLL_MS};

use super::connection::{ConnectionError, Deadline, SupervisorConnection};
use super::former_names;
use crate::home::Home;
use crate::launch::supervisor::COMMAND;
use crate::{lock, ownership, pid_namespace, poll, process};

/// The command of a supervisor in the foreground.
const FOREGROUND_COMMAND: &str = "run";

/// The observed supervisor.
#[derive(Debug)]
pub struct Seen {
    /// For the decision.
    pub seen: SupervisorSeen,
    /// The connection, if it answers.
    pub connection: Option<SupervisorConnection>,
}

/// Observes the supervisor of a home. A supervisor that holds the lock and does not answer may be starting or exiting: it gets
/// some time before it counts as unresponsive.
///
/// # Errors
/// `PermissionDenied` if the listener belongs to another user; other errors of the system. Absence is no error.
pub fn observe(home: &Home) -> io::Result<Seen> {
    let timeout = Duration::from_millis(PROBE_TIMEOUT_MS);
    let mut deadline = Deadline::after(timeout);
    loop {
        match connect(home) {
            Ok(stream) => {
                // A supervisor that has accepted the connection gets the full time to answer.
                if let Some(seen) = read_greeting(stream, Instant::now() + timeout)? {
                    return Ok(seen);
                }
            }
            Err(error) if is_absence(&error) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        if !home.supervisor_lock().exists() || lock::try_supervisor_lock(&home.supervisor_lock())?.is_some() {
            return Ok(Seen { seen: SupervisorSeen::Absent, connection: None });
        }
        let supervisor = holder(home);
        if deadline.is_over_for(supervisor.as_ref()) {
            return Ok(Seen {
                seen: SupervisorSeen::Unresponsive(supervisor.map(|supervisor| supervisor.pid)),
                connection: None,
            });
        }
        match supervisor {
            // Its exit is an event. That it listens is none.
            Some(supervisor) => {
                _ = process::await_end(&supervisor, Duration::from_millis(SUPERVISOR_LOCK_POLL_MS));
            }
            None => poll::pause(Duration::from_millis(SUPERVISOR_LOCK_POLL_MS)),
        }
    }
}

/// Waits until no process holds the supervisor's lock; `false` if one still does after `timeout`. A killed supervisor may hold the
/// lock for some time after `/proc` shows neither its arguments nor its open files, so there is no process to wait for.
///
/// # Errors
/// The lock file cannot be opened.
pub fn await_free_lock(home: &Home, timeout: Duration) -> io::Result<bool> {
    await_free_lock_at(&home.supervisor_lock(), timeout)
}

pub(super) fn await_free_lock_at(path: &Path, timeout: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + timeout;
    while path.exists() && lock::try_supervisor_lock(path)?.is_none() {
        if Instant::now() >= deadline {
            return Ok(false);
        }
        poll::pause(Duration::from_millis(SUPERVISOR_LOCK_POLL_MS));
    }
    Ok(true)
}

/// Connects to the supervisor of a home.
///
/// # Errors
/// `PermissionDenied` if the listener belongs to another user than this one or root; the connect fails.
pub fn connect(home: &Home) -> io::Result<UnixStream> {
    let stream = codexd_protocol::unix::connect(&home.supervisor_socket())?;
    let peer = codexd_protocol::unix::peer(&stream)?;
    // An order holds this process's whole environment, and a report is trusted: another user must get neither.
    if peer.is_trusted() {
        return Ok(stream);
    }
    let message = format!("the listener belongs to uid {}, which is neither yours nor root", peer.uid);
    Err(io::Error::new(ErrorKind::PermissionDenied, message))
}

/// Whether a process is a supervisor of this home, by its arguments; also a supervisor of codexd 0.1.0. A process in a container whose home
/// has the same path is not.
pub fn is_one(pid: Pid, home: &Home) -> bool {
    let arguments = process::arguments(pid);
    let is_by_arguments = matches!(&arguments[..], [_, command, option, path, ..]
        if is_command(command) && option == "--codex-home" && path == home.root().as_os_str());
    // A person may have written the options of one in the foreground in any order, or none.
    let is_in_foreground =
        || arguments.iter().any(|word| word == FOREGROUND_COMMAND) && has_lock_open(pid, home);
    (is_by_arguments || is_in_foreground())
        && !pid_namespace::is_below(pid)
        && ownership::is_trusted_process(pid)
}

/// Whether an argument is the internal command of a supervisor.
pub fn is_command(argument: &OsStr) -> bool {
    argument == COMMAND || argument == FOREGROUND_COMMAND || argument == former_names::COMMAND
}

fn has_lock_open(pid: Pid, home: &Home) -> bool {
    home.supervisor_lock().canonicalize().is_ok_and(|lock| process::has_open(pid, &lock))
}

/// Whether the kernel shows that a process is a supervisor of this home: it is in this pid namespace, and its arguments are those of a
/// supervisor or it has the supervisor's lock open.
pub fn is_identified(pid: Pid, home: &Home) -> bool {
    is_one(pid, home) || (!pid_namespace::is_below(pid) && has_lock_open(pid, home))
}

/// Whether the supervisor of a home answers or is absent; `false` if it hangs.
pub fn answers(home: &Home) -> bool {
    !matches!(observe(home), Ok(Seen { seen: SupervisorSeen::Unresponsive(_), .. }))
}

fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused | ErrorKind::NotADirectory)
}

/// The supervisor at the other end, if it reports its state by `deadline`; `None` if it has exited.
fn read_greeting(stream: UnixStream, deadline: Instant) -> io::Result<Option<Seen>> {
    let pid = codexd_protocol::unix::peer(&stream)?.pid.map(Pid);
    if pid.is_none() {
        let message = "the supervisor runs in a pid namespace that cannot be seen from here";
        return Err(io::Error::new(ErrorKind::Unsupported, message));
    }
    let Some(supervisor) = pid.and_then(|pid| process::identify(pid).ok()) else { return Ok(None) };
    let mut connection = SupervisorConnection::new(stream, supervisor)?;
    match connection.greeting(deadline) {
        Ok(true) => Ok(Some(Seen { seen: connection.seen, connection: Some(connection) })),
        Ok(false) | Err(ConnectionError::Silent(_)) => {
            Ok(Some(Seen { seen: SupervisorSeen::Unresponsive(pid), connection: None }))
        }
        Err(ConnectionError::Gone | ConnectionError::Refused(_) | ConnectionError::OrderRefused(_)) => {
            Ok(None)
        }
        Err(ConnectionError::System(error)) => Err(error),
    }
}

/// The supervisor that holds the lock, found by its open file: it may hang before it answers.
fn holder(home: &Home) -> Option<Process> {
    [COMMAND, FOREGROUND_COMMAND].into_iter().find_map(|command| holder_of(&home.supervisor_lock(), command))
}

/// The process that runs `command` and has the lock open.
pub(super) fn holder_of(lock: &Path, command: &str) -> Option<Process> {
    let lock = lock.canonicalize().ok()?;
    let entries = std::fs::read_dir("/proc").ok()?;
    let pids = entries.flatten().filter_map(|entry| Some(Pid(entry.file_name().to_str()?.parse().ok()?)));
    let supervisors = pids.filter(|&pid| process::arguments(pid).iter().skip(1).any(|word| word == command));
    let supervisors = supervisors.filter(|&pid| !pid_namespace::is_below(pid));
    supervisors.filter(|&pid| process::has_open(pid, &lock)).find_map(|pid| process::identify(pid).ok())
}
