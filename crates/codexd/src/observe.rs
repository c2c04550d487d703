//! Observation of a home: the record, the supervisor, the socket.

mod listener;

use std::io;
use std::time::{Duration, Instant};

use codexd_core::contract::Failure;
use codexd_core::identity::{Pid, Process};
use codexd_core::launch_spec::LaunchSpec;
use codexd_core::lifecycle::{Command, ListenerSeen, Observation, Recorded, SupervisorSeen};
use codexd_core::limits::{
    GENERATION_ID_TIMEOUT_MS, PROBE_TIMEOUT_MS, SEEN_GENERATION_ID_TIMEOUT_MS, SUPERVISOR_END_TIMEOUT_MS,
};
use codexd_core::record::CodexdRecord;
use codexd_host::launch::gateway;
use codexd_host::orphans::{self, Excluded, OwnershipEvidence};
use codexd_host::service::supervisor::{
    self, StatePhase, SupervisorConnection, SupervisorState, former_names,
};
use codexd_host::{Home, atomic, pid_record, poll, process};
use codexd_protocol::probe::Answer;

pub use listener::{ListenerReport, OwnServer, listener, peek};

use crate::context::Context;
use crate::failures;
use crate::limits::{OBSERVATION_PAUSE, OBSERVATIONS_MAX};

/// One observation of a home.
#[derive(Debug)]
pub struct Snapshot {
    /// The input of the decision.
    pub observation: Observation,
    /// The recorded server, if it runs.
    pub server: Option<Process>,
    /// The fields of codexd in the record.
    pub codexd: Option<CodexdRecord>,
    /// The answer to `initialize` on the control socket.
    pub answer: Option<Answer>,
    /// The orphans of a server that has exited.
    pub orphaned: Option<Orphans>,
}

/// Orphans, and the processes that must not be taken for orphans.
#[derive(Debug)]
pub struct Orphans {
    /// The evidence by which they are found.
    pub evidence: OwnershipEvidence,
    /// The gateway.
    pids: Vec<Pid>,
    /// The running servers.
    servers: Vec<Pid>,
}

impl Orphans {
    /// The processes that are not ended.
    pub fn excluded(&self) -> Excluded<'_> {
        Excluded { pids: &self.pids, servers: &self.servers }
    }
}

/// Observes the record, the supervisor and the control socket. Connects to the supervisor if `connection` is `None`.
///
/// # Errors
/// The error of the file system.
pub fn take_snapshot(
    context: &Context,
    command: Command,
    connection: &mut Option<SupervisorConnection>,
    fresh: Option<ListenerReport>,
) -> Result<Snapshot, Failure> {
    let mut fresh = fresh;
    let deadline = Instant::now() + Duration::from_millis(PROBE_TIMEOUT_MS);
    loop {
        let snapshot = observe_once(context, command, connection, fresh.take())?;
        if !is_changing(&context.home, &snapshot) || Instant::now() >= deadline {
            return Ok(snapshot);
        }
        // The home changed during the observation: observe everything again, the supervisor included.
        *connection = None;
        poll::pause(OBSERVATION_PAUSE);
    }
}

/// Observes without the operation lock until the result is `clear`, or the state files have not changed during the observation,
/// `OBSERVATIONS_MAX` times at most. A command, or a supervisor that restarts a server, may change the home at the same time.
pub fn observe_stable<T>(home: &Home, is_clear: impl Fn(&T) -> bool, mut observe: impl FnMut() -> T) -> T {
    let state = || {
        [home.pid_record(), home.upstream_pid_record(), former_names::newest_state_file(home)]
            .map(|file| atomic::read(&file).ok().flatten())
    };
    for _ in 1..OBSERVATIONS_MAX {
        let before = state();
        let found = observe();
        if is_clear(&found) || state() == before {
            return found;
        }
    }
    observe()
}

/// Whether the listener is the gateway or the supervisor of this home.
fn gateway_listens(home: &Home, listener: &ListenerSeen) -> bool {
    let (ListenerSeen::Answering { pid, .. } | ListenerSeen::Unresponsive { pid, .. }) = listener else {
        return false;
    };
    pid.is_some_and(|pid| supervisor::holds_control_socket(pid, home))
}

/// Whether a gateway, or a server beside the current one, still runs after its supervisor was killed.
fn others_live(home: &Home) -> bool {
    let Some(state) = state_of_killed_supervisor(home, SupervisorSeen::Absent) else { return false };
    let mut others = state.others.iter().filter_map(|other| other.process.as_ref());
    let gateway = state.gateway.as_ref().and_then(|gateway| gateway.process.as_ref());
    others.any(process::is_alive)
        || gateway.is_some_and(process::is_alive)
        || (state.gateway.is_some() && gateway::find(home).is_some())
}

