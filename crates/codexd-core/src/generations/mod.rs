//! Which generations of the app-server a supervisor keeps, and the gateway in front of them: a supervisor for each, and who may
//! start, succeed and leave when.
//!
//! [`Generations::step`] takes what happened and when, and answers what to do, in order. There is always exactly one current
//! generation, though it may have no process for a while; a successor and an outgoing one are never started again; when the
//! supervisor leaves, nothing of all this lives.

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::clock::Monotonic;
use crate::launch_spec::{DrainSignal, StopPolicy};
use crate::limits::{GATEWAY_STOP_GRACE_MS, SHUTDOWN_GRACE_SECONDS, WITHDRAW_GRACE_MS};
use crate::supervise::{self, Phase, Restart, Supervision, Then};

/// A managed process.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Name {
    /// A generation, by a number that no other one of this supervisor has. It stays its own over restarts after a crash.
    Generation(u64),
    /// The gateway.
    Gateway,
}

/// What a generation is for.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    /// It serves; it is missed when it ends.
    Current,
    /// It was started beside the current one and is not promoted yet.
    Successor,
    /// It serves what it holds. Its end is expected.
    Outgoing,
}

/// Where the current generation stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Standing {
    /// Nothing runs and nothing is due.
    Idle,
    /// A service manager was asked to start the process.
    Launching,
    /// A process lives.
    Running,
    /// The next attempt is due later, or when others have left.
    Waiting,
    /// It was asked to leave, or others are still to leave with it.
    Stopping(Then),
}

/// What can happen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Event {
    /// A server is wanted. A server that runs already keeps its gateway, or stays without one.
    StartRequested {
        /// Behind a gateway.
        gateway: bool,
    },
    /// Every process is to end, and a new server is wanted in their place.
    ReplaceRequested {
        /// How to end what runs.
        policy: StopPolicy,
        /// Behind a gateway.
        gateway: bool,
    },
    /// Every process is to end.
    StopRequested(StopPolicy),
    /// Another generation is wanted beside the current one.
    SuccessionRequested,
    /// The successor is no longer wanted.
    WithdrawalRequested,
    /// The successor answers: it is the current one from now on.
    PromotionRequested,
    /// An outgoing generation holds nothing any more.
    RetirementRequested(Name),
    /// A gateway is wanted for the server that runs.
    GatewayRequested,
    /// Something happened to one of them.
    Of(Name, supervise::Event),
    /// Time went by.
    Ticked,
}

/// What to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// Something with one of them; never [`supervise::Action::Leave`].
    Of(Name, supervise::Action),
    /// Nothing of this generation lives any more: forget it.
    Drop(Name),
    /// Nothing is left to manage.
    Leave,
}

/// A generation and its supervisor.
#[derive(Clone, Debug)]
struct ManagedProcess {
    name: Name,
    role: Role,
    supervision: Supervision,
}

/// The machine.
#[derive(Clone, Debug)]
pub struct Generations {
    seed: u64,
    next: u64,
    /// The current one stands first.
    managed: Vec<ManagedProcess>,
    gateway: Supervision,
    /// Whether the current generation is, or is to be, behind a gateway.
    gateway_wanted: bool,
    /// Its start was asked for and what came of it is not told yet.
    gateway_due: bool,
    /// The next process of the current generation may not start beside any other.
    alone: bool,
    /// That process is due, and waits for others to leave.
    held: bool,
    leaving: bool,
}

impl Generations {
    /// No process is managed yet. `seed` drives the jitter.
    pub fn new(seed: u64) -> Self {
        let mut gateway = Supervision::new(seed ^ 1);
        gateway.set_second_signal_grace_ms(0);
        let current = ManagedProcess {
            name: Name::Generation(0),
            role: Role::Current,
            supervision: Supervision::new(seed),
        };
        Self {
            seed,
            next: 1,
            managed: vec![current],
            gateway,
            gateway_wanted: false,
            gateway_due: false,
            alone: false,
            held: false,
            leaving: false,
        }
    }

    /// The current generation, whether or not it has a process.
    pub fn current(&self) -> Name {
        self.managed[0].name
    }

    /// The generation that was started to succeed the current one.
    pub fn successor(&self) -> Option<Name> {
        self.managed.iter().find(|managed| managed.role == Role::Successor).map(|managed| managed.name)
    }

    /// What a generation is for; `None` for the gateway and for one that is gone.
    pub fn role(&self, name: Name) -> Option<Role> {
        self.managed.iter().find(|managed| managed.name == name).map(|managed| managed.role)
    }

    /// The supervisor of one of them.
    pub fn supervision(&self, name: Name) -> Option<&Supervision> {
        match name {
            Name::Gateway => Some(&self.gateway),
            name => {
                self.managed.iter().find(|managed| managed.name == name).map(|managed| &managed.supervision)
            }
        }
    }

