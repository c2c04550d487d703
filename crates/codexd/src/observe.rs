//! A look at the machine: the record, the keeper, the socket.

use std::io::ErrorKind;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::Duration;

use codexd_core::contract::Failure;
use codexd_core::identity::{Pid, Process};
use codexd_core::lifecycle::{Command, KeeperSeen, ListenerSeen, Observation, Recorded};
use codexd_core::limits::PROBE_TIMEOUT_MS;
use codexd_core::record::CodexdRecord;
use codexd_host::service::keeper::{self, KeeperLink, StatePhase};
use codexd_host::{Home, pid_record, process, strays};
use codexd_protocol::probe::{self, Answer, ProbeError};
use codexd_protocol::unix;

use crate::context::{Context, VERSION};
use crate::failures;

/// What a look found, for the decision and for the answer.
#[derive(Debug)]
pub struct Sight {
    /// For the decision.
    pub observation: Observation,
    /// The recorded server, if it lives.
    pub server: Option<Process>,
    /// What codexd wrote beside it.
    pub codexd: Option<CodexdRecord>,
    /// What was answered on the control socket.
    pub answer: Option<Answer>,
}

/// What the control socket shows.
#[derive(Clone, Debug)]
pub struct Listening {
    /// For the decision.
    pub seen: ListenerSeen,
    /// What was answered.
    pub answer: Option<Answer>,
}

/// Looks at everything. `link` is the connection to the keeper, made here if there is none yet.
///
/// # Errors
/// What the file system said.
pub fn look(
    context: &Context,
    command: Command,
    link: &mut Option<KeeperLink>,
    fresh: Option<Listening>,
) -> Result<Sight, Failure> {
    let home = &context.home;
    let mut record =
        pid_record::observe(home).map_err(|error| failures::state("read", &home.pid_record(), &error))?;
    let keeper = match link {
        Some(link) => link.seen,
        None => {
            let seen = keeper::observe(home)
                .map_err(|error| failures::state("talk to the keeper at", &home.keeper_socket(), &error))?;
            *link = seen.link;
            seen.seen
        }
    };
    if !matches!(record.recorded, Recorded::Alive(_))
        && keeper == KeeperSeen::Absent
        && let Some((process, codexd)) = unrecorded(home)
    {
        let message = format!("found the app-server {} that a killed keeper had not recorded", process.pid);
        pid_record::write(home, &process, codexd.clone())
            .map_err(|error| failures::state("write", &home.pid_record(), &error))?;
        context.repaired("unrecorded-server", message);
        record = pid_record::Observed {
            recorded: Recorded::Alive(process.pid),
            process: Some(process),
            codexd: Some(codexd),
        };
    }
    let ours = record.process.as_ref().map(|process| process.pid);
    let listening = match fresh {
        Some(fresh) => fresh,
        None => listening(home, command, ours, keeper),
    };
    let observation = Observation { record: record.recorded, keeper, listener: listening.seen };
    Ok(Sight { observation, server: record.process, codexd: record.codexd, answer: listening.answer })
}

/// A keeper that was killed between starting a server and recording it has said which mark the server carries.
fn unrecorded(home: &Home) -> Option<(Process, CodexdRecord)> {
    let state = keeper::read_state(home)?;
    let (StatePhase::Spawning, Some(generation), Some(program)) =
        (state.phase, state.generation, state.program)
    else {
        return None;
    };
    if process::is_alive(&state.keeper) {
        return None;
    }
    let found = strays::find(&generation, &[]);
    // The server itself is the one that no other one with the mark is the parent of.
    let server = found.iter().find(|process| {
        !found.iter().any(|other| other.pid != process.pid && process::descends_from(process.pid, other.pid))
    })?;
    let codexd = CodexdRecord {
        generation: Some(generation),
        executable: program.executable,
        executable_identity: process::executable(server.pid).ok().map(|(_, identity)| identity),
        embedded: program.embedded,
    };
    Some((server.clone(), codexd))
}

/// Asks only where the answer matters: a stop of our own server needs none, and one that hangs would give none.
fn listening(home: &Home, command: Command, ours: Option<Pid>, keeper: KeeperSeen) -> Listening {
    let kept = ours.is_some() || !matches!(keeper, KeeperSeen::Absent | KeeperSeen::Mute(_));
    match command {
        Command::Stop if kept => Listening { seen: ListenerSeen::Nothing, answer: None },
        Command::Restart if kept => {
            let glimpse = glimpse(&home.control_socket(), ours);
            match glimpse {
                ListenerSeen::Mute { ours: false, .. } => listener(&home.control_socket(), ours),
                seen => Listening { seen, answer: None },
            }
        }
        _ => listener(&home.control_socket(), ours),
    }
}

/// Asks whoever listens on the control socket.
pub fn listener(socket: &Path, ours: Option<Pid>) -> Listening {
    let seen = |seen| Listening { seen, answer: None };
    match probe::ask(socket, VERSION, Duration::from_millis(PROBE_TIMEOUT_MS)) {
        Ok(answer) => {
            let pid = answer.peer.pid.map(Pid);
            let ours = is_ours(pid, ours);
            Listening { seen: ListenerSeen::Answering { pid, ours }, answer: Some(answer) }
        }
        Err(ProbeError::Connect(error)) => seen(unreachable(socket, error.kind())),
        Err(ProbeError::Mute { peer, .. } | ProbeError::Foreign { peer, .. }) => {
            let pid = peer.and_then(|peer| peer.pid).map(Pid);
            seen(ListenerSeen::Mute { pid, ours: is_ours(pid, ours) })
        }
    }
}

/// Who listens, without asking anything.
fn glimpse(socket: &Path, ours: Option<Pid>) -> ListenerSeen {
    match unix::connect(socket) {
        Ok(stream) => {
            let pid = unix::peer(&stream).ok().and_then(|peer| peer.pid).map(Pid);
            ListenerSeen::Mute { pid, ours: is_ours(pid, ours) }
        }
        Err(error) => unreachable(socket, error.kind()),
    }
}

fn unreachable(socket: &Path, kind: ErrorKind) -> ListenerSeen {
    let there = socket.symlink_metadata().is_ok();
    let is_socket = socket.metadata().is_ok_and(|found| found.file_type().is_socket());
    let dangling = there && socket.metadata().is_err();
    match kind {
        _ if !there => ListenerSeen::Nothing,
        _ if is_socket || dangling => ListenerSeen::LeftOver,
        _ => ListenerSeen::NoSocket,
    }
}

/// Whether the listener is the recorded server, or one that it wraps.
fn is_ours(listener: Option<Pid>, recorded: Option<Pid>) -> bool {
    matches!((listener, recorded), (Some(listener), Some(recorded)) if process::descends_from(listener, recorded))
}