/// The state of the last supervisor, if that had processes to manage and has exited. A supervisor that counts as absent may
/// still be exiting, because its lock is free before its exit is visible. If it counted as running here, its processes would be
/// overlooked, and a second server would be started beside the first.
fn state_of_killed_supervisor(home: &Home, supervisor: SupervisorSeen) -> Option<SupervisorState> {
    let state = supervisor::read_state(home)?;
    let timeout = if supervisor == SupervisorSeen::Absent { SUPERVISOR_END_TIMEOUT_MS } else { 0 };
    let timeout = Duration::from_millis(timeout);
    let had_something = !matches!(state.phase, StatePhase::Stopped | StatePhase::Failed);
    (had_something && process::await_end(&state.supervisor, timeout)).then_some(state)
}

/// Whether the home is about to change without a command: a supervisor is about to record a server that it has started, or to
/// create its state folder again.
fn is_changing(home: &Home, snapshot: &Snapshot) -> bool {
    is_being_recorded(home, &snapshot.observation.listener)
        || (snapshot.observation.supervisor == SupervisorSeen::Absent && is_supervised(home, snapshot))
}

/// Whether the gateway is a child of a running supervisor, which does not accept connections yet.
fn is_supervised(home: &Home, snapshot: &Snapshot) -> bool {
    let (ListenerSeen::Answering { pid: Some(pid), .. } | ListenerSeen::Unresponsive { pid: Some(pid), .. }) =
        snapshot.observation.listener
    else {
        return false;
    };
    let supervisor = if supervisor::is_one(pid, home) { Some(pid.0) } else { None };
    let parent = || process::stat(pid).map(|stat| stat.parent);
    supervisor.or_else(parent).is_some_and(|supervisor| supervisor::is_one(Pid(supervisor), home))
}

/// Whether the listener, which the record did not name, is the server that a supervisor has just started.
fn is_being_recorded(home: &Home, listener: &ListenerSeen) -> bool {
    let (ListenerSeen::Answering { pid: Some(pid), ours: false }
    | ListenerSeen::Unresponsive { pid: Some(pid), ours: false }) = listener
    else {
        return false;
    };
    supervisor::read_state(home).and_then(|state| state.generation).is_some_and(|generation| {
        let environment = process::environment(*pid);
        environment.iter().any(|(name, value)| name == orphans::GENERATION_VARIABLE && *value == *generation)
    })
}

fn observe_once(
    context: &Context,
    command: Command,
    connection: &mut Option<SupervisorConnection>,
    fresh: Option<ListenerReport>,
) -> Result<Snapshot, Failure> {
    let home = &context.home;
    let mut record =
        pid_record::observe(home).map_err(|error| failures::state("read", &home.pid_record(), &error))?;
    let supervisor = match connection {
        Some(connection) => connection.seen,
        None => {
            let seen = supervisor::observe(home).map_err(|error| {
                failures::state("communicate with the supervisor at", &home.supervisor_socket(), &error)
            })?;
            *connection = seen.connection;
            seen.seen
        }
    };
    let mut orphaned = None;
    if !matches!(record.recorded, Recorded::Alive(_))
        && matches!(supervisor, SupervisorSeen::Absent | SupervisorSeen::Idle)
    {
        match leftovers(home, supervisor) {
            Leftovers::Nothing => {}
            Leftovers::Orphans(orphans) => orphaned = Some(orphans),
            Leftovers::Server(process, codexd) => record = write_missing_record(context, process, codexd)?,
        }
    }
    if let (SupervisorSeen::Keeping(pid), None) = (supervisor, &record.process)
        && let Some((process, codexd)) = server_of_supervisor(home, pid)
    {
        record = write_missing_record(context, process, codexd)?;
    }
    let ours = OwnServer::of(record.process.as_ref(), record.codexd.as_ref());
    let listening = match fresh {
        Some(fresh) => fresh,
        None => listener::where_it_matters(home, command, ours, supervisor),
    };
    let beside =
        supervisor == SupervisorSeen::Absent && (gateway_listens(home, &listening.seen) || others_live(home));
    let observation = Observation {
        record: record.recorded,
        supervisor,
        listener: listening.seen,
        orphaned: orphaned.is_some(),
        beside,
        overlap: false,
    };
    let (server, codexd) = (record.process, record.codexd);
    Ok(Snapshot { observation, server, codexd, answer: listening.answer, orphaned })
}

/// The server of the home: the recorded one, or the one of a running supervisor if no record names it. Changes nothing.
///
/// # Errors
/// The error of the file system.
pub fn server(home: &Home) -> io::Result<pid_record::Observed> {
    let mut record = pid_record::observe(home)?;
    if record.process.is_none()
        && let Some(state) = supervisor::read_state(home)
        && process::is_alive(&state.supervisor)
        && let Some(server) = state.server
        && let Some((process, codexd)) = server_of_supervisor(home, server.pid)
    {
        (record.process, record.codexd) = (Some(process), Some(codexd));
    }
    Ok(record)
}

