//! A process that the supervisor manages: an app-server or the gateway, started or adopted.

use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use codexd_core::contract::status::LastExit;
use codexd_core::foreign_text;
use codexd_core::generations::Role;
use codexd_core::identity::{Pid, Process, ProcessIdentity};
use codexd_core::launch_spec::{DrainSignal, LaunchSpec};
use codexd_core::limits::{BLOCKING_WAIT_MS, STDERR_SEARCHED_BYTES, STDERR_TAIL_BYTES};
use codexd_core::os_text::OsText;
use codexd_core::record::CodexdRecord;
use rustix::process::Signal;

use super::control_listener::ControlListener;
use super::server_socket::ServerSocket;
use super::spawner::{ProcessUnit, Units};
use super::wire::Generation;
use super::wrapper::{self, Wrapper};
use crate::home::Home;
use crate::launch::{self, Started};
use crate::orphans::{GENERATION_VARIABLE, OwnershipEvidence};
use crate::process_table::ProcessTable;
use crate::{clock, logs, process};

/// A running process.
#[derive(Debug)]
pub struct Server {
    /// Its pid and identity.
    pub process: Process,
    /// The generation id in its environment; `None` if codexd did not start it.
    pub generation: Option<String>,
    /// Its launch spec, without its environment.
    pub program: LaunchSpec,
    /// Its socket, once it listens.
    pub socket: Option<ServerSocket>,
    /// The process that the supervisor started, if that is another one.
    pub(super) wrapper: Option<Wrapper>,
    pub(super) handle: OwnedFd,
    /// `None` if it was adopted or has a wrapper: another process gets its exit code.
    pub(super) child: Option<Child>,
    /// The unit of systemd in which it runs, if it runs in one of this home.
    pub(super) unit: Option<ProcessUnit>,
    /// This supervisor started it as its child.
    started_here: bool,
    /// When the first of its processes started, in ticks since boot.
    since_ticks: u64,
    stderr: PathBuf,
    stderr_from: u64,
}

/// A process that systemd has started.
#[derive(Debug)]
pub struct LaunchedProcess {
    pub process: Process,
    pub handle: OwnedFd,
    pub generation: Option<String>,
    pub stderr: PathBuf,
    pub stderr_from: u64,
    pub unit: ProcessUnit,
}

impl Server {
    /// Holds a process that systemd has started.
    pub fn launched(launched: LaunchedProcess, program: &LaunchSpec) -> Self {
        let LaunchedProcess { process, handle, generation, stderr, stderr_from, unit } = launched;
        Self {
            since_ticks: process.identity.start_ticks,
            process,
            generation,
            program: program.without_env(),
            socket: None,
            wrapper: None,
            handle,
            child: None,
            unit: Some(unit),
            started_here: false,
            stderr,
            stderr_from,
        }
    }

    /// Starts an app-server in a process group of its own, with no open files but its logs.
    ///
    /// # Errors
    /// It cannot be started: no such file, not executable, out of memory, …
    pub fn spawn(home: &Home, program: &LaunchSpec, generation: &str) -> io::Result<Self> {
        let started = launch::app_server::spawn(home, program, generation)?;
        Self::hold(started, Some(generation.to_owned()), program)
    }

