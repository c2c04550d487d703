//! `codexd run` without a service manager, in a terminal or as process 1 of a container: it prints how things stand once the app-server
//! serves, ends the app-server with itself, and prints how things stand in the end.
//!
//! What it prints is the answer of `codexd status`, which runs as a child with the same standard output.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal, Read, Seek};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use codexd_core::clock::Monotonic;
use codexd_core::contract::{ErrorCode, EventLevel};
use codexd_core::generations::{self, Standing};
use codexd_core::launch_spec::{DrainSignal, StopPolicy};
use codexd_core::limits::RUN_OUTPUT_TIMEOUT_MS;
use rustix::fs::MemfdFlags;

use super::Supervisor;
use super::foreground::Foreground;
use super::server::Server;
use super::signals::Signalled;
use crate::events::Event as LogEvent;
use crate::{clock, config_file};

/// How `codexd run` was called.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StandaloneOptions {
    /// The codexd whose commands it runs.
    pub codexd: PathBuf,
    /// The options of all these commands.
    pub options: Vec<OsString>,
    /// The further options of `start`; `None` if no server is to be started.
    pub start: Option<Vec<OsString>>,
    /// The grace period that the environment or an option sets, in seconds; `None` for that of the files.
    pub grace_seconds: Option<u64>,
    /// How long it runs once the first answer is printed, in milliseconds; `None` without an end.
    pub lifetime_ms: Option<u64>,
}

/// A supervisor that no service manager runs.
#[derive(Debug)]
pub struct Standalone {
    options: StandaloneOptions,
    /// The answer of `start`, which is printed only if it is that of a failure.
    answer: Option<File>,
    /// The exit code of a `start` after which no server runs.
    failed: Option<u8>,
    ends_at: Option<Monotonic>,
    is_stopping: bool,
    had_terminal: bool,
}

impl Standalone {
    pub fn new(options: StandaloneOptions) -> Self {
        let had_terminal = has_terminal();
        Self { options, answer: None, failed: None, ends_at: None, is_stopping: false, had_terminal }
    }

    pub fn deadline(&self) -> Option<Monotonic> {
        self.ends_at
    }

    /// The options of a command, and where it prints.
    pub fn line(&mut self, name: &str) -> io::Result<(Vec<OsString>, Stdio)> {
        let mut options = self.options.options.clone();
        match name {
            "status" => Ok((options, Stdio::inherit())),
            "start" => {
                options.extend(self.options.start.iter().flatten().cloned());
                let answer = File::from(rustix::fs::memfd_create("codexd-answer", MemfdFlags::CLOEXEC)?);
                let stdout = Stdio::from(answer.try_clone()?);
                self.answer = Some(answer);
                Ok((options, stdout))
            }
            _ => Ok((options, Stdio::null())),
        }
    }

    fn print_answer(&mut self) {
        let Some(mut answer) = self.answer.take() else { return };
        let mut text = Vec::new();
        // A standard output that is closed gets no answer.
        let _ = answer
            .rewind()
            .and_then(|()| answer.read_to_end(&mut text))
            .and_then(|_| io::Write::write_all(&mut io::stdout(), &text));
    }
}

impl Supervisor {
    /// Begins to start the app-server.
    pub(super) fn serve_standalone(&mut self, options: StandaloneOptions) {
        let has_server = options.start.is_some();
        self.codexd.clone_from(&options.codexd);
        self.foreground = Some(Foreground::standalone(Standalone::new(options)));
        if has_server {
            self.run_command("start");
        } else {
            self.run_command("status");
        }
    }

    pub(super) fn standalone(&mut self) -> Option<&mut Standalone> {
        self.foreground.as_mut()?.standalone.as_mut()
    }

    /// `start` has ended. A server that was there before goes on whatever is wrong with a new one.
    pub(super) fn on_standalone_start_ended(&mut self, code: u8) {
        let standing = self.machine.standing();
        let serves = standing == Standing::Running && self.current_server().is_some_and(Server::was_adopted);
        let Some(standalone) = self.standalone() else { return };
        if code == 0 || serves {
            self.run_command("status");
            return;
        }
        standalone.failed = Some(code);
        standalone.is_stopping = true;
        match standing {
            Standing::Idle => {
                self.has_left = true;
                let _ = std::fs::remove_file(self.home.supervisor_socket());
                let message = "the supervisor exited: `codexd start` failed";
                self.log_event(LogEvent::new(EventLevel::Error, "daemon.stopped", message));
            }
            // It would be tried again and again.
            _ => self.end_servers(0),
        }
    }

