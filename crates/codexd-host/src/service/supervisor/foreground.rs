//! A supervisor that a service manager runs: what it reports there, and the codexd commands that it runs as its children.
//!
//! It starts the app-server with `codexd start`, as a person would: what to run is that command's to find out, and the supervisor stays
//! small.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use codexd_core::clock::Monotonic;
use codexd_core::contract::EventLevel;
use codexd_core::generations::{Name, Standing};
use codexd_core::identity::Pid;
use codexd_core::limits::SERVICE_FAILED_START_PAUSE_MS;
use codexd_core::supervise::Then;
use rustix::process::PidfdFlags;

use super::Supervisor;
use super::control_listener::ControlListener;
use crate::clock;
use crate::events::Event as LogEvent;
use crate::service::systemd::{Notifier, notify};

/// Tells a command that this supervisor runs it: it is no tool of a server, although it descends from the supervisor. The value is the
/// number of the supervisor.
pub const RUN_BY_SUPERVISOR: &str = "CODEXD_RUN_BY_SUPERVISOR";

/// What the service manager has told to the supervisor, and no other program of it is to hear.
const OF_THE_SERVICE: [&str; 6] =
    ["NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// So many signs of life fit the time after which the service manager misses one.
const SIGNS_OF_LIFE: u64 = 3;

/// How a service manager runs the supervisor.
#[derive(Debug)]
pub struct ServiceOptions {
    /// The codexd whose commands it runs.
    pub codexd: PathBuf,
    /// The control socket, if the service manager has bound it.
    pub control_socket: Option<OwnedFd>,
    /// The way to the service manager.
    pub notifier: Notifier,
}

/// A supervisor in the foreground.
#[derive(Debug)]
pub struct Foreground {
    codexd: PathBuf,
    notifier: Notifier,
    commands: Vec<RunningCommand>,
    is_ready: bool,
    status: String,
    /// When the next sign of life is due.
    watchdog_at: Option<Monotonic>,
    /// A connection of this process to itself. Its end of the greeting is a sign of life.
    round_trip: Option<UnixStream>,
    /// When a supervisor whose start has failed leaves, unless a command has started a server.
    gives_up_at: Option<Monotonic>,
    exit_code: u8,
}

/// A command of codexd that runs as a child.
#[derive(Debug)]
struct RunningCommand {
    name: &'static str,
    child: Child,
    handle: OwnedFd,
}

impl Foreground {
    pub fn new(codexd: PathBuf, notifier: Notifier) -> Self {
        let watchdog_at = notifier.watchdog_ms().map(|_| clock::monotonic());
        Self {
            codexd,
            notifier,
            commands: Vec::new(),
            is_ready: false,
            status: String::new(),
            watchdog_at,
            round_trip: None,
            gives_up_at: None,
            exit_code: 0,
        }
    }

    /// The exit code of the supervisor.
    pub fn exit_code(&self) -> u8 {
        self.exit_code
    }

    /// What to wait on for the ends of commands, from the last to the first.
    pub fn command_fds(&self) -> impl Iterator<Item = (usize, BorrowedFd<'_>)> {
        self.commands.iter().enumerate().rev().map(|(index, command)| (index, command.handle.as_fd()))
    }

    /// What to wait on for the own greeting.
    pub fn round_trip_fd(&self) -> Option<BorrowedFd<'_>> {
        self.round_trip.as_ref().map(AsFd::as_fd)
    }

    pub fn deadline(&self) -> Option<Monotonic> {
        self.watchdog_at.into_iter().chain(self.gives_up_at).min()
    }

    pub fn pids(&self) -> impl Iterator<Item = Pid> {
        self.commands.iter().map(|command| Pid(command.child.id()))
    }

    fn begin(&mut self, name: &'static str, home: &std::path::Path) -> io::Result<()> {
        let mut command = Command::new(&self.codexd);
        for variable in OF_THE_SERVICE {
            command.env_remove(variable);
        }
        let mut child = command
            .args([name, "--json", "--codex-home"])
            .arg(home)
            .env(RUN_BY_SUPERVISOR, std::process::id().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        let pid = rustix::process::Pid::from_child(&child);
        match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(handle) => {
                self.commands.push(RunningCommand { name, child, handle });
                Ok(())
            }
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error.into())
            }
        }
    }

    /// Answers whether it was not before.
    fn become_ready(&mut self) -> bool {
        let was_ready = std::mem::replace(&mut self.is_ready, true);
        if !was_ready {
            self.notifier.send("READY=1");
        }
        !was_ready
    }

    /// The service manager takes no exit for a failure that follows.
    pub fn leaves(&mut self) {
        self.become_ready();
        self.notifier.send("STOPPING=1");
        for command in &mut self.commands {
            let _ = command.child.kill();
            let _ = command.child.wait();
        }
        self.commands.clear();
    }

    fn say_status(&mut self, status: String) {
        if status != self.status {
            self.notifier.send(&format!("STATUS={}", notify::one_line(&status)));
            self.status = status;
        }
    }
}

impl Supervisor {
    /// Takes what systemd has handed over, and begins to start the app-server.
    pub(super) fn serve_systemd(&mut self, service: ServiceOptions) -> io::Result<()> {
        if let Some(socket) = service.control_socket {
            self.control_listener = Some(ControlListener::from_service_manager(&self.home, socket)?);
        }
        self.foreground = Some(Foreground::new(service.codexd, service.notifier));
        self.run_command("start");
        self.report_status();
        Ok(())
    }

