//! What the keeper does when the supervisor says so.

use std::io;
use std::os::unix::fs::MetadataExt;

use codexd_core::contract::EventLevel;
use codexd_core::contract::status::LastExit;
use codexd_core::identity::Pid;
use codexd_core::supervise::{self, Action, Phase};

use super::run::Keeper;
use super::server::Server;
use super::state::{self, StatePhase};
use super::wire::Report;
use crate::events::Event as LogEvent;
use crate::strays::{self, Spared};
use crate::{clock, pid_record};

impl Keeper {
    pub(super) fn server_ended(&mut self) {
        let Some(server) = self.server.take() else { return };
        let requested = matches!(self.supervisor.phase(), Phase::Stopping { .. });
        let before = self.before.as_ref().map(|before| &before.keeper);
        self.dead = Some(server.ties(std::mem::take(&mut self.descendants), before));
        let exit = server.exit(&self.home, requested);
        // A record that cannot be removed names a dead process, which the next look finds out.
        let _ = pid_record::remove(&self.home);
        self.state.last_exit = Some(exit.clone());
        self.clients.tell(&Report::Exited { exit: exit.clone() });
        self.note(exit_event(&exit));
        if self.still_keeps_the_home() {
            self.feed(supervise::Event::Exited);
        } else {
            self.abdicate();
        }
        self.reap_strays();
    }

    /// Whether the lock that this keeper holds is still the lock of the home. If the state folder was taken away, another
    /// keeper may hold a lock of the same name by now, and this one must not start anything any more.
    fn still_keeps_the_home(&self) -> bool {
        let held = self.lock.metadata().map(|held| (held.dev(), held.ino()));
        let named = std::fs::metadata(self.home.keeper_lock()).map(|named| (named.dev(), named.ino()));
        matches!((held, named), (Ok(held), Ok(named)) if held == named)
    }

    /// The home is no longer this keeper's: what it started is ended, nothing is written any more.
    fn abdicate(&mut self) {
        self.sweep();
        self.left = true;
        self.clients.let_go();
    }