    /// Starts the gateway in the same way. It inherits the control socket.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn_gateway(
        home: &Home,
        program: &LaunchSpec,
        control_listener: &ControlListener,
    ) -> io::Result<Self> {
        let started = launch::gateway::spawn(home, program, control_listener.fd())?;
        Self::hold(started, None, program)
    }

    fn hold(started: Started, generation: Option<String>, program: &LaunchSpec) -> io::Result<Self> {
        let Started { mut child, stderr, stderr_from } = started;
        let pid = Pid(child.id());
        let (identity, handle) = match hold(pid, process::stat(pid)) {
            Ok(held) => held,
            Err(error) => {
                // A process that cannot be watched must not stay.
                let _ = child.kill();
                let _ = child.wait();
                return Err(error);
            }
        };
        let since_ticks = identity.start_ticks;
        Ok(Self {
            process: Process { pid, identity },
            generation,
            program: program.without_env(),
            socket: None,
            wrapper: None,
            handle,
            child: Some(child),
            unit: None,
            started_here: true,
            since_ticks,
            stderr,
            stderr_from,
        })
    }

    /// Adopts a running process.
    ///
    /// # Errors
    /// `NotFound` if it has exited.
    pub fn adopt(
        process: Process,
        generation: Option<String>,
        program: &LaunchSpec,
        stderr: PathBuf,
    ) -> io::Result<Self> {
        let handle = process::open(&process)?;
        // The present content of the log may be from another process.
        let stderr_from = std::fs::metadata(&stderr).map(|log| log.len()).unwrap_or_default();
        let program = program.without_env();
        let wrapper = Wrapper::of(&process, generation.as_deref());
        let first = wrapper.as_ref().map_or(&process, |wrapper| &wrapper.process);
        Ok(Self {
            since_ticks: first.identity.start_ticks,
            wrapper,
            process,
            generation,
            program,
            socket: None,
            handle,
            child: None,
            unit: None,
            started_here: false,
            stderr,
            stderr_from,
        })
    }

    /// Its form in reports.
    pub fn as_generation(&self, role: Role) -> Generation {
        Generation {
            generation_id: self.generation.clone(),
            pid: self.process.pid,
            socket: self.program.socket.clone(),
            role,
            embedded: self.program.embedded,
            version: self.program.version.clone(),
        }
    }

    /// Its process, and that of its wrapper.
    pub fn pids(&self) -> impl Iterator<Item = Pid> {
        std::iter::once(self.process.pid).chain(self.wrapper.as_ref().map(|wrapper| wrapper.process.pid))
    }

    /// The descriptor to poll for its exit.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }

    /// Sends the draining signal.
    pub fn drain(&self, signal: DrainSignal) {
        let signal = match signal {
            DrainSignal::Terminate => Signal::TERM,
            DrainSignal::Hangup => Signal::HUP,
        };
        // If it has exited already, its exit is the next event.
        let _ = rustix::process::pidfd_send_signal(&self.handle, signal);
    }

    /// Sends SIGHUP as a reminder, unless it would kill the process because it has no handler for it.
    pub fn remind(&self) {
        if process::catches(self.process.pid, Signal::HUP) {
            let _ = rustix::process::pidfd_send_signal(&self.handle, Signal::HUP);
        }
    }

    /// Kills its process group.
    pub fn kill(&self) {
        let leader = self.wrapper.as_ref().map_or(&self.process, |wrapper| &wrapper.process);
        process::kill_group_of(leader);
        if let Some(wrapper) = &self.wrapper {
            wrapper.kill();
        }
        let _ = rustix::process::pidfd_send_signal(&self.handle, Signal::KILL);
    }

    /// Its descendants. They can be found only while it runs.
    pub fn descendants(&self) -> Vec<Process> {
        let (own, table): (Vec<Pid>, _) = (self.pids().collect(), ProcessTable::read());
        table.find(|process, _| {
            !own.contains(&process.pid) && own.iter().any(|&me| table.descends_from(process.pid, me))
        })
    }

    /// Evidence that identifies its orphans after its exit: its generation id and the `known` descendants. If this supervisor started it and
    /// no other generation runs, also processes of the supervisor's session that have become the supervisor's children. If it was adopted,
    /// the session is that of the `previous` supervisor, if known.
    pub fn evidence(&self, known: Vec<Process>, previous: Option<&Process>) -> OwnershipEvidence {
        let session = match (self.started_here, &self.generation, previous) {
            (true, ..) => Some(Pid(std::process::id())),
            // systemd has made one for it.
            _ if self.unit.is_some() => self.unit.as_ref().map(|unit| unit.main),
            (false, Some(_), Some(previous)) => Some(previous.pid),
            _ => None,
        };
        OwnershipEvidence {
            generation: self.generation.clone(),
            since_ticks: self.since_ticks,
            session,
            // Process 1 inherits the orphans of other programs as well.
            inherited: self.started_here && !process::is_init(),
            known,
        }
    }

    /// Finds the unit in which a process runs that was taken over.
    pub fn find_unit(&mut self, units: &Units) {
        let main = self.wrapper.as_ref().map_or(self.process.pid, |wrapper| wrapper.process.pid);
        self.unit = units.unit_of(main).map(|name| ProcessUnit { name, main });
    }

    /// Whether it was adopted.
    pub fn was_adopted(&self) -> bool {
        !self.started_here
    }

    /// Handles its exit and describes it. A remaining wrapper is ended; then its exit code counts.
    pub fn exit(mut self, requested: bool, units: Option<&Units>) -> LastExit {
        let status = match (self.child.as_mut(), self.wrapper.take()) {
            (Some(child), _) => child.wait().ok(),
            (None, Some(wrapper)) => wrapper.end(),
            // It became a child of this process when its wrapper exited.
            (None, None) => wrapper::reap(self.process.pid),
        };
        let status = status.or_else(|| {
            let (units, unit) = (units?, self.unit.as_ref()?);
            let status = units.exit_status(unit);
            units.forget(&unit.name);
            status
        });
        if let Some(socket) = self.socket.take() {
            socket.close();
        }
        let written = |max_bytes| logs::tail(&self.stderr, self.stderr_from, max_bytes);
        LastExit {
            pid: self.process.pid,
            code: status.and_then(|status| status.code()),
            signal: status.and_then(|status| status.signal()),
            at: clock::timestamp(),
            requested,
            stderr_tail: written(STDERR_TAIL_BYTES),
            error_line: foreign_text::error_line(&written(STDERR_SEARCHED_BYTES)),
        }
    }

    /// codexd's part of its pid record.
    pub fn codexd_record(&self) -> CodexdRecord {
        CodexdRecord {
            generation: self.generation.clone(),
            executable: self.program.executable.clone(),
            executable_identity: process::executable(self.process.pid).ok().map(|(_, identity)| identity),
            embedded: self.program.embedded,
            socket: self.program.socket.clone(),
            named: self.program.named.clone(),
        }
    }
}