/// The server of the supervisor whose record is missing or damaged.
fn server_of_supervisor(home: &Home, pid: Pid) -> Option<(Process, CodexdRecord)> {
    let state = supervisor::read_state(home)?;
    let server = state.server.filter(|server| server.pid == pid && process::is_alive(server))?;
    let program = state.program?;
    Some((server, record_of(pid, state.generation, program)))
}

fn record_of(pid: Pid, generation: Option<String>, program: LaunchSpec) -> CodexdRecord {
    let executable_identity = process::executable(pid).ok().map(|(_, identity)| identity);
    let LaunchSpec { executable, embedded, socket, named, .. } = program;
    CodexdRecord { generation, executable, executable_identity, embedded, socket, named }
}

fn write_missing_record(
    context: &Context,
    process: Process,
    codexd: CodexdRecord,
) -> Result<pid_record::Observed, Failure> {
    let home = &context.home;
    let message = format!("the app-server (pid {}) had no pid record; wrote the record", process.pid);
    pid_record::write(home, &process, codexd.clone())
        .map_err(|error| failures::state("write", &home.pid_record(), &error))?;
    context.repaired("unrecorded-server", message);
    Ok(pid_record::Observed {
        recorded: Recorded::Alive(process.pid),
        process: Some(process),
        codexd: Some(codexd),
    })
}

/// What a killed supervisor left behind, if no record names the server.
enum Leftovers {
    Nothing,
    /// The server.
    Server(Process, CodexdRecord),
    /// Processes that the server started.
    Orphans(Orphans),
}

/// Finds what a killed supervisor left behind: `supervisor.json` names its server, or, during a start, the generation id of the
/// server.
fn leftovers(home: &Home, supervisor: SupervisorSeen) -> Leftovers {
    let Some(state) = state_of_killed_supervisor(home, supervisor) else { return Leftovers::Nothing };
    let living = state.others.iter().filter_map(|other| other.process.clone()).filter(process::is_alive);
    let servers: Vec<Pid> = living.map(|process| process.pid).collect();
    let gateway = state.gateway.as_ref().and_then(|gateway| gateway.process.clone());
    let gateway = gateway.filter(process::is_alive).or_else(|| {
        // A gateway that the supervisor started and did not write down yet.
        state.gateway.as_ref().and_then(|_| gateway::find(home))
    });
    let find = || state.generation.as_deref().map(orphans::of_generation).unwrap_or_default();
    let mut of_generation = find();
    let mut server = state.server.filter(process::is_alive);
    if state.phase == StatePhase::Spawning {
        let began = Instant::now();
        server = server.or_else(|| server_among(&of_generation));
        // Between fork and exec, and during exec, the kernel does not show the generation id of a process, but its session.
        let is_within = |ms| began.elapsed() < Duration::from_millis(ms);
        while server.is_none()
            && (is_within(GENERATION_ID_TIMEOUT_MS)
                || (is_within(SEEN_GENERATION_ID_TIMEOUT_MS) && has_pre_exec_child(&state.supervisor)))
        {
            poll::pause(OBSERVATION_PAUSE);
            of_generation = find();
            server = server_among(&of_generation);
        }
    }
    match (server, state.program, state.generation) {
        (Some(server), Some(program), generation) => {
            let record = record_of(server.pid, generation, program);
            Leftovers::Server(server, record)
        }
        (None, _, Some(generation)) => {
            let session = Some(state.supervisor.pid);
            let evidence =
                OwnershipEvidence { generation: Some(generation), session, ..OwnershipEvidence::default() };
            let evidence =
                if servers.is_empty() { evidence } else { evidence.while_other_generations_live() };
            let orphans =
                Orphans { evidence, servers, pids: gateway.iter().map(|gateway| gateway.pid).collect() };
            if orphans::find(&orphans.evidence, orphans.excluded()).is_empty() {
                Leftovers::Nothing
            } else {
                Leftovers::Orphans(orphans)
            }
        }
        _ => Leftovers::Nothing,
    }
}

/// Whether a supervisor that exited has left a child before its exec: without arguments, or with those of the supervisor.
fn has_pre_exec_child(supervisor: &Process) -> bool {
    let session = OwnershipEvidence { session: Some(supervisor.pid), ..OwnershipEvidence::default() };
    let is_one = |pid| {
        process::is_exiting(pid)
            || process::arguments(pid).get(1).is_some_and(|command| supervisor::is_command(command))
    };
    orphans::find(&session, Excluded::default()).iter().any(|process| is_one(process.pid))
}

/// The server among the processes with its generation id: the app-server that is not a descendant of another one.
fn server_among(of_generation: &[Process]) -> Option<Process> {
    let parent = |process: &Process| {
        of_generation
            .iter()
            .any(|other| other.pid != process.pid && process::descends_from(process.pid, other.pid))
    };
    let serves = |process: &&Process| pid_record::looks_like_a_server(process.pid);
    of_generation.iter().filter(serves).find(|process| !parent(process)).cloned()
}
