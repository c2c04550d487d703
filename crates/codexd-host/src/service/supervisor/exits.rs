//! Handles the exit of a managed process.

use codexd_core::contract::EventLevel;
use codexd_core::contract::status::LastExit;
use codexd_core::generations::{Event, Name, Role};
use codexd_core::identity::Pid;
use codexd_core::supervise::{self, Phase};

use super::Supervisor;
use super::former_names;
use super::stale_socket;
use super::wire::Report;
use crate::events::Event as LogEvent;
use crate::pid_record;

impl Supervisor {
    /// Whether a process is being stopped.
    pub(super) fn is_leaving(&self, name: Name) -> bool {
        let phase = self.machine.supervision(name).map(supervise::Supervision::phase);
        matches!(phase, Some(Phase::Stopping { .. }))
    }

    /// Handles the exit of a managed process.
    pub(super) fn ended(&mut self, name: Name) {
        if self.outlives_its_wrapper(name) {
            return;
        }
        let requested = self.is_leaving(name);
        let others_live = !self.servers_except(name).is_empty();
        let previous = self.previous.as_ref().map(|previous| previous.supervisor.clone());
        let Some(managed) = self.managed_mut(name) else { return };
        let Some(server) = managed.server.take() else { return };
        let (socket, role) = (server.program.socket.clone(), managed.role);
        if name != Name::Gateway {
            let evidence = server.evidence(std::mem::take(&mut managed.descendants), previous.as_ref());
            managed.dead = Some(if others_live { evidence.while_other_generations_live() } else { evidence });
            managed.ended = role.filter(|&role| role != Role::Current).map(|role| server.as_generation(role));
        }
        let exit = server.exit(requested, self.spawner.units());
        if let Some(socket) = socket {
            stale_socket::remove_socket(&socket);
        }
        self.report_exit(name, role, exit);
        if self.owns_the_home() {
            self.feed(Event::Of(name, supervise::Event::Exited));
        } else {
            self.relinquish();
        }
        self.reap_orphans();
    }

    fn report_exit(&mut self, name: Name, role: Option<Role>, exit: LastExit) {
        if name == Name::Gateway {
            former_names::remove_gateway_link(&self.home);
            // Until the next gateway listens, clients see this process as their peer.
            if let Some(control_listener) = &self.control_listener {
                let _ = control_listener.listen();
            }
            self.log_event(exit_event("gateway.exited", "the gateway", &exit));
            return;
        }
        if name == self.machine.current() {
            // A record that cannot be removed names a dead process, which the next observation finds.
            let _ = pid_record::remove(&self.home);
            self.state.last_exit = Some(exit.clone());
            self.clients.broadcast(&Report::Exited { exit: exit.clone() });
            self.log_event(exit_event("child.exited", "the app-server", &exit));
            return;
        }
        let who = if role == Some(Role::Successor) { "the successor" } else { "the outgoing app-server" };
        self.log_event(exit_event("child.exited", who, &exit));
        if role == Some(Role::Successor) {
            self.clients.broadcast(&Report::SuccessorEnded { exit });
        }
    }
}

fn exit_event(kind: &'static str, who: &str, exit: &LastExit) -> LogEvent {
    let how = match (exit.code, exit.signal) {
        (Some(code), _) => format!("exited with code {code}"),
        (_, Some(signal)) => format!("was killed by signal {signal}"),
        _ => "exited with an unknown status (not a child of this supervisor)".to_owned(),
    };
    let (level, asked) = match (exit.requested, exit.code) {
        (true, _) => (EventLevel::Info, "as requested"),
        (false, Some(0)) => (EventLevel::Warn, "unexpectedly"),
        (false, _) => (EventLevel::Error, "unexpectedly"),
    };
    let Pid(pid) = exit.pid;
    let because = exit.error_line.as_ref().filter(|_| !exit.requested).map(|line| format!(": {line}"));
    LogEvent::new(level, kind, format!("{who} {how} {asked}{}", because.unwrap_or_default()))
        .with("pid", pid)
        .with("code", exit.code)
        .with("signal", exit.signal)
        .with("errorLine", exit.error_line.clone())
        .with("stderrTail", exit.stderr_tail.clone())
}