/// The identity and the pidfd of a child that was not reaped: the pid is still its own, running or dead.
///
/// # Errors
/// `/proc` does not show when the child started, so another process could be mistaken for it later; or no pidfd can be opened.
fn hold(pid: Pid, stat: Option<process::Stat>) -> io::Result<(ProcessIdentity, OwnedFd)> {
    let unknown =
        || io::Error::other(format!("cannot read the start time of process {pid} in /proc/{pid}/stat"));
    let start_ticks = stat.map(|stat| stat.start_ticks).ok_or_else(unknown)?;
    let identity = ProcessIdentity { boot_id: process::boot_id()?.to_owned(), start_ticks };
    let raw = i32::try_from(pid.0).ok().and_then(rustix::process::Pid::from_raw);
    let raw = raw.ok_or_else(|| io::Error::other("the kernel gave out an impossible pid"))?;
    Ok((identity, rustix::process::pidfd_open(raw, rustix::process::PidfdFlags::empty())?))
}

/// The launch spec of an adopted process: as the previous supervisor has recorded it, or read from the process itself. The environment is
/// always read from the process, because it is recorded nowhere.
///
/// # Errors
/// The process has exited or belongs to another user.
pub fn program_of(
    process: &Process,
    codexd: Option<&CodexdRecord>,
    known: Option<&LaunchSpec>,
) -> io::Result<LaunchSpec> {
    if !process::await_arguments(process, Duration::from_millis(BLOCKING_WAIT_MS)) {
        return Err(io::Error::new(ErrorKind::NotFound, "the process is exiting"));
    }
    // The wrapper, if there is one, was started with the original arguments and environment, and may have changed both.
    let wrapper = Wrapper::of(process, codexd.and_then(|record| record.generation.as_deref()));
    let pid = wrapper.map_or(process.pid, |wrapper| wrapper.process.pid);
    let env = process::environment(pid).into_iter().filter(|(name, _)| name != GENERATION_VARIABLE);
    let env = env.map(|(name, value)| (OsText(name), OsText(value))).collect();
    if let Some(known) = known {
        return Ok(LaunchSpec { env, ..known.clone() });
    }
    let running = process::executable(pid)?.0;
    let executable = match codexd {
        Some(record) => record.executable.clone(),
        None => PathBuf::from(running.to_string_lossy().trim_end_matches(" (deleted)")),
    };
    Ok(LaunchSpec {
        args: arguments_for(&executable, process::arguments(pid)),
        executable,
        env,
        cwd: process::working_directory(pid).unwrap_or_else(|_| PathBuf::from("/")),
        embedded: codexd.is_some_and(|record| record.embedded),
        socket: codexd.and_then(|record| record.socket.clone()),
        named: codexd.and_then(|record| record.named.clone()),
        version: None,
        umask: None,
        memory_ceiling_mib: None,
    })
}

/// The arguments after the program's name. Before the name of a script, the kernel puts its interpreter.
fn arguments_for(executable: &Path, arguments: Vec<OsString>) -> Vec<OsText> {
    let interpreted = arguments.iter().skip(1).take(2).position(|argument| executable == Path::new(argument));
    arguments.into_iter().skip(interpreted.map_or(1, |at| at + 2)).map(OsText).collect()
}

#[cfg(test)]
mod tests {
    use super::{arguments_for, hold};
    use codexd_core::identity::Pid;
    use codexd_core::os_text::OsText;
    use std::path::Path;

    #[test]
    fn a_process_whose_start_time_cannot_be_read_gets_no_identity() {
        let me = Pid(std::process::id());
        let error = hold(me, None).expect_err("no identity");
        assert!(error.to_string().contains("start time"), "{error}");
        let (identity, _) = hold(me, crate::process::stat(me)).expect("held");
        assert!(identity.start_ticks > 0);
    }

    #[test]
    fn the_arguments_of_a_script_follow_its_name() {
        let of = |line: &str| {
            let arguments = line.split(' ').map(Into::into).collect();
            let behind: Vec<OsText> = arguments_for(Path::new("/bin/codex"), arguments);
            behind
                .iter()
                .map(|argument| argument.0.to_string_lossy().into_owned())
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(of("/bin/codex app-server --listen x"), "app-server --listen x");
        assert_eq!(of("codex app-server"), "app-server");
        assert_eq!(of("/bin/sh /bin/codex app-server"), "app-server");
        assert_eq!(of("/usr/bin/env node /bin/codex app-server"), "app-server");
        assert_eq!(of("/bin/codex app-server -c a /bin/codex"), "app-server -c a /bin/codex");
    }
}
