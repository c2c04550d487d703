//! What the supervisor does when it is told to.

use codexd_core::generations::{Event, Name, Role, Standing};
use codexd_core::program::Program;
use codexd_core::supervise::Phase;

use super::clients::ClientId;
use super::door::Door;
use super::kept::Kept;
use super::run::Supervisor;
use super::wire::{Order, Refusal, ReplyStatus, Report};
use crate::clock;

impl Supervisor {
    /// Takes in what was sent on one connection.
    pub(super) fn hear(&mut self, index: usize) {
        let Some(heard) = self.clients.hear(index) else { return };
        for (id, order) in heard.orders {
            self.obey(heard.from, id, *order);
        }
        if heard.left {
            self.clients.remove(heard.from);
            // Nobody is left to tell whether it answers.
            let wanted = self.machine.successor().and_then(|name| self.kept(name)?.wanted_by);
            if wanted == Some(heard.from) {
                self.feed(Event::WithdrawalRequested);
            }
            self.tell_changes();
            // What follows is a long sleep.
            if self.clients.no_command_is_here() {
                crate::resident::give_back_used_code();
            }
        }
        self.leave_if_forgotten();
    }

    fn obey(&mut self, from: ClientId, id: Option<u64>, order: Order) {
        let changes = order.is_of_a_command();
        self.clients.reply(from, id, ReplyStatus::Progress);
        let outcome = match changes {
            true => self.change(from, order),
            false => self.serve(from, order),
        };
        self.clients.reply(from, id, outcome.map_or_else(ReplyStatus::Refused, |()| ReplyStatus::Ok));
        if changes && id.is_none() && !self.left {
            // An older program takes it for the answer.
            let standing = self.standing();
            self.clients.tell_one(from, &standing);
        }
    }

    /// Orders that change nothing about who runs.
    fn serve(&mut self, from: ClientId, order: Order) -> Result<(), Refusal> {
        match order {
            Order::GetLaunchSpec => {
                let program = self.kept(self.machine.current()).map(|kept| Box::new(kept.program.clone()));
                self.clients.tell_one(from, &Report::LaunchSpec { program });
            }
            Order::ConfigureGateway { gateway } => {
                let args = gateway.args.clone();
                self.set_gateway(Some(*gateway));
                self.clients.tell_the_gateway(&Report::ConfigureGateway { args });
            }
            Order::Subscribe { moves, knows_thread_settings } => {
                self.thread_settings.are_given |= knows_thread_settings;
                self.subscribe(from, moves);
            }
            Order::Relay { value } => self.clients.tell_others(from, &Report::Relayed { value }),
            Order::Retire { generation } => {
                if let Some(name) = self.marked(&generation) {
                    self.feed(Event::RetirementRequested(name));
                }
            }
            Order::StoreThreadSettings { thread, settings } => {
                self.store_thread_settings(from, thread, settings);
            }
            Order::SendThreadSettings { after } => self.send_thread_settings(from, after.as_deref()),
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
        if let Order::Adopt { process, codexd, gateway } = order {
            return self.adopt(process, codexd, gateway.map(|gateway| *gateway));
        }
        self.inherit(None);
        match order {
            Order::Start { program, gateway } => self.start(*program, gateway.map(|gateway| *gateway))?,
            Order::Replace { program, policy, gateway } => {
                // Before the old server is touched.
                self.may_begin()?;
                let fronted = gateway.is_some();
                self.set_program(self.machine.current(), *program);
                self.set_gateway(gateway.map(|gateway| *gateway));
                self.feed(Event::ReplaceRequested { policy, gateway: fronted });
            }
            Order::Stop { policy, failed } => {
                self.give_up = failed;
                self.feed(Event::StopRequested(policy));
            }
            Order::Succeed { program } => self.succeed(from, *program)?,
            Order::Withdraw { generation } => {
                if self.marked(&generation).is_some_and(|name| self.machine.successor() == Some(name)) {
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
            | Order::AnnounceOrder { .. }
            | Order::Relay { .. } => {}
        }
        Ok(())
    }

    fn start(&mut self, program: Program, gateway: Option<Program>) -> Result<(), Refusal> {
        let runs = self.machine.standing() == Standing::Running;
        let fronted = gateway.is_some();
        if !runs {
            self.may_begin()?;
            if fronted {
                self.can_open_the_door()?;
            }
            self.set_program(self.machine.current(), program);
            self.set_gateway(gateway);
        }
        self.feed(Event::StartRequested { gateway: fronted });
        Ok(())
    }

    pub(super) fn set_gateway(&mut self, program: Option<Program>) {
        if let Some(program) = program {
            self.set_program(Name::Gateway, program);
        }
    }

    /// Whether the state can be written down, without which a new server could not be found again.
    fn may_begin(&mut self) -> Result<(), Refusal> {
        let phase = self.phase();
        self.write_down(phase).map_err(|error| {
            let path = self.home.supervisor_state();
            let message = format!("the state cannot be kept in {}: {error}", path.display());
            Refusal { message, errno: error.raw_os_error() }
        })
    }

    /// Whether the listening socket is there, or can be once a server that has it now is gone.
    fn can_open_the_door(&mut self) -> Result<(), Refusal> {
        let held = self.table.iter().filter_map(|kept| kept.server.as_ref());
        let held_by_a_server = held
            .clone()
            .any(|server| server.program.socket.is_none() && Some(server.process.pid) != self.gateway_pid());
        if held_by_a_server {
            return Ok(());
        }
        self.open_the_door().map_err(|error| {
            let path = self.home.control_socket();
            let message = format!("failed to listen on {}: {error}", path.display());
            Refusal { message, errno: error.raw_os_error() }
        })
    }

    fn succeed(&mut self, from: ClientId, program: Program) -> Result<(), Refusal> {
        if !self.machine.may_be_succeeded() {
            return Err(Refusal::new(
                "no server runs behind a gateway that another one could be started beside",
            ));
        }
        self.may_begin()?;
        let actions = self.step(Event::SuccessionRequested);
        if let Some(name) = self.machine.successor() {
            let kept =
                Kept { wanted_by: Some(from), role: Some(Role::Successor), ..Kept::new(name, program) };
            self.table.push(kept);
        }
        self.act(actions);
        Ok(())
    }

    fn promote(&mut self, generation: &str, gateway: Option<Program>) -> Result<(), Refusal> {
        let successor = self.machine.successor().filter(|&name| self.marked(generation) == Some(name));
        let lives = successor.and_then(|name| self.machine.supervision(name)).map(|found| found.phase());
        if !matches!(lives, Some(Phase::Running { .. })) {
            return Err(Refusal::new(format!("no successor {generation} lives")));
        }
        // The record first: whom it names is the current one, should this supervisor be killed in between.
        if let Some(name) = successor {
            self.record(name);
        }
        self.set_gateway(gateway);
        self.feed(Event::PromotionRequested);
        for kept in &mut self.table {
            kept.wanted_by = None;
        }
        Ok(())
    }

    fn subscribe(&mut self, from: ClientId, moves: bool) {
        let handed = self.clients.is_gateway(from, moves);
        if self.door.is_none()
            && let Some(handed) = handed
        {
            self.door = Door::take_back(&self.home, handed);
        }
        self.tell_changes();
    }
}