    /// The first answer is printed: from now on the time of `--run-once` counts.
    pub(super) fn on_status_printed(&mut self) {
        let now = clock::monotonic();
        if let Some(standalone) = self.standalone().filter(|standalone| !standalone.is_stopping) {
            standalone.ends_at = standalone.options.lifetime_ms.map(|ms| now + ms);
        }
    }

    /// Ends the run, if its time is over.
    pub(super) fn check_lifetime(&mut self, now: Monotonic) {
        if self.standalone().is_some_and(|standalone| standalone.ends_at.is_some_and(|at| at <= now)) {
            self.stop_standalone("the time of --run-once is over");
        }
    }

    /// Handles signals. SIGHUP of a terminal that was closed ends the run; any other SIGHUP replaces the app-server.
    pub(super) fn standalone_signalled(&mut self, signalled: Signalled) {
        let Some(standalone) = self.standalone() else { return };
        let is_hung_up = signalled.hangup && standalone.had_terminal && !has_terminal();
        let may_reload = standalone.options.start.is_some() && !standalone.is_stopping;
        if signalled.leave {
            self.stop_standalone("received a signal");
        } else if is_hung_up {
            self.stop_standalone("the terminal was closed");
        } else if signalled.hangup && may_reload {
            self.run_command("reload");
        }
    }

    /// Whether it ends, so that no command may start a server any more.
    pub(super) fn is_ending(&self) -> bool {
        let standalone = self.foreground.as_ref().and_then(|foreground| foreground.standalone.as_ref());
        standalone.is_some_and(|standalone| standalone.is_stopping)
    }

    /// Drains the app-server, and leaves after it. The second time, its grace period is over.
    pub(super) fn stop_standalone(&mut self, why: &str) {
        let Some(standalone) = self.standalone() else { return };
        standalone.ends_at = None;
        let is_second = std::mem::replace(&mut standalone.is_stopping, true);
        let of_environment = standalone.options.grace_seconds;
        let has_server = standalone.options.start.is_some();
        // A command that is about to start or replace a server must not do so afterwards.
        self.commands.kill_all_but(Some("status"));
        let grace_seconds = match is_second {
            true => 0,
            false => of_environment.unwrap_or_else(|| config_file::of_files(&self.home).grace_seconds()),
        };
        if has_server {
            // One that ran before, and that `start` has not found yet.
            self.inherit(None);
        }
        let message = match (self.current_server().is_some(), is_second) {
            (false, _) => format!("{why}: no app-server runs"),
            (true, true) => format!("{why}: the app-server is ended at once"),
            (true, false) => {
                format!(
                    "{why}: running turns have {grace_seconds} s to finish; another signal ends the app-server at once"
                )
            }
        };
        self.log_event(LogEvent::new(EventLevel::Info, "daemon.stopping", message));
        self.end_servers(grace_seconds);
    }

    fn end_servers(&mut self, grace_seconds: u64) {
        let grace_ms = Some(grace_seconds.saturating_mul(1_000));
        let policy = StopPolicy { signal: DrainSignal::Terminate, grace_ms };
        self.feed(generations::Event::StopRequested(policy));
    }

    /// Prints how things stand in the end, or why nothing was started; answers the exit code.
    pub(super) fn conclude_standalone(&mut self) -> u8 {
        let deadline = Instant::now() + Duration::from_millis(RUN_OUTPUT_TIMEOUT_MS);
        // A `start` that has failed has ended this supervisor, or is about to end.
        let failed =
            self.commands.finish("start", deadline).map(|ended| ended.code).filter(|&code| code != 0);
        let is_orphaned = self.orphaned;
        let Some(standalone) = self.standalone() else { return 0 };
        if let Some(code) = failed.or(standalone.failed) {
            standalone.print_answer();
            return code;
        }
        self.commands.finish("status", deadline);
        self.run_command("status");
        self.commands.finish("status", deadline);
        if is_orphaned { ErrorCode::StopTimeout.exit_code() } else { 0 }
    }
}

/// A terminal that was closed is no terminal any more.
fn has_terminal() -> bool {
    io::stdin().is_terminal() || io::stdout().is_terminal() || io::stderr().is_terminal()
}
