//! Performs the actions of the generations' state machine.

use std::io;

use codexd_core::contract::EventLevel;
use codexd_core::generations::{Action, Event, Name, Role};
use codexd_core::launch_spec::LaunchSpec;
use codexd_core::supervise::{self, Phase};

use super::Supervisor;
use super::control_listener::ControlListener;
use super::server::Server;
use super::spawner::Spawner;
use super::state::StatePhase;
use super::wire::Report;
use crate::events::Event as LogEvent;
use crate::{clock, pid_record, process};

impl Supervisor {
    /// Passes an event to the state machine and performs the actions.
    pub(super) fn feed(&mut self, event: Event) {
        let actions = self.step(event);
        self.act(actions);
    }

    pub(super) fn step(&mut self, event: Event) -> Vec<Action> {
        self.machine.step(event, clock::monotonic())
    }

    pub(super) fn act(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Of(name, action) => self.carry_out(name, action),
                Action::Drop(name) => self.forget_when_swept(name),
                Action::Leave => self.leave_when_swept(),
            }
        }
        for managed in &mut self.table {
            managed.role = self.machine.role(managed.name).or(managed.role);
        }
        if !self.has_left {
            let phase = self.phase();
            let _ = self.write_state(phase);
            self.publish_changes();
            self.schedule_memory_check();
        }
    }

    fn carry_out(&mut self, name: Name, action: supervise::Action) {
        match action {
            supervise::Action::Spawn if name == Name::Gateway => self.spawn_gateway(),
            supervise::Action::Spawn => self.spawn(name),
            supervise::Action::CancelLaunch => self.cancel_launch(name),
            supervise::Action::Signal(signal) => {
                // The process that listens gets the signal, not its wrapper script.
                self.check_sockets();
                self.remember_descendants(name, false);
                // The next supervisor must know that it was signalled: a second signal would force the exit.
                let phase = self.phase();
                let _ = self.write_state(phase);
                // The gateway must know before the exit that it is no crash.
                self.publish_changes();
                if let Some(server) = self.server(name) {
                    server.drain(signal);
                }
                let phase = self.machine.supervision(name).map(|supervision| supervision.phase());
                if let (true, Some(Phase::Stopping { stage, .. })) = (name == self.machine.current(), phase) {
                    self.clients.broadcast(&Report::Signalled { stage });
                }
            }
            supervise::Action::Remind if name == Name::Gateway => {}
            supervise::Action::Remind => {
                if let Some(server) = self.server(name) {
                    server.remind();
                }
            }
            supervise::Action::KillAll => {
                self.remember_descendants(name, true);
                if let Some(server) = self.server(name) {
                    server.kill();
                    if let (Some(units), Some(unit)) = (self.spawner.units(), &server.unit) {
                        units.kill(&unit.name);
                    }
                    let who = if name == Name::Gateway { "the gateway" } else { "the app-server" };
                    let message = format!("killed {who}: it did not exit in time");
                    let event = LogEvent::new(EventLevel::Warn, "child.killed", message)
                        .with("pid", server.process.pid.0);
                    self.log_event(event);
                }
            }
            supervise::Action::SweepOrphans => self.sweep(name),
            supervise::Action::ReportCrashLoop => {
                let who = if name == Name::Gateway { "the gateway" } else { "the app-server" };
                let message = format!("{who} keeps crashing; restarts are delayed by up to 30 s");
                self.log_event(LogEvent::new(EventLevel::Error, "child.crash-looping", message));
            }
            supervise::Action::ReportUnkillable => {
                if let Some(pid) = self.server(name).map(|server| server.process.pid) {
                    self.clients.broadcast(&Report::Unkillable { pid });
                }
            }
            // The generations' machine has an action of its own for it.
            supervise::Action::Leave => {}
        }
    }

    /// Records the descendants of a process before it is stopped. After its exit, parent and session alone do not identify them if another
    /// supervisor or another generation was involved, or if this one is process 1, the parent of every orphan of a container.
    fn remember_descendants(&mut self, name: Name, always: bool) {
        let others_live = !self.servers_except(name).is_empty();
        let Some(managed) = self.managed_mut(name).filter(|managed| managed.name != Name::Gateway) else {
            return;
        };
        if let Some(server) = &managed.server
            && (always || others_live || server.was_adopted() || process::is_init())
        {
            let descendants = server.descendants();
            managed.descendants.extend(descendants);
        }
    }

    fn spawn(&mut self, name: Name) {
        let Some(managed) = self.managed_mut(name) else { return };
        let (generation, program) = (uuid::Uuid::now_v7().to_string(), managed.program.clone());
        managed.generation_id = Some(generation.clone());
        let current = name == self.machine.current();
        let _ = self.watches.watch_folders(&self.home);
        if !self.owns_the_home() {
            self.relinquish();
            return;
        }
        if program.socket.is_some() {
            // A failure to listen is reported when the gateway is started.
            let _ = self.open_control_listener();
        } else if let Some(control_listener) = self.control_listener.take_if(|_| current) {
            self.close_control_listener(control_listener);
        }
        if self.spawner.units().is_some() {
            self.state.last_instance += 1;
        }
        // Orders are refused if this fails. A crashed app-server is restarted all the same: no server is worse than one that the next
        // supervisor may not find.
        let phase = if current { StatePhase::Spawning } else { self.phase() };
        let _ = self.write_state(phase);
        let started = match &self.spawner {
            Spawner::Units(_) => self.launch(name, program.clone(), Some(generation)).map(|()| None),
            Spawner::Fork => Server::spawn(&self.home, &program, &generation).map(Some),
        };
        match started {
            Ok(Some(server)) => self.spawned(name, server, &program),
            Ok(None) => {}
            Err(error) => self.report_failed_spawn(name, &program, &error),
        }
    }

    /// A process lives that the machine has asked for.
    pub(super) fn spawned(&mut self, name: Name, server: Server, program: &LaunchSpec) {
        let pid = server.process.pid;
        let mut event = match name {
            Name::Gateway => LogEvent::new(EventLevel::Info, "gateway.started", "started the gateway"),
            Name::Generation(_) => LogEvent::new(EventLevel::Info, "child.started", "started the app-server"),
        }
        .with("pid", pid.0);
        if name != Name::Gateway {
            let restarts = self.machine.supervision(name).map(|supervision| supervision.restarts());
            event = event
                .with("executable", program.executable.to_string_lossy().into_owned())
                .with("restarts", restarts);
        }
        if let Some(unit) = &server.unit {
            event = event.with("unit", unit.name.clone());
        }
        self.track(name, server);
        if name == self.machine.current() {
            self.clients.broadcast(&Report::Spawned { pid });
        }
        self.feed(Event::Of(name, supervise::Event::Spawned));
        self.log_event(event);
    }

    /// A process could not be started.
    pub(super) fn report_failed_spawn(&mut self, name: Name, program: &LaunchSpec, error: &io::Error) {
        let errno = error.raw_os_error();
        let (kind, message) = match name {
            Name::Gateway => ("gateway.spawn.failed", format!("failed to start the gateway: {error}")),
            Name::Generation(_) => {
                let message = format!("failed to start {}: {error}", program.executable.display());
                ("child.spawn.failed", message)
            }
        };
        let report = message.clone();
        self.clients.broadcast(&match name {
            Name::Gateway => Report::GatewayFailed { message: report, errno },
            name if name == self.machine.current() => Report::SpawnFailed { message: report, errno },
            Name::Generation(_) => Report::SuccessorFailed { message: report, errno },
        });
        self.spawn_failed(name, kind, message, error);
    }

    fn spawn_gateway(&mut self) {
        let Some(program) = self.managed(Name::Gateway).map(|managed| managed.program.clone()) else {
            return;
        };
        let opened = self.open_control_listener();
        if self.server(Name::Gateway).is_some() {
            // A gateway that no state file names was adopted.
            return;
        }
        let started = opened.and_then(|()| match (&self.control_listener, &self.spawner) {
            (Some(_), Spawner::Units(_)) => self.launch(Name::Gateway, program.clone(), None).map(|()| None),
            (Some(control_listener), Spawner::Fork) => {
                Server::spawn_gateway(&self.home, &program, control_listener).map(Some)
            }
            (None, _) => Err(io::Error::from(io::ErrorKind::NotConnected)),
        });
        match started {
            Ok(Some(server)) => self.spawned(Name::Gateway, server, &program),
            Ok(None) => {}
            Err(error) => self.report_failed_spawn(Name::Gateway, &program, &error),
        }
    }

    /// Binds the control socket, if it is not open or its path was removed. A gateway that holds it sends it back.
    pub(super) fn open_control_listener(&mut self) -> io::Result<()> {
        let is_usable =
            |listener: &ControlListener| listener.is_of_service_manager() || listener.is_at_path();
        if self.control_listener.as_ref().is_some_and(is_usable) {
            return Ok(());
        }
        if self.control_listener.is_none() && self.server(Name::Gateway).is_some() {
            return Ok(());
        }
        match ControlListener::open(&self.home) {
            Ok(control_listener) => self.control_listener = Some(control_listener),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && self.adopt_listening_gateway() => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Nothing is to listen at the well-known place, or another process is.
    fn close_control_listener(&self, control_listener: ControlListener) {
        if let (true, Some(units)) = (control_listener.is_of_service_manager(), self.spawner.units()) {
            units.close_socket();
        }
        control_listener.close();
    }

    /// Finds out in which unit a process runs that was taken over.
    pub(super) fn find_unit(&self, server: &mut Server) {
        if let (Some(units), None) = (self.spawner.units(), &server.unit) {
            server.find_unit(units);
        }
    }

    /// Records a process that was started or adopted, and watches its logs.
    pub(super) fn track(&mut self, name: Name, mut server: Server) {
        self.program_was_found(name);
        self.find_unit(&mut server);
        if let Some(managed) = self.managed_mut(name) {
            managed.generation_id.clone_from(&server.generation);
            managed.server = Some(server);
        }
        if name == self.machine.current() {
            self.record(name);
        }
        let _ = self.watches.watch_logs(&self.home);
        self.listeners.begin(clock::monotonic());
    }

    /// Writes the pid record of the app-server that is current from now on.
    pub(super) fn record(&self, name: Name) {
        let Some(server) = self.server(name) else { return };
        // Without a record the app-server is found by its generation id and its socket; the next command writes one.
        if let Err(error) = pid_record::write(&self.home, &server.process, server.codexd_record()) {
            let message = format!("failed to write the pid record: {error}");
            self.log_event(LogEvent::new(EventLevel::Error, "record.unwritable", message));
        }
    }

    /// Removes a generation beside the current one after its exit.
    pub(super) fn forget(&mut self, name: Name) {
        let Some(at) = self.table.iter().position(|managed| managed.name == name) else { return };
        let managed = self.table.remove(at);
        if managed.role == Some(Role::Outgoing) {
            let event =
                LogEvent::new(EventLevel::Info, "generation.retired", "the outgoing app-server exited")
                    .with("generation", managed.generation_id.clone());
            self.log_event(event);
        }
        self.clients.broadcast(&Report::Retired { generation: managed.generation_id });
    }

    pub(super) fn leave(&mut self) {
        self.has_left = true;
        self.forget_failed_start();
        if let Some(control_listener) = self.control_listener.take() {
            self.close_control_listener(control_listener);
        }
        // A stop with orphans left is not complete: the next stop looks for them again.
        let phase = match (self.orphaned, self.give_up) {
            (true, _) => StatePhase::Idle,
            (false, true) => StatePhase::Failed,
            (false, false) => StatePhase::Stopped,
        };
        let _ = self.write_state(phase);
        if let Some(units) = self.spawner.units() {
            units.settle_commands_unit();
        }
        let _ = std::fs::remove_file(self.home.supervisor_socket());
        self.log_event(LogEvent::new(
            EventLevel::Info,
            "daemon.stopped",
            "the supervisor exited: it manages no process any more",
        ));
        // From here on the next supervisor may start.
        let _ = rustix::fs::flock(&self.lock, rustix::fs::FlockOperation::Unlock);
        self.clients.broadcast(&Report::Leaving);
        self.clients.close_all();
    }

    /// Writes an event. An event that cannot be written is lost.
    pub(super) fn log_event(&self, event: LogEvent) {
        if let Some(foreground) = &self.foreground {
            foreground.print(&event);
        }
        let _ = self.log.append(&event);
    }
}