    pub(super) fn feed(&mut self, event: supervise::Event) {
        for action in self.supervisor.step(event, clock::monotonic()) {
            self.carry_out(action);
        }
        if !self.left {
            let phase = self.phase();
            let _ = self.write_down(phase);
        }
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Spawn => self.spawn(),
            Action::Signal(signal) => {
                if let Some(server) = &self.server {
                    if server.was_taken_over() {
                        self.descendants.extend(server.descendants());
                    }
                    server.drain(signal);
                }
                if let Phase::Stopping { stage, .. } = self.supervisor.phase() {
                    self.clients.tell(&Report::Signalled { stage });
                }
            }
            Action::Remind => {
                if let Some(server) = &self.server {
                    server.remind();
                }
            }
            Action::KillAll => {
                if let Some(server) = &self.server {
                    self.descendants.extend(server.descendants());
                    server.kill();
                    let message = "the app-server did not leave in time and was killed";
                    let event = LogEvent::new(EventLevel::Warn, "child.killed", message)
                        .with("pid", server.process.pid.0);
                    self.note(event);
                }
            }
            Action::SweepStrays => self.sweep(),
            Action::ReportCrashLoop => {
                let message = "the app-server keeps dying; the next attempts are up to 30 s apart";
                self.note(LogEvent::new(EventLevel::Error, "child.crash-looping", message));
            }
            Action::ReportUnkillable => {
                if let Some(server) = &self.server {
                    let pid = server.process.pid;
                    self.clients.tell(&Report::Unkillable { pid });
                }
            }
            Action::Leave => self.leave(),
        }
    }

    fn spawn(&mut self) {
        let Some(program) = self.program.clone() else { return };
        let generation = uuid::Uuid::now_v7().to_string();
        self.state.generation = Some(generation.clone());
        self.state.program = Some(program.without_env());
        let _ = self.watches.watch_folder(&self.home);
        if !self.still_keeps_the_home() {
            self.abdicate();
            return;
        }
        // Orders are refused if this fails. A server that was running is brought back all the same: it would be missed more
        // than it could be lost.
        let _ = self.write_down(StatePhase::Spawning);
        match Server::spawn(&self.home, &program, &generation) {
            Ok(server) => {
                let pid = server.process.pid;
                let event = LogEvent::new(EventLevel::Info, "child.started", "started the app-server")
                    .with("pid", pid.0)
                    .with("executable", program.executable.to_string_lossy().into_owned())
                    .with("restarts", self.supervisor.restarts());
                self.took_in(server);
                self.clients.tell(&Report::Spawned { pid });
                self.feed(supervise::Event::Spawned);
                self.note(event);
            }
            Err(error) => {
                let message = format!("failed to start {}: {error}", program.executable.display());
                self.note(LogEvent::new(EventLevel::Error, "child.spawn.failed", message.clone()));
                self.clients.tell(&Report::SpawnFailed { message, errno: error.raw_os_error() });
                self.feed(supervise::Event::SpawnFailed);
            }
        }
    }

    /// A server lives and is ours: record it and watch what it writes.
    pub(super) fn took_in(&mut self, server: Server) {
        if let Some(program) = &self.program {
            let record = server.codexd_record(program);
            // Without a record the server is still found by its mark and by its socket; the next verb writes one.
            if let Err(error) = pid_record::write(&self.home, &server.process, record) {
                let message = format!("failed to write the pid record: {error}");
                self.note(LogEvent::new(EventLevel::Error, "record.unwritable", message));
            }
        }
        let _ = self.watches.watch_logs(&self.home);
        self.state.generation.clone_from(&server.generation);
        self.server = Some(server);
    }

    fn sweep(&mut self) {
        let Some(ties) = self.dead.take() else { return };
        let verbs = self.clients.pids();
        let successor = self.server.as_ref().map(|server| server.process.pid);
        let swept = strays::sweep(&ties, Spared { pids: &verbs, server: successor });
        self.left_behind = !swept.left.is_empty();
        if swept.ended > 0 || !swept.left.is_empty() {
            let message = format!("ended {} processes that the app-server had left behind", swept.ended);
            let left: Vec<u32> = swept.left.iter().map(|pid| pid.0).collect();
            let level = if left.is_empty() { EventLevel::Info } else { EventLevel::Error };
            self.note(LogEvent::new(level, "child.strays", message).with("left", left));
        }
        self.clients.tell(&Report::Swept { ended: swept.ended, left: swept.left });
    }

    fn leave(&mut self) {
        self.left = true;
        // A stop that has not ended everything is not done: the next one looks again.
        let phase = match (self.left_behind, self.give_up) {
            (true, _) => StatePhase::Idle,
            (false, true) => StatePhase::Failed,
            (false, false) => StatePhase::Stopped,
        };
        let _ = self.write_down(phase);
        let _ = std::fs::remove_file(self.home.keeper_socket());
        self.note(LogEvent::new(EventLevel::Info, "daemon.stopped", "nothing left to keep"));
        // From here on the next keeper may come; what is left of this one only ends.
        let _ = rustix::fs::flock(&self.lock, rustix::fs::FlockOperation::Unlock);
        self.clients.tell(&Report::Leaving);
        self.clients.let_go();
    }

    pub(super) fn phase(&self) -> StatePhase {
        match self.supervisor.phase() {
            Phase::Idle => StatePhase::Idle,
            Phase::Running { .. } => StatePhase::Running,
            Phase::Waiting { .. } => StatePhase::Waiting,
            Phase::Stopping { then, .. } => StatePhase::Stopping { then },
        }
    }

    pub(super) fn standing(&self) -> Report {
        Report::State {
            keeper_pid: self.state.keeper.pid,
            phase: self.phase(),
            pid: self.server.as_ref().map(|server| server.process.pid),
        }
    }

    /// Writes `keeper.json`. Where no order depends on it, a full disk costs what it would have told and nothing else.
    pub(super) fn write_down(&mut self, phase: StatePhase) -> io::Result<()> {
        self.state.phase = phase;
        self.state.server = self.server.as_ref().map(|server| server.process.clone());
        self.state.restarts = self.supervisor.restarts();
        self.state.crash_looping = self.supervisor.crash_looping();
        self.state.next_attempt_at = match self.supervisor.phase() {
            Phase::Waiting { until } => Some(clock::in_ms(until.since_ms(clock::monotonic()))),
            _ => None,
        };
        state::write(&self.home, &self.state)
    }

    /// An event that cannot be written is lost: the server matters more.
    pub(super) fn note(&self, event: LogEvent) {
        let _ = self.log.append(&event);
    }
}

fn exit_event(exit: &LastExit) -> LogEvent {
    let how = match (exit.code, exit.signal) {
        (Some(code), _) => format!("with code {code}"),
        (_, Some(signal)) => format!("by signal {signal}"),
        _ => "unseen: it was not a child of this keeper".to_owned(),
    };
    let (level, asked) = match (exit.requested, exit.code) {
        (true, _) => (EventLevel::Info, "as it was asked to"),
        (false, Some(0)) => (EventLevel::Warn, "without being asked to"),
        (false, _) => (EventLevel::Error, "without being asked to"),
    };
    let Pid(pid) = exit.pid;
    LogEvent::new(level, "child.exited", format!("the app-server ended {how}, {asked}"))
        .with("pid", pid)
        .with("code", exit.code)
        .with("signal", exit.signal)
        .with("stderrTail", exit.stderr_tail.clone())
}
