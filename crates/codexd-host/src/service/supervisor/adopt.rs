//! Taking over what a supervisor that was killed, or nobody, has left running.

use codexd_core::contract::EventLevel;
use codexd_core::generations::{Event, Name, Role};
use codexd_core::identity::{Pid, Process};
use codexd_core::program::Program;
use codexd_core::record::CodexdRecord;
use codexd_core::supervise::{self, Then};

use super::kept::Kept;
use super::run::Supervisor;
use super::server::{self, Server};
use super::state::{OtherState, StatePhase, SupervisorState};
use super::wire::Refusal;
use crate::events::Event as LogEvent;
use crate::strays::Ties;
use crate::{gateway_process, process, upstream_files};

impl Supervisor {
    /// Takes over the current server as a command has found it, and everything else that the supervisor before has left.
    pub(super) fn adopt(
        &mut self,
        process: Process,
        codexd: Option<CodexdRecord>,
        gateway: Option<Program>,
    ) -> Result<(), Refusal> {
        if self.current_server().is_some_and(|server| server.process == process) {
            return Ok(());
        }
        let known = self.before.as_ref().and_then(|before| known_program(before, &process));
        upstream_files::take_over_logs(&self.home, process.pid);
        let adopted = server::program_of(&process, codexd.as_ref(), known).and_then(|program| {
            let generation = codexd.and_then(|record| record.generation);
            let server = Server::adopt(process.clone(), generation, &program, self.home.stderr_log())?;
            Ok((program, server))
        });
        match adopted {
            Ok((program, server)) if self.current_server().is_none() && self.name_of(&process).is_none() => {
                let event =
                    LogEvent::new(EventLevel::Info, "child.adopted", "took over a running app-server")
                        .with("pid", process.pid.0);
                self.note(event);
                let (current, fronted) = (self.machine.current(), program.socket.is_some());
                self.set_program(current, program);
                self.took_in(current, server);
                self.feed(Event::Of(current, supervise::Event::Adopted));
                self.go_on_draining(&process);
                self.inherit(Some(&process));
                self.thread_settings.are_inherited |= fronted;
                if fronted {
                    self.put_a_gateway_in_front(gateway);
                }
                Ok(())
            }
            Ok(_) => Err(Refusal::new("another server is kept already")),
            Err(error) => {
                let message = format!("failed to take over process {}: {error}", process.pid);
                Err(Refusal { message, errno: error.raw_os_error() })
            }
        }
    }

    /// The supervisor before us may have asked this very server to leave: it is not asked again, which would force it.
    fn go_on_draining(&mut self, process: &Process) {
        if let Some(SupervisorState { phase: StatePhase::Stopping { then }, server: Some(server), .. }) =
            &self.before
            && server == process
        {
            let draining = supervise::Event::FoundDraining(*then);
            self.feed(Event::Of(self.machine.current(), draining));
        }
    }

    fn put_a_gateway_in_front(&mut self, program: Option<Program>) {
        let lives = self.server(Name::Gateway).is_some();
        self.set_gateway(program);
        if !lives && self.kept(Name::Gateway).is_some() {
            self.feed(Event::GatewayRequested);
        }
    }

    /// Takes over, once, what the supervisor before has kept beside the current server, which is `current` if it lives. Of two
    /// that were current one after the other, the recorded one is.
    pub(super) fn inherit(&mut self, current: Option<&Process>) {
        if std::mem::replace(&mut self.inherited, true) {
            return;
        }
        let before = self.before.clone();
        let at_rest =
            |before: &SupervisorState| matches!(before.phase, StatePhase::Stopped | StatePhase::Failed);
        let Some(before) = before.filter(|before| !at_rest(before)) else {
            // What was written may be lost; who listens at the well-known place is not.
            self.found_at_the_door();
            return;
        };
        self.inherit_gateway(&before);
        let mut others = before.others;
        if let (Some(_), Some(server), Some(program)) = (current, before.server, before.program) {
            others.push(OtherState {
                role: Role::Outgoing,
                process: Some(server),
                generation: before.generation,
                program,
                stopping: false,
            });
        }
        for other in others.into_iter().filter(|other| current.is_none() || other.process.as_ref() != current)
        {
            self.inherit_other(other);
        }
    }

    fn inherit_gateway(&mut self, before: &SupervisorState) {
        let known = before.gateway.as_ref().and_then(|gateway| gateway.process.clone());
        let known = known.filter(process::is_alive);
        if let Some(process) = known.or_else(|| gateway_process::find(&self.home)) {
            self.take_over_gateway(process);
        }
    }

    /// Whether the one who listens at the well-known place is a gateway that no supervisor has written down. It is taken over.
    pub(super) fn found_at_the_door(&mut self) -> bool {
        let at_the_door = codexd_protocol::unix::connect(&self.home.control_socket())
            .and_then(|stream| codexd_protocol::unix::peer(&stream))
            .ok()
            .and_then(|peer| peer.pid.map(Pid))
            .filter(|&pid| gateway_process::is_one(pid, &self.home))
            .and_then(|pid| process::identify(pid).ok());
        if let Some(process) = at_the_door {
            self.take_over_gateway(process);
        }
        self.server(Name::Gateway).is_some()
    }

    fn take_over_gateway(&mut self, process: Process) {
        let taken = server::program_of(&process, None, None).and_then(|program| {
            let server = Server::adopt(process.clone(), None, &program, self.home.gateway_log())?;
            Ok((program, server))
        });
        // One that has just ended is started again.
        if let Ok((program, server)) = taken {
            self.table.retain(|kept| kept.name != Name::Gateway);
            self.table.push(Kept::of(Name::Gateway, program, server));
            let event = LogEvent::new(EventLevel::Info, "gateway.adopted", "took over a running gateway")
                .with("pid", process.pid.0);
            self.note(event);
            self.feed(Event::Of(Name::Gateway, supervise::Event::Adopted));
        }
    }

    fn inherit_other(&mut self, other: OtherState) {
        let living = other.process.filter(process::is_alive).and_then(|process| {
            upstream_files::take_over_logs(&self.home, process.pid);
            Server::adopt(process, other.generation.clone(), &other.program, self.home.stderr_log()).ok()
        });
        let Some(server) = living else {
            let ties = Ties { generation: other.generation, ..Ties::default() };
            self.begin_sweep(None, ties);
            return;
        };
        let event = LogEvent::new(EventLevel::Info, "child.adopted", "took over another running app-server")
            .with("pid", server.process.pid.0);
        self.note(event);
        let name = self.machine.inherit(other.role);
        self.table.push(Kept { role: Some(other.role), ..Kept::of(name, other.program, server) });
        self.feed(Event::Of(name, supervise::Event::Adopted));
        match other.role {
            // Whoever waited for its answer is gone with the supervisor before.
            Role::Successor => self.feed(Event::WithdrawalRequested),
            _ if other.stopping => {
                self.feed(Event::Of(name, supervise::Event::FoundDraining(Then::Leave)));
            }
            _ => {}
        }
    }
}

fn known_program<'a>(before: &'a SupervisorState, process: &Process) -> Option<&'a Program> {
    if before.server.as_ref() == Some(process) {
        return before.program.as_ref();
    }
    let other = before.others.iter().find(|other| other.process.as_ref() == Some(process));
    other.map(|other| &other.program)
}