    /// Where the current generation stands.
    pub fn standing(&self) -> Standing {
        match self.managed[0].supervision.phase() {
            Phase::Running { .. } => Standing::Running,
            Phase::Stopping { then, .. } => Standing::Stopping(then),
            Phase::Launching { stop: Some(stop) } => Standing::Stopping(stop.then),
            Phase::Launching { stop: None } => Standing::Launching,
            _ if self.held => Standing::Waiting,
            Phase::Waiting { .. } => Standing::Waiting,
            Phase::Idle if self.leaving => Standing::Stopping(Then::Leave),
            Phase::Idle => Standing::Idle,
        }
    }

    /// Whether a successor may be started: the current one runs behind a gateway, and none is on its way.
    pub fn can_be_succeeded(&self) -> bool {
        self.standing() == Standing::Running && self.gateway_wanted && self.successor().is_none()
    }

    /// Whether the current generation is, or is to be, behind a gateway.
    pub fn gateway_wanted(&self) -> bool {
        self.gateway_wanted
    }

    /// When [`Event::Ticked`] is due; `None` when only the outside can change anything.
    pub fn deadline(&self) -> Option<Monotonic> {
        let all = self.managed.iter().map(|managed| &managed.supervision).chain([&self.gateway]);
        all.filter_map(Supervision::deadline).min()
    }

    /// Makes room for a living process beside the current one that was found. Answer with [`supervise::Event::Adopted`].
    pub fn inherit(&mut self, role: Role) -> Name {
        let name = Name::Generation(self.next);
        self.next += 1;
        let mut supervision = Supervision::new(self.seed.wrapping_add(self.next));
        supervision.set_restart(Restart::Never);
        self.managed.push(ManagedProcess { name, role, supervision });
        name
    }

