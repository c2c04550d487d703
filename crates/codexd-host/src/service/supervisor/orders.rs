//! Carries out the orders of commands and of the gateway.

use codexd_core::generations::{Event, Name, Role, Standing};
use codexd_core::launch_spec::LaunchSpec;
use codexd_core::supervise::Phase;

use super::Supervisor;
use super::clients::ClientId;
use super::control_listener::ControlListener;
use super::framing::ReplyStatus;
use super::managed_process::ManagedProcess;
use super::wire::{Order, Refusal, Report};
use crate::clock;

impl Supervisor {
    /// Handles the orders that arrived on one connection.
    pub(super) fn receive(&mut self, index: usize) {
        let Some(received) = self.clients.receive(index) else { return };
        for (id, order) in received.orders {
            self.handle_order(received.from, id, *order);
        }
        if received.left {
            self.clients.remove(received.from);
            self.on_launcher_left(received.from);
            // The command that would have checked and promoted the successor is gone.
            let wanted = self.machine.successor().and_then(|name| self.managed(name)?.wanted_by);
            if wanted == Some(received.from) {
                self.feed(Event::WithdrawalRequested);
            }
            self.publish_changes();
            // A long idle time follows.
            if self.clients.has_no_commands() {
                crate::memory_trim::release_code_pages();
            }
        }
        self.leave_if_unused();
    }

    fn handle_order(&mut self, from: ClientId, id: Option<u64>, order: Order) {
        let changes = order.is_of_a_command();
        self.clients.reply(from, id, ReplyStatus::Progress);
        let outcome = match changes {
            true => self.change(from, order),
            false => self.serve(from, order),
        };
        self.clients.reply(from, id, outcome.map_or_else(ReplyStatus::Refused, |()| ReplyStatus::Ok));
        if changes && id.is_none() && !self.has_left {
            // An older command takes it for the reply.
            let standing = self.standing();
            self.clients.send_to(from, &standing);
        }
    }

    /// Carries out orders that do not change which processes run.
    fn serve(&mut self, from: ClientId, order: Order) -> Result<(), Refusal> {
        match order {
            Order::GetLaunchSpec => {
                let program =
                    self.managed(self.machine.current()).map(|managed| Box::new(managed.program.clone()));
                self.clients.send_to(from, &Report::LaunchSpec { program });
            }
            Order::ConfigureGateway { gateway } => {
                let args = gateway.args.clone();
                self.set_gateway(Some(*gateway));
                self.clients.send_to_gateway(&Report::ConfigureGateway { args });
            }
            Order::Subscribe { moves, knows_thread_settings } => {
                self.thread_settings.are_given |= knows_thread_settings;
                self.subscribe(from, moves);
            }
            Order::Relay { value } => self.clients.broadcast_except(from, &Report::Relayed { value }),
            Order::Retire { generation } => {
                if let Some(name) = self.name_of_generation(&generation) {
                    self.feed(Event::RetirementRequested(name));
                }
            }
            Order::StoreThreadSettings { thread, settings } => {
                self.store_thread_settings(from, thread, settings);
            }
            Order::SendThreadSettings { after } => self.send_thread_settings(from, after.as_deref()),
            Order::Launch { unit } => self.on_launcher(from, unit)?,
            Order::LaunchFailed { message, errno } => self.on_launch_failed(from, message, errno),
            Order::AnnounceOrder { bytes } => self.clients.announce(from, bytes, clock::monotonic())?,
            Order::Start { .. }
            | Order::Adopt { .. }
            | Order::Replace { .. }
            | Order::Succeed { .. }
            | Order::Withdraw { .. }
            | Order::Promote { .. }
            | Order::Stop { .. } => {}
        }
        Ok(())
    }

    fn change(&mut self, from: ClientId, order: Order) -> Result<(), Refusal> {
        if self.is_ending() && !matches!(order, Order::Stop { .. }) {
            return Err(Refusal::new(
                "`codexd run` is ending: it was told to by a signal, or its time is over",
            ));
        }
        if let Order::Adopt { process, codexd, gateway } = order {
            return self.adopt(process, codexd, gateway.map(|gateway| *gateway));
        }
        self.inherit(None);
        match order {
            Order::Start { program, gateway } => self.start(*program, gateway.map(|gateway| *gateway))?,
            Order::Replace { program, policy, gateway } => {
                // Checked before the old app-server is stopped.
                self.check_state_is_writable()?;
                let behind_gateway = gateway.is_some();
                self.set_launch_spec(self.machine.current(), *program);
                self.set_gateway(gateway.map(|gateway| *gateway));
                self.feed(Event::ReplaceRequested { policy, gateway: behind_gateway });
            }
            Order::Stop { policy, failed } => {
                self.give_up = failed;
                self.feed(Event::StopRequested(policy));
            }
            Order::Succeed { program } => self.succeed(from, *program)?,
            Order::Withdraw { generation } => {
                if self
                    .name_of_generation(&generation)
                    .is_some_and(|name| self.machine.successor() == Some(name))
                {
                    self.feed(Event::WithdrawalRequested);
                }
            }
            Order::Promote { generation, gateway } => {
                self.promote(&generation, gateway.map(|gateway| *gateway))?;
            }
            Order::Adopt { .. }
            | Order::Retire { .. }
            | Order::Subscribe { .. }
            | Order::GetLaunchSpec
            | Order::ConfigureGateway { .. }
            | Order::StoreThreadSettings { .. }
            | Order::SendThreadSettings { .. }
            | Order::Launch { .. }
            | Order::LaunchFailed { .. }
            | Order::AnnounceOrder { .. }
            | Order::Relay { .. } => {}
        }
        Ok(())
    }