    /// Runs a command of codexd as a child.
    pub(super) fn run_command(&mut self, name: &'static str) {
        let root = self.home.root().to_owned();
        let Some(foreground) = self.foreground.as_mut() else { return };
        if let Err(error) = foreground.begin(name, &root) {
            let message = format!("failed to run `codexd {name}`: {error}");
            self.log_event(LogEvent::new(EventLevel::Error, "command.failed", message));
            if name == "start" {
                self.on_start_ended(1);
            }
        }
    }

    /// A command that runs as a child has ended.
    pub(super) fn on_command_ended(&mut self, index: usize) {
        let Some(foreground) = self.foreground.as_mut().filter(|found| index < found.commands.len()) else {
            return;
        };
        let RunningCommand { name, mut child, .. } = foreground.commands.remove(index);
        let code = child.wait().ok().map_or(1, exit_code);
        tracing::debug!(name, code, "a command has ended");
        if name == "start" {
            self.on_start_ended(code);
        }
    }

    /// The command has written to the event log why it failed.
    fn on_start_ended(&mut self, code: u8) {
        let is_idle = self.machine.standing() == Standing::Idle;
        let Some(foreground) = self.foreground.as_mut() else { return };
        if code == 0 || !is_idle {
            self.service_is_ready();
        } else {
            foreground.exit_code = code;
            foreground.gives_up_at = Some(clock::monotonic() + SERVICE_FAILED_START_PAUSE_MS);
        }
        self.report_status();
    }

    /// The supervisor leaves because it was told to: it has not failed.
    pub(super) fn forget_failed_start(&mut self) {
        if let Some(foreground) = self.foreground.as_mut() {
            foreground.exit_code = 0;
        }
    }

    /// A server that runs serves already.
    pub(super) fn service_is_ready(&mut self) {
        if self.foreground.as_mut().is_some_and(Foreground::become_ready)
            && let Some(units) = self.spawner.units()
        {
            // Its start finds that the server runs.
            units.start(&units.names.commands());
        }
    }

    /// Gives a sign of life, or leaves, if that is due.
    pub(super) fn check_foreground(&mut self, now: Monotonic) {
        let is_idle = self.machine.standing() == Standing::Idle;
        let Some(foreground) = self.foreground.as_mut() else { return };
        if foreground.gives_up_at.is_some_and(|at| at <= now) {
            foreground.gives_up_at = None;
            if is_idle {
                // The service manager tries again.
                self.has_left = true;
                return;
            }
            foreground.exit_code = 0;
            self.service_is_ready();
        }
        let Some(foreground) = self.foreground.as_mut() else { return };
        if foreground.watchdog_at.is_some_and(|at| at <= now) {
            let every_ms = foreground.notifier.watchdog_ms().unwrap_or(u64::MAX) / SIGNS_OF_LIFE;
            foreground.watchdog_at = Some(now + every_ms);
            // Without a connection there is no sign of life, and in the end another supervisor.
            foreground.round_trip = codexd_protocol::unix::connect(&self.home.supervisor_socket()).ok();
        }
    }

    /// This process has greeted itself.
    pub(super) fn on_round_trip(&mut self) {
        if let Some(foreground) = self.foreground.as_mut()
            && foreground.round_trip.take().is_some()
        {
            foreground.notifier.send("WATCHDOG=1");
        }
    }

    /// Tells the service manager how things stand, if that has changed.
    pub(super) fn report_status(&mut self) {
        if self.foreground.is_none() {
            return;
        }
        let status = self.describe();
        if let Some(foreground) = self.foreground.as_mut() {
            foreground.say_status(status);
        }
    }

    fn describe(&self) -> String {
        let server = self.current_server();
        let version = server.and_then(|server| server.program.version.as_deref()).unwrap_or_default();
        let who = match server {
            Some(server) => format!("app-server {version} (pid {})", server.process.pid).replace("  ", " "),
            None => "app-server".to_owned(),
        };
        let supervision = self.machine.supervision(self.machine.current());
        let loops = supervision.is_some_and(|supervision| supervision.crash_looping());
        let mut text = match self.machine.standing() {
            Standing::Idle if self.has_left => "stopped".to_owned(),
            Standing::Idle if self.foreground.as_ref().is_some_and(|found| found.exit_code != 0) => {
                "no app-server runs: `codexd start` failed; see `codexd status`".to_owned()
            }
            Standing::Idle => "no app-server runs".to_owned(),
            Standing::Launching => "app-server is being started".to_owned(),
            Standing::Running => format!("{who} runs"),
            Standing::Waiting if loops => "app-server keeps crashing; waiting to start it again".to_owned(),
            Standing::Waiting => "waiting to start the app-server".to_owned(),
            Standing::Stopping(Then::Leave) => format!("{who} stops when its turns have finished"),
            Standing::Stopping(Then::StartAgain) => format!("{who} restarts when its turns have finished"),
        };
        if self.table.len() > 2 {
            text.push_str("; a handover is under way");
        }
        if let Some(pid) = self.server(Name::Gateway).map(|gateway| gateway.process.pid) {
            text.push_str(&format!("; gateway (pid {pid})"));
        }
        text
    }
}

/// An event as a line of the journal. The number in front is its priority (sd-daemon(3)).
pub fn write_to_journal(event: &LogEvent) {
    let priority = match event.level {
        EventLevel::Error => 3,
        EventLevel::Warn => 4,
        EventLevel::Info => 6,
    };
    // A journal that takes no more loses a line.
    let _ = writeln!(io::stderr(), "<{priority}>{}: {}", event.kind, notify::one_line(&event.message));
}

fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| Some(128 + status.signal()?)).unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}
