//! Adopting processes that run without a supervisor.

use codexd_core::contract::EventLevel;
use codexd_core::generations::{Event, Name, Role, Standing};
use codexd_core::identity::{Pid, Process};
use codexd_core::launch_spec::LaunchSpec;
use codexd_core::record::CodexdRecord;
use codexd_core::supervise::{self, Then};

use super::Supervisor;
use super::managed_process::ManagedProcess;
use super::server::{self, Server};
use super::state::{OtherState, StatePhase, SupervisorState};
use super::wire::Refusal;
use crate::events::Event as LogEvent;
use crate::launch::gateway;
use crate::orphans::OwnershipEvidence;
use crate::{process, upstream_files};

impl Supervisor {
    /// Adopts the current app-server that a command has found, and all other processes of the previous supervisor.
    pub(super) fn adopt(
        &mut self,
        process: Process,
        codexd: Option<CodexdRecord>,
        gateway: Option<LaunchSpec>,
    ) -> Result<(), Refusal> {
        if self.current_server().is_some_and(|server| server.process == process) {
            return Ok(());
        }
        if self.machine.standing() == Standing::Launching {
            return Err(Refusal::new("another server is being started already"));
        }
        let known = self.previous.as_ref().and_then(|previous| known_program(previous, &process));
        upstream_files::take_over_logs(&self.home, process.pid);
        let adopted = server::program_of(&process, codexd.as_ref(), known).and_then(|program| {
            let generation = codexd.and_then(|record| record.generation);
            let server = Server::adopt(process.clone(), generation, &program, self.home.stderr_log())?;
            Ok((program, server))
        });
        match adopted {
            Ok((program, server)) if self.current_server().is_none() && self.name_of(&process).is_none() => {
                let event = LogEvent::new(EventLevel::Info, "child.adopted", "adopted a running app-server")
                    .with("pid", process.pid.0);
                self.log_event(event);
                let (current, behind_gateway) = (self.machine.current(), program.socket.is_some());
                self.set_launch_spec(current, program);
                self.track(current, server);
                self.feed(Event::Of(current, supervise::Event::Adopted));
                self.resume_draining(&process);
                self.inherit(Some(&process));
                self.thread_settings.are_inherited |= behind_gateway;
                if behind_gateway {
                    self.start_gateway_if_missing(gateway);
                }
                self.service_is_ready();
                Ok(())
            }
            Ok(_) => Err(Refusal::new("the supervisor already manages another app-server")),
            Err(error) => {
                let message = format!("failed to adopt process {}: {error}", process.pid);
                Err(Refusal { message, errno: error.raw_os_error() })
            }
        }
    }

    /// The previous supervisor may have signalled this app-server to drain. A second signal would force the exit, so none is sent.
    fn resume_draining(&mut self, process: &Process) {
        if let Some(SupervisorState { phase: StatePhase::Stopping { then }, server: Some(server), .. }) =
            &self.previous
            && server == process
        {
            let draining = supervise::Event::FoundDraining(*then);
            self.feed(Event::Of(self.machine.current(), draining));
        }
    }

    fn start_gateway_if_missing(&mut self, program: Option<LaunchSpec>) {
        let lives = self.server(Name::Gateway).is_some();
        self.set_gateway(program);
        if !lives && self.managed(Name::Gateway).is_some() {
            self.feed(Event::GatewayRequested);
        }
    }

    /// Adopts, once, the processes that the previous supervisor managed beside the current app-server, which is `current` if it runs. If
    /// the previous supervisor's current app-server is another one, the recorded one is current.
    pub(super) fn inherit(&mut self, current: Option<&Process>) {
        if std::mem::replace(&mut self.inherited, true) {
            return;
        }
        let previous = self.previous.clone();
        let at_rest =
            |previous: &SupervisorState| matches!(previous.phase, StatePhase::Stopped | StatePhase::Failed);
        let Some(previous) = previous.filter(|previous| !at_rest(previous)) else {
            // The state file may be lost; the process that listens on the control socket can still be found.
            self.adopt_listening_gateway();
            return;
        };
        self.inherit_gateway(&previous);
        let mut others = previous.others;
        if let (Some(_), Some(server), Some(program)) = (current, previous.server, previous.program) {
            others.push(OtherState {
                role: Role::Outgoing,
                process: Some(server),
                generation: previous.generation,
                program,
                stopping: false,
            });
        }
        for other in others.into_iter().filter(|other| current.is_none() || other.process.as_ref() != current)
        {
            self.inherit_other(other);
        }
    }