    fn start(&mut self, program: LaunchSpec, gateway: Option<LaunchSpec>) -> Result<(), Refusal> {
        let runs = self.machine.standing() == Standing::Running;
        let behind_gateway = gateway.is_some();
        if !runs {
            self.check_state_is_writable()?;
            if behind_gateway {
                self.can_open_control_listener()?;
            }
            self.set_launch_spec(self.machine.current(), program);
            self.set_gateway(gateway);
        }
        self.feed(Event::StartRequested { gateway: behind_gateway });
        Ok(())
    }

    pub(super) fn set_gateway(&mut self, program: Option<LaunchSpec>) {
        if let Some(program) = program {
            self.set_launch_spec(Name::Gateway, program);
        }
    }

    /// Checks that the state can be written. Without it, the next supervisor could not find a new app-server.
    fn check_state_is_writable(&mut self) -> Result<(), Refusal> {
        let phase = self.phase();
        self.write_state(phase).map_err(|error| {
            let path = self.home.supervisor_state();
            let message = format!("failed to write the supervisor state to {}: {error}", path.display());
            Refusal { message, errno: error.raw_os_error() }
        })
    }

    /// Checks that the control socket is open, or can be opened once the app-server that holds it has exited.
    fn can_open_control_listener(&mut self) -> Result<(), Refusal> {
        let held = self.table.iter().filter_map(|managed| managed.server.as_ref());
        let held_by_a_server = held
            .clone()
            .any(|server| server.program.socket.is_none() && Some(server.process.pid) != self.gateway_pid());
        if held_by_a_server {
            return Ok(());
        }
        self.open_control_listener().map_err(|error| {
            let path = self.home.control_socket();
            let message = format!("failed to listen on {}: {error}", path.display());
            Refusal { message, errno: error.raw_os_error() }
        })
    }

    fn succeed(&mut self, from: ClientId, program: LaunchSpec) -> Result<(), Refusal> {
        if !self.machine.can_be_succeeded() {
            return Err(Refusal::new(
                "no app-server runs behind a gateway, so no successor can be started beside it",
            ));
        }
        self.check_state_is_writable()?;
        let actions = self.step(Event::SuccessionRequested);
        if let Some(name) = self.machine.successor() {
            let managed = ManagedProcess {
                wanted_by: Some(from),
                role: Some(Role::Successor),
                ..ManagedProcess::new(name, program)
            };
            self.table.push(managed);
        }
        self.act(actions);
        Ok(())
    }

    fn promote(&mut self, generation: &str, gateway: Option<LaunchSpec>) -> Result<(), Refusal> {
        let successor =
            self.machine.successor().filter(|&name| self.name_of_generation(generation) == Some(name));
        let lives = successor.and_then(|name| self.machine.supervision(name)).map(|found| found.phase());
        if !matches!(lives, Some(Phase::Running { .. })) {
            return Err(Refusal::new(format!("no successor with the generation id {generation} runs")));
        }
        // The record first: if this supervisor is killed in between, the recorded app-server is the current one.
        if let Some(name) = successor {
            self.record(name);
        }
        self.set_gateway(gateway);
        self.feed(Event::PromotionRequested);
        for managed in &mut self.table {
            managed.wanted_by = None;
        }
        Ok(())
    }

    fn subscribe(&mut self, from: ClientId, moves: bool) {
        let handed = self.clients.become_gateway(from, moves);
        if let Some(handed) = handed {
            match &self.control_listener {
                None => self.control_listener = ControlListener::from_gateway(&self.home, handed),
                Some(control_listener) if control_listener.is_not(&handed) => {
                    self.unreachable_gateway = self.clients.pid(from);
                    self.replace_unreachable_gateway();
                }
                Some(_) => {}
            }
        }
        self.publish_changes();
    }
}
