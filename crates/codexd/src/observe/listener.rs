//! Which process listens on the control socket, and whether it answers `initialize`.

use std::io::ErrorKind;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::{Duration, Instant};

use codexd_core::identity::{Pid, Process};
use codexd_core::lifecycle::{Command, ListenerSeen, SupervisorSeen};
use codexd_core::limits::PROBE_TIMEOUT_MS;
use codexd_core::record::CodexdRecord;
use codexd_host::service::supervisor;
use codexd_host::{Home, poll, process};
use codexd_protocol::probe::{self, Answer, ProbeError};
use codexd_protocol::unix;

use crate::context::VERSION;
use crate::limits::{OBSERVATION_PAUSE, OBSERVATION_PAUSE_LAST};

/// The result of a probe of the control socket.
#[derive(Clone, Debug)]
pub struct ListenerReport {
    /// The input of the decision.
    pub seen: ListenerSeen,
    /// The answer to `initialize`.
    pub answer: Option<Answer>,
}

/// The server of a home, as far as the probe needs it.
#[derive(Clone, Copy, Debug, Default)]
pub struct OwnServer<'a> {
    /// Its pid, if it runs.
    pub pid: Option<Pid>,
    /// Its own socket behind a gateway.
    pub socket: Option<&'a Path>,
}

impl<'a> OwnServer<'a> {
    pub fn of(server: Option<&Process>, codexd: Option<&'a CodexdRecord>) -> Self {
        let socket = codexd.and_then(|record| record.socket.as_deref());
        Self { pid: server.map(|server| server.pid), socket }
    }

    /// Whether the server accepts connections. Otherwise the gateway would only wait for it.
    fn is_reachable(self) -> bool {
        self.pid.is_some() && self.socket.is_none_or(|socket| unix::connect(socket).is_ok())
    }
}

/// Probes the control socket only if the command needs the answer: to stop its own server it does not.
pub fn where_it_matters(
    home: &Home,
    command: Command,
    ours: OwnServer<'_>,
    supervisor: SupervisorSeen,
) -> ListenerReport {
    let is_managed =
        ours.pid.is_some() || !matches!(supervisor, SupervisorSeen::Absent | SupervisorSeen::Unresponsive(_));
    match command {
        Command::Stop if is_managed => ListenerReport { seen: ListenerSeen::Nothing, answer: None },
        Command::Restart if is_managed => {
            let peek = peek(home, ours);
            match peek {
                ListenerSeen::Unresponsive { ours: false, .. } => listener(home, ours),
                seen => ListenerReport { seen, answer: None },
            }
        }
        _ => listener(home, ours),
    }
}

/// Probes the process that listens on the control socket. If that process exits meanwhile, probes the next listener.
pub fn listener(home: &Home, ours: OwnServer<'_>) -> ListenerReport {
    let deadline = Instant::now() + Duration::from_millis(PROBE_TIMEOUT_MS);
    let mut pause = OBSERVATION_PAUSE;
    loop {
        match ask(home, ours) {
            Asked::Settled(listening) => return listening,
            Asked::Leaving(listening) if Instant::now() >= deadline => return listening,
            Asked::Leaving(_) => poll::pause(pause),
        }
        pause = (pause * 2).min(OBSERVATION_PAUSE_LAST);
    }
}

/// The result of one probe.
enum Asked {
    /// The result is final.
    Settled(ListenerReport),
    /// The listener closed the connection without an answer, or is exiting: probe again.
    Leaving(ListenerReport),
}

fn ask(home: &Home, ours: OwnServer<'_>) -> Asked {
    let socket = home.control_socket();
    let seen = |seen| Asked::Settled(ListenerReport { seen, answer: None });
    let stream = match unix::connect(&socket) {
        Ok(stream) => stream,
        Err(error) => return seen(unreachable(&socket, error.kind())),
    };
    let peer = unix::peer(&stream).ok();
    if let Some(peer) = peer.filter(|peer| !peer.is_trusted()) {
        return seen(ListenerSeen::OtherUser { uid: peer.uid });
    }
    let pid = peer.and_then(|peer| peer.pid).map(Pid);
    let is_ours = is_ours(home, pid, ours);
    if is_ours && !ours.is_reachable() {
        return seen(ListenerSeen::Unresponsive { pid, ours: true });
    }
    let has_a_name = is_ours || pid.is_none_or(|pid| !process::is_exiting(pid));
    let timeout = Duration::from_millis(PROBE_TIMEOUT_MS);
    let began = Instant::now();
    match probe::ask_on(stream, VERSION, timeout) {
        Ok(answer) => {
            let listening =
                ListenerReport { seen: ListenerSeen::Answering { pid, ours: is_ours }, answer: Some(answer) };
            // The kernel reports the process of the last `listen`; another process may answer by now.
            if has_a_name { Asked::Settled(listening) } else { Asked::Leaving(listening) }
        }
        Err(ProbeError::Connect(error)) => seen(unreachable(&socket, error.kind())),
        Err(ProbeError::OtherUser { peer }) => seen(ListenerSeen::OtherUser { uid: peer.uid }),
        Err(ProbeError::Unresponsive { .. }) if began.elapsed() < timeout || !has_a_name => {
            Asked::Leaving(ListenerReport {
                seen: ListenerSeen::Unresponsive { pid, ours: is_ours },
                answer: None,
            })
        }
        Err(ProbeError::Unresponsive { .. } | ProbeError::Foreign { .. }) => {
            seen(ListenerSeen::Unresponsive { pid, ours: is_ours })
        }
    }
}

/// Which process listens, without a probe.
pub fn peek(home: &Home, ours: OwnServer<'_>) -> ListenerSeen {
    let socket = home.control_socket();
    match unix::connect(&socket) {
        Ok(stream) => {
            let peer = unix::peer(&stream).ok();
            if let Some(peer) = peer.filter(|peer| !peer.is_trusted()) {
                return ListenerSeen::OtherUser { uid: peer.uid };
            }
            let pid = peer.and_then(|peer| peer.pid).map(Pid);
            ListenerSeen::Unresponsive { pid, ours: is_ours(home, pid, ours) }
        }
        Err(error) => unreachable(&socket, error.kind()),
    }
}

fn unreachable(socket: &Path, kind: ErrorKind) -> ListenerSeen {
    let there = socket.symlink_metadata().is_ok();
    let is_socket = socket.metadata().is_ok_and(|found| found.file_type().is_socket());
    match kind {
        ErrorKind::NotFound if there => ListenerSeen::Stale,
        ErrorKind::ConnectionRefused if is_socket => ListenerSeen::Stale,
        _ if !there => ListenerSeen::Nothing,
        ErrorKind::ConnectionRefused => ListenerSeen::NotASocket,
        // Permission denied, or the queue of the socket is full: a process may listen.
        _ => ListenerSeen::Unresponsive { pid: None, ours: false },
    }
}

/// Whether the listener is the server of the home, a descendant of it (the server has a wrapper), or the gateway or supervisor
/// of codexd.
fn is_ours(home: &Home, listener: Option<Pid>, ours: OwnServer<'_>) -> bool {
    let Some(listener) = listener else { return false };
    ours.pid.is_some_and(|server| process::descends_from(listener, server))
        || supervisor::holds_control_socket(listener, home)
}