    fn inherit_gateway(&mut self, previous: &SupervisorState) {
        let known = previous.gateway.as_ref().and_then(|gateway| gateway.process.clone());
        let known = known.filter(process::is_alive);
        if let Some(process) = known.or_else(|| gateway::find(&self.home)) {
            self.adopt_gateway(process);
        }
    }

    /// Adopts the listener of the control socket if it is a gateway that no state file names. Returns whether a gateway runs.
    pub(super) fn adopt_listening_gateway(&mut self) -> bool {
        let listener = codexd_protocol::unix::connect(&self.home.control_socket())
            .and_then(|stream| codexd_protocol::unix::peer(&stream))
            .ok()
            .and_then(|peer| peer.pid.map(Pid))
            .filter(|&pid| gateway::is_one(pid, &self.home))
            .and_then(|pid| process::identify(pid).ok());
        if let Some(process) = listener {
            self.adopt_gateway(process);
        }
        self.server(Name::Gateway).is_some()
    }

    fn adopt_gateway(&mut self, process: Process) {
        let taken = server::program_of(&process, None, None).and_then(|program| {
            let server = Server::adopt(process.clone(), None, &program, self.home.gateway_log())?;
            Ok((program, server))
        });
        // A gateway that has just exited is started again.
        if let Ok((program, mut server)) = taken {
            self.find_unit(&mut server);
            self.table.retain(|managed| managed.name != Name::Gateway);
            self.table.push(ManagedProcess::of(Name::Gateway, program, server));
            let event = LogEvent::new(EventLevel::Info, "gateway.adopted", "adopted a running gateway")
                .with("pid", process.pid.0);
            self.log_event(event);
            self.feed(Event::Of(Name::Gateway, supervise::Event::Adopted));
            self.replace_unreachable_gateway();
        }
    }

    fn inherit_other(&mut self, other: OtherState) {
        let living = other.process.filter(process::is_alive).and_then(|process| {
            upstream_files::take_over_logs(&self.home, process.pid);
            Server::adopt(process, other.generation.clone(), &other.program, self.home.stderr_log()).ok()
        });
        let Some(mut server) = living else {
            let evidence = OwnershipEvidence { generation: other.generation, ..OwnershipEvidence::default() };
            self.begin_sweep(None, evidence);
            return;
        };
        let event = LogEvent::new(EventLevel::Info, "child.adopted", "adopted another running app-server")
            .with("pid", server.process.pid.0);
        self.log_event(event);
        self.find_unit(&mut server);
        let name = self.machine.inherit(other.role);
        self.table.push(ManagedProcess {
            role: Some(other.role),
            ..ManagedProcess::of(name, other.program, server)
        });
        self.feed(Event::Of(name, supervise::Event::Adopted));
        match other.role {
            // The command that was to promote it has lost its supervisor.
            Role::Successor => self.feed(Event::WithdrawalRequested),
            _ if other.stopping => {
                self.feed(Event::Of(name, supervise::Event::FoundDraining(Then::Leave)));
            }
            _ => {}
        }
    }
}

fn known_program<'a>(previous: &'a SupervisorState, process: &Process) -> Option<&'a LaunchSpec> {
    if previous.server.as_ref() == Some(process) {
        return previous.program.as_ref();
    }
    let other = previous.others.iter().find(|other| other.process.as_ref() == Some(process));
    other.map(|other| &other.program)
}
