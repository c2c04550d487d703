//! A look at the machine: the record, the keeper, the socket.

use std::io::{self, ErrorKind};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::{Duration, Instant};

use codexd_core::contract::Failure;
use codexd_core::identity::{Pid, Process};
use codexd_core::lifecycle::{Command, KeeperSeen, ListenerSeen, Observation, Recorded};
use codexd_core::limits::PROBE_TIMEOUT_MS;
use codexd_core::record::CodexdRecord;
use codexd_host::service::keeper::{self, KeeperLink, StatePhase};
use codexd_host::strays::{self, Spared, Ties};
use codexd_host::{Home, pid_record, process};
use codexd_protocol::probe::{self, Answer, ProbeError};
use codexd_protocol::unix;

use crate::context::{Context, VERSION};
use crate::failures;

/// How long a process may take from its fork until its environment can be read, on a busy machine.
const IN_THE_MAKING: Duration = Duration::from_millis(500);
/// How soon to look again when things changed during a look.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

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
    /// The mark of what a dead server had started and nobody has ended.
    pub left_behind: Option<Ties>,
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
    let mut fresh = fresh;
    let deadline = Instant::now() + Duration::from_millis(PROBE_TIMEOUT_MS);
    loop {
        let sight = glance(context, command, link, fresh.take())?;
        if !being_recorded(&context.home, &sight.observation.listener) || Instant::now() >= deadline {
            return Ok(sight);
        }
        // Things have changed while we looked at one after the other: the keeper, too, is asked anew.
        *link = None;
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Whether the listener, which the record did not name when it was read, is the server that a keeper has just started.
fn being_recorded(home: &Home, listener: &ListenerSeen) -> bool {
    let (ListenerSeen::Answering { pid: Some(pid), ours: false }
    | ListenerSeen::Mute { pid: Some(pid), ours: false }) = listener
    else {
        return false;
    };
    keeper::read_state(home).and_then(|state| state.generation).is_some_and(|generation| {
        let environment = process::environment(*pid);
        environment.iter().any(|(name, value)| name == strays::MARK && *value == *generation)
    })
}

fn glance(
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
    let mut left_behind = None;
    if !matches!(record.recorded, Recorded::Alive(_))
        && matches!(keeper, KeeperSeen::Absent | KeeperSeen::Idle)
    {
        match remains(home) {
            Remains::Nothing => {}
            Remains::Strays(ties) => left_behind = Some(ties),
            Remains::Server(process, codexd) => record = record_it(context, process, codexd)?,
        }
    }
    if let (KeeperSeen::Keeping(pid), None) = (keeper, &record.process)
        && let Some((process, codexd)) = kept(home, pid)
    {
        record = record_it(context, process, codexd)?;
    }
    let ours = record.process.as_ref().map(|process| process.pid);
    let listening = match fresh {
        Some(fresh) => fresh,
        None => listening(home, command, ours, keeper),
    };
    let observation = Observation {
        record: record.recorded,
        keeper,
        listener: listening.seen,
        left_behind: left_behind.is_some(),
    };
    let (server, codexd) = (record.process, record.codexd);
    Ok(Sight { observation, server, codexd, answer: listening.answer, left_behind })
}

/// The server of the home: the recorded one, or the one that a living keeper keeps although no record names it. A look
/// that changes nothing.
///
/// # Errors
/// What the file system said.
pub fn server(home: &Home) -> io::Result<pid_record::Observed> {
    let mut record = pid_record::observe(home)?;
    if record.process.is_none()
        && let Some(state) = keeper::read_state(home)
        && process::is_alive(&state.keeper)
        && let Some(server) = state.server
        && let Some((process, codexd)) = kept(home, server.pid)
    {
        (record.process, record.codexd) = (Some(process), Some(codexd));
    }
    Ok(record)
}

/// The server that the keeper keeps, when its record was lost or spoilt meanwhile.
fn kept(home: &Home, pid: Pid) -> Option<(Process, CodexdRecord)> {
    let state = keeper::read_state(home)?;
    let server = state.server.filter(|server| server.pid == pid && process::is_alive(server))?;
    let program = state.program?;
    let executable_identity = process::executable(pid).ok().map(|(_, identity)| identity);
    let (executable, embedded) = (program.executable, program.embedded);
    Some((server, CodexdRecord { generation: state.generation, executable, executable_identity, embedded }))
}

fn record_it(
    context: &Context,
    process: Process,
    codexd: CodexdRecord,
) -> Result<pid_record::Observed, Failure> {
    let home = &context.home;
    let message = format!("no record named the app-server {}, which runs; recorded it", process.pid);
    pid_record::write(home, &process, codexd.clone())
        .map_err(|error| failures::state("write", &home.pid_record(), &error))?;
    context.repaired("unrecorded-server", message);
    Ok(pid_record::Observed {
        recorded: Recorded::Alive(process.pid),
        process: Some(process),
        codexd: Some(codexd),
    })
}

/// What lives of the server of a keeper that was killed, when no record names it.
enum Remains {
    Nothing,
    /// The server itself.
    Server(Process, CodexdRecord),
    /// Only what it had started, to which these lead.
    Strays(Ties),
}

/// A keeper that was killed had said which server it keeps, or, if it was just starting one, which mark that one carries.
fn remains(home: &Home) -> Remains {
    let Some(state) = keeper::read_state(home) else { return Remains::Nothing };
    if process::is_alive(&state.keeper) || matches!(state.phase, StatePhase::Stopped | StatePhase::Failed) {
        return Remains::Nothing;
    }
    let find = || state.generation.as_deref().map(strays::marked).unwrap_or_default();
    let mut marked = find();
    let mut server = state.server.filter(process::is_alive);
    if state.phase == StatePhase::Spawning {
        let deadline = Instant::now() + IN_THE_MAKING;
        server = server.or_else(|| first_of(&marked));
        // Between fork and exec, and in the middle of exec, a process does not show its mark.
        while server.is_none() && Instant::now() < deadline {
            std::thread::sleep(LOOK_AGAIN);
            marked = find();
            server = first_of(&marked);
        }
    }
    match (server, state.program, state.generation) {
        (Some(server), Some(program), generation) => {
            let executable_identity = process::executable(server.pid).ok().map(|(_, identity)| identity);
            let (executable, embedded) = (program.executable, program.embedded);
            Remains::Server(server, CodexdRecord { generation, executable, executable_identity, embedded })
        }
        (None, _, Some(generation)) => {
            let session = Some(state.keeper.pid);
            let ties = Ties { generation: Some(generation), session, ..Ties::default() };
            if strays::find(&ties, Spared::default()).is_empty() {
                Remains::Nothing
            } else {
                Remains::Strays(ties)
            }
        }
        _ => Remains::Nothing,
    }
}

/// The server itself among the processes with its mark: the app-server that no other one is the parent of.
fn first_of(marked: &[Process]) -> Option<Process> {
    let parent = |process: &Process| {
        marked.iter().any(|other| other.pid != process.pid && process::descends_from(process.pid, other.pid))
    };
    let serves = |process: &&Process| pid_record::looks_like_a_server(process.pid);
    marked.iter().filter(serves).find(|process| !parent(process)).cloned()
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
pub fn glimpse(socket: &Path, ours: Option<Pid>) -> ListenerSeen {
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
    match kind {
        ErrorKind::NotFound if there => ListenerSeen::LeftOver,
        ErrorKind::ConnectionRefused if is_socket => ListenerSeen::LeftOver,
        _ if !there => ListenerSeen::Nothing,
        ErrorKind::ConnectionRefused => ListenerSeen::NoSocket,
        // Not permitted, or too many wait already: somebody may well listen.
        _ => ListenerSeen::Mute { pid: None, ours: false },
    }
}

/// Whether the listener is the recorded server, or one that it wraps.
fn is_ours(listener: Option<Pid>, recorded: Option<Pid>) -> bool {
    matches!((listener, recorded), (Some(listener), Some(recorded)) if process::descends_from(listener, recorded))
}