    /// Takes one event at `now` and answers what to do, in order.
    pub fn step(&mut self, event: Event, now: Monotonic) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::StartRequested { gateway } => self.start_requested(gateway, now, &mut actions),
            Event::ReplaceRequested { policy, gateway } => {
                (self.leaving, self.alone, self.gateway_wanted) = (false, true, gateway);
                self.end_all(policy, Then::StartAgain, now, &mut actions);
            }
            Event::StopRequested(policy) => {
                (self.leaving, self.held) = (true, false);
                self.end_all(policy, Then::Leave, now, &mut actions);
            }
            Event::SuccessionRequested if self.can_be_succeeded() => {
                let name = self.inherit(Role::Successor);
                self.feed(name, supervise::Event::StartRequested, now, &mut actions);
            }
            Event::WithdrawalRequested => self.withdraw(now, &mut actions),
            Event::PromotionRequested => self.promote(now, &mut actions),
            Event::RetirementRequested(name) if self.role(name) == Some(Role::Outgoing) => {
                let policy = drain(SHUTDOWN_GRACE_SECONDS * 1_000);
                let stop = supervise::Event::StopRequested(policy, Then::Leave);
                self.feed(name, stop, now, &mut actions);
            }
            Event::SuccessionRequested | Event::RetirementRequested(_) => {}
            Event::GatewayRequested => {
                self.gateway_wanted = true;
                self.feed(Name::Gateway, supervise::Event::StartRequested, now, &mut actions);
            }
            Event::Of(name, event) => {
                self.gateway_wanted |= name == Name::Gateway && event == supervise::Event::Adopted;
                self.feed(name, event, now, &mut actions);
                // The server first: it takes longest to come up.
                let runs = self.standing() == Standing::Running;
                if name == self.current() && event == supervise::Event::Spawned && runs && self.gateway_wanted
                {
                    self.feed(Name::Gateway, supervise::Event::StartRequested, now, &mut actions);
                }
            }
            Event::Ticked => {
                for name in self.names() {
                    self.feed(name, supervise::Event::Ticked, now, &mut actions);
                }
            }
        }
        self.settle(now, &mut actions);
        actions
    }

    fn names(&self) -> Vec<Name> {
        self.managed.iter().map(|managed| managed.name).chain([Name::Gateway]).collect()
    }

    fn start_requested(&mut self, gateway: bool, now: Monotonic, actions: &mut Vec<Action>) {
        self.leaving = false;
        if self.standing() != Standing::Running {
            self.gateway_wanted = gateway;
        }
        self.feed(self.current(), supervise::Event::StartRequested, now, actions);
    }

    /// Ends every generation; the current one last, so that what it does next finds the others asked already.
    fn end_all(&mut self, policy: StopPolicy, then: Then, now: Monotonic, actions: &mut Vec<Action>) {
        let others: Vec<Name> = self.managed.iter().skip(1).map(|managed| managed.name).collect();
        for name in others {
            self.feed(name, supervise::Event::StopRequested(policy, Then::Leave), now, actions);
        }
        self.feed(self.current(), supervise::Event::StopRequested(policy, then), now, actions);
    }

    fn withdraw(&mut self, now: Monotonic, actions: &mut Vec<Action>) {
        let Some(successor) = self.managed.iter_mut().find(|managed| managed.role == Role::Successor) else {
            return;
        };
        successor.supervision.set_second_signal_grace_ms(WITHDRAW_GRACE_MS);
        let name = successor.name;
        let stop = supervise::Event::StopRequested(drain(WITHDRAW_GRACE_MS), Then::Leave);
        self.feed(name, stop, now, actions);
    }

    fn promote(&mut self, now: Monotonic, actions: &mut Vec<Action>) {
        let lives = |managed: &ManagedProcess| matches!(managed.supervision.phase(), Phase::Running { .. });
        let Some(at) =
            self.managed.iter().position(|managed| managed.role == Role::Successor && lives(managed))
        else {
            return;
        };
        (self.alone, self.held) = (false, false);
        self.managed.swap(0, at);
        self.managed[0].role = Role::Current;
        self.managed[0].supervision.set_restart(Restart::Always);
        let old = &mut self.managed[at];
        old.role = Role::Outgoing;
        old.supervision.set_restart(Restart::Never);
        if !lives(old) {
            // It was about to be started again, or on its way out: now it only leaves.
            let name = old.name;
            let policy = StopPolicy { signal: DrainSignal::Terminate, grace_ms: None };
            self.feed(name, supervise::Event::StopRequested(policy, Then::Leave), now, actions);
        }
    }

    fn feed(&mut self, name: Name, event: supervise::Event, now: Monotonic, actions: &mut Vec<Action>) {
        let supervision = match name {
            Name::Gateway => Some(&mut self.gateway),
            name => self
                .managed
                .iter_mut()
                .find(|managed| managed.name == name)
                .map(|managed| &mut managed.supervision),
        };
        let Some(supervision) = supervision else { return };
        use supervise::Event::{Adopted, ProgramMissing, SpawnFailed, Spawned};
        let reported = matches!(event, Spawned | SpawnFailed | ProgramMissing | Adopted);
        self.gateway_due &= name != Name::Gateway || !reported;
        for action in supervision.step(event, now) {
            match action {
                supervise::Action::Spawn if name == self.current() => self.start_current(now, actions),
                supervise::Action::Spawn if name == Name::Gateway && self.gateway_due => {}
                supervise::Action::Leave if name == self.current() || name == Name::Gateway => {}
                supervise::Action::Leave => {
                    self.managed.retain(|managed| managed.name != name);
                    actions.push(Action::Drop(name));
                }
                action => {
                    self.gateway_due |= name == Name::Gateway && action == supervise::Action::Spawn;
                    actions.push(Action::Of(name, action));
                }
            }
        }
    }

    /// The process of the current generation is due: now, or when those who may not live beside it have left.
    fn start_current(&mut self, now: Monotonic, actions: &mut Vec<Action>) {
        self.held = true;
        if !self.gateway_wanted && self.gateway.phase() != Phase::Idle {
            // The server makes the control socket itself.
            self.end_gateway(now, actions);
        }
        let beside = self.alone && self.managed.len() > 1;
        if beside || (!self.gateway_wanted && self.gateway.phase() != Phase::Idle) {
            return;
        }
        (self.held, self.alone) = (false, false);
        actions.push(Action::Of(self.current(), supervise::Action::Spawn));
    }

    fn end_gateway(&mut self, now: Monotonic, actions: &mut Vec<Action>) {
        let leaves = match self.gateway.phase() {
            Phase::Stopping { then, .. } => then == Then::Leave,
            Phase::Launching { stop } => stop.is_some_and(|stop| stop.then == Then::Leave),
            _ => false,
        };
        if !leaves {
            let stop = supervise::Event::StopRequested(drain(GATEWAY_STOP_GRACE_MS), Then::Leave);
            self.feed(Name::Gateway, stop, now, actions);
        }
    }

    /// What follows once others have left.
    fn settle(&mut self, now: Monotonic, actions: &mut Vec<Action>) {
        if self.held {
            self.start_current(now, actions);
        }
        if self.leaving && self.managed.len() == 1 && self.managed[0].supervision.phase() == Phase::Idle {
            self.leave(now, actions);
        }
    }

    /// The clients are let go when no generation is left to serve them.
    fn leave(&mut self, now: Monotonic, actions: &mut Vec<Action>) {
        if self.gateway.phase() != Phase::Idle {
            self.end_gateway(now, actions);
        }
        if self.gateway.phase() == Phase::Idle {
            actions.push(Action::Leave);
        }
    }
}

fn drain(grace_ms: u64) -> StopPolicy {
    StopPolicy { signal: DrainSignal::Terminate, grace_ms: Some(grace_ms) }
}
