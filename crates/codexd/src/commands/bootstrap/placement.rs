//! Where the processes of a home run: in units of systemd or outside of them. And how they get to the other place.

use std::path::Path;
use std::time::{Duration, Instant};

use codexd_core::contract::{Backend, ErrorCode, Failure};
use codexd_core::identity::{Pid, Process};
use codexd_core::lifecycle::Command;
use codexd_core::limits::{GATEWAY_TIMEOUT_MS, LAUNCH_TIMEOUT_MS, SUPERVISOR_END_TIMEOUT_MS};
use codexd_host::process;
use codexd_host::service::supervisor::{self, ConnectionError, SupervisorConnection};
use codexd_host::service::systemd::UnitNames;
use codexd_host::service::systemd::names::{unit_of_any_process, unit_of_process};
use rustix::process::Signal;

use crate::context::Context;
use crate::{failures, observe};

/// The server that runs.
pub fn server(context: &Context) -> Result<Option<Pid>, Failure> {
    let snapshot = observe::take_snapshot(context, Command::Start { adopt: false }, &mut None, None)?;
    Ok(snapshot.server.map(|server| server.pid))
}

/// Whether a server runs that binds the control socket itself.
pub fn is_without_gateway(context: &Context) -> Result<bool, Failure> {
    let snapshot = observe::take_snapshot(context, Command::Start { adopt: false }, &mut None, None)?;
    let socket = snapshot.codexd.as_ref().and_then(|record| record.socket.as_ref());
    Ok(snapshot.server.is_some() && socket.is_none())
}

/// Whether a process of the home runs where the backend starts its processes.
pub fn is_in(names: &UnitNames, process: Pid, backend: Backend) -> bool {
    unit_of_process(names, process).is_some() == (backend == Backend::Systemd)
}

fn connect(context: &Context) -> Result<Option<SupervisorConnection>, Failure> {
    let seen = supervisor::observe(&context.home)
        .map_err(|error| failures::supervisor(&context.home, &ConnectionError::System(error)))?;
    Ok(seen.connection)
}

fn supervisor(context: &Context) -> Result<Option<Process>, Failure> {
    Ok(connect(context)?.map(|connection| connection.supervisor))
}

fn is_in_its_unit(names: &UnitNames, supervisor: &Process) -> bool {
    unit_of_any_process(supervisor.pid).as_deref() == Some(&names.supervisor())
}

/// The supervisor, if it runs in its unit.
pub fn supervisor_inside(context: &Context, names: &UnitNames) -> Result<Option<Process>, Failure> {
    Ok(supervisor(context)?.filter(|found| is_in_its_unit(names, found)))
}

/// The supervisor, if it does not run in its unit.
pub fn supervisor_outside(context: &Context, names: &UnitNames) -> Result<Option<Process>, Failure> {
    Ok(supervisor(context)?.filter(|found| !is_in_its_unit(names, found)))
}

/// The supervisor, if it is a `codexd run` of a terminal or a container.
pub fn foreground_supervisor(context: &Context) -> Result<Option<Pid>, Failure> {
    let is_run = |pid: Pid| {
        let arguments = process::arguments(pid);
        arguments.get(1).is_some_and(|command| command == "run")
            && !arguments.iter().any(|word| word == "systemd")
    };
    Ok(supervisor(context)?.map(|found| found.pid).filter(|&pid| is_run(pid)))
}

/// Whether a process runs this binary. One that has exited does.
pub fn is_of_binary(process: Pid, binary: &Path) -> bool {
    match (process::executable(process), process::file_identity(binary)) {
        (Ok((_, running)), Ok(installed)) => running == installed,
        _ => true,
    }
}

/// Whether a process was started with these variables. One that has exited was.
pub fn has_environment(process: Pid, variables: &[(String, String)]) -> bool {
    let environment = process::environment(process);
    let has = |(name, value): &(String, String)| {
        environment.iter().any(|(found, text)| found == name.as_str() && text == value.as_str())
    };
    environment.is_empty() || variables.iter().all(has)
}

/// Asks a supervisor that does not run in its unit to leave, and waits until it has. The server and the gateway go on.
pub fn end_supervisor_outside(context: &Context, names: &UnitNames) -> Result<(), Failure> {
    let Some(found) = supervisor_outside(context, names)? else { return Ok(()) };
    let failed = |error| failures::supervisor(&context.home, &ConnectionError::System(error));
    process::signal(&found, Signal::TERM).map_err(failed)?;
    let timeout = Duration::from_millis(SUPERVISOR_END_TIMEOUT_MS);
    if process::await_end(&found, timeout)
        && supervisor::await_free_lock(&context.home, timeout).map_err(failed)?
    {
        return Ok(());
    }
    let message = format!("the supervisor (pid {}) does not exit", found.pid);
    Err(Failure::new(ErrorCode::SupervisorFailed, message).with("pid", found.pid.0))
}

/// The gateway, if it runs elsewhere than the backend starts its processes.
pub fn misplaced_gateway(
    context: &Context,
    names: &UnitNames,
    backend: Backend,
) -> Result<Option<Process>, Failure> {
    let gateway = connect(context)?.and_then(|connection| connection.gateway.pid);
    let misplaced = gateway.filter(|&pid| !is_in(names, pid, backend));
    Ok(misplaced.and_then(|pid| process::identify(pid).ok()))
}

/// Ends the gateway, so that the supervisor starts one in the backend. The clients connect again; turns go on. Where the supervisor
/// `replaces_it`, it gets time to do so first.
pub fn move_gateway(
    context: &Context,
    names: &UnitNames,
    backend: Backend,
    replaces_it: bool,
) -> Result<(), Failure> {
    let Some(old) = misplaced_gateway(context, names, backend)? else { return Ok(()) };
    let failed = |error| failures::supervisor(&context.home, &error);
    if replaces_it && await_other_gateway(context, &old, GATEWAY_TIMEOUT_MS).map_err(failed)? {
        return Ok(());
    }
    process::signal(&old, Signal::TERM).map_err(|error| failed(ConnectionError::System(error)))?;
    if await_other_gateway(context, &old, LAUNCH_TIMEOUT_MS).map_err(failed)? {
        return Ok(());
    }
    let message = format!("the gateway (pid {}) is not replaced in time", old.pid);
    Err(Failure::new(ErrorCode::SupervisorFailed, message).with("pid", old.pid.0))
}

/// Waits until another gateway runs; `false` if none does in time. That it is connected is for `restart` to wait for.
fn await_other_gateway(context: &Context, old: &Process, timeout_ms: u64) -> Result<bool, ConnectionError> {
    let Some(mut connection) = supervisor::observe(&context.home)?.connection else { return Ok(true) };
    let deadline = Instant::now() + Duration::from_millis(timeout_ms);
    while connection.gateway.pid.is_none_or(|pid| pid == old.pid) {
        match connection.next_or_busy(deadline) {
            Ok(_) => {}
            Err(ConnectionError::Silent(_)) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}
