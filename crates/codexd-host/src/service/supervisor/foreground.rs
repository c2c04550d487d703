//! A supervisor that no command started: what it reports to the service manager that runs it, if one does.
//!
//! It starts the app-server with `codexd start`, as a person would: what to run is that command's to find out, and the supervisor stays
//! small.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Stdio;

use codexd_core::clock::Monotonic;
use codexd_core::contract::{ErrorCode, EventLevel};
use codexd_core::foreign_text::visible;
use codexd_core::generations::{Name, Standing};
use codexd_core::limits::SERVICE_FAILED_START_PAUSE_MS;
use codexd_core::supervise::Then;

use super::Supervisor;
use super::child_commands::{CommandLine, EndedCommand};
use super::control_listener::ControlListener;
use super::standalone::Standalone;
use crate::events::Event as LogEvent;
use crate::service::systemd::{Notifier, notify};
use crate::{clock, memory_trim};

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
    /// `None` under a service manager.
    pub(super) standalone: Option<Standalone>,
    notifier: Notifier,
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

impl Foreground {
    /// One without a service manager.
    pub fn standalone(standalone: Standalone) -> Self {
        Self { standalone: Some(standalone), ..Self::new(Notifier::default()) }
    }

    fn new(notifier: Notifier) -> Self {
        let watchdog_at = notifier.watchdog_ms().map(|_| clock::monotonic());
        Self {
            standalone: None,
            notifier,
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

    /// What to wait on for the own greeting.
    pub fn round_trip_fd(&self) -> Option<BorrowedFd<'_>> {
        self.round_trip.as_ref().map(AsFd::as_fd)
    }

    pub fn deadline(&self) -> Option<Monotonic> {
        let lifetime = self.standalone.as_ref().and_then(Standalone::deadline);
        self.watchdog_at.into_iter().chain(self.gives_up_at).chain(lifetime).min()
    }

    /// Prints an event where the supervisor was started: in the journal, or on a terminal or in the log of a container.
    pub fn print(&self, event: &LogEvent) {
        match self.standalone {
            None => write_to_journal(event),
            // A closed standard error loses a line.
            Some(_) => {
                let message = notify::one_line(&event.message);
                let _ = writeln!(io::stderr(), "{}: {}", event.kind, visible(&message));
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
        self.codexd = service.codexd;
        self.foreground = Some(Foreground::new(service.notifier));
        self.run_command("start");
        self.report_status();
        Ok(())
    }

    /// Runs a command of codexd as a child.
    pub(super) fn run_command(&mut self, name: &'static str) {
        let line = match self.standalone() {
            Some(standalone) => standalone.line(name),
            None => Ok((vec!["--json".into()], Stdio::null())),
        };
        let codexd = self.codexd.clone();
        let begun = line.and_then(|(options, stdout)| {
            self.commands.begin(&self.home, CommandLine { codexd, name, options, stdout })
        });
        if let Err(error) = begun {
            let message = format!("failed to run `codexd {name}`: {error}");
            self.log_event(LogEvent::new(EventLevel::Error, "command.failed", message));
            self.on_command_result(EndedCommand { name, code: ErrorCode::Internal.exit_code() });
        }
    }

    /// A command that runs as a child has ended.
    pub(super) fn on_command_ended(&mut self, index: usize) {
        if let Some(ended) = self.commands.take(index) {
            tracing::debug!(?ended, "a command has ended");
            self.on_command_result(ended);
            // A long idle time follows.
            memory_trim::release_code_pages();
        }
    }

    fn on_command_result(&mut self, ended: EndedCommand) {
        match ended.name {
            "start" if self.standalone().is_some() => self.on_standalone_start_ended(ended.code),
            "start" => self.on_start_ended(ended.code),
            "status" => self.on_status_printed(),
            _ => {}
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
        self.check_lifetime(now);
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
fn write_to_journal(event: &LogEvent) {
    let priority = match event.level {
        EventLevel::Error => 3,
        EventLevel::Warn => 4,
        EventLevel::Info => 6,
    };
    // A journal that takes no more loses a line.
    let _ = writeln!(io::stderr(), "<{priority}>{}: {}", event.kind, notify::one_line(&event.message));
}
