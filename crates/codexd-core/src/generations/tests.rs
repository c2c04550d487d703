//! The promises about generations, over hand-written histories and 100,000 random ones.

use std::collections::HashMap;

use proptest::prelude::*;

use super::{Action, Event, Generations, Name, Role, Standing};
use crate::clock::Monotonic;
use crate::launch_spec::{DrainSignal, StopPolicy};
use crate::supervise::{self, Phase, Then};

const TERM: StopPolicy = StopPolicy { signal: DrainSignal::Terminate, grace_ms: Some(60_000) };
const HUP: StopPolicy = StopPolicy { signal: DrainSignal::Hangup, grace_ms: None };

/// A machine in which the actions are carried out.
struct World {
    machine: Generations,
    now: Monotonic,
    alive: HashMap<Name, bool>,
    outgoing: Vec<Name>,
    stop_wanted: bool,
    /// Whether the next start succeeds.
    spawns: bool,
    /// A process is started by a service manager, which answers later.
    is_asynchronous: bool,
    launching: Vec<Name>,
    /// Killed, and the end not told yet.
    killed: Vec<Name>,
    left: bool,
}

impl World {
    fn new() -> Self {
        Self {
            machine: Generations::new(7),
            now: Monotonic(0),
            alive: HashMap::new(),
            outgoing: Vec::new(),
            stop_wanted: false,
            spawns: true,
            is_asynchronous: false,
            launching: Vec::new(),
            killed: Vec::new(),
            left: false,
        }
    }

    fn started(gateway: bool) -> Self {
        let mut world = World::new();
        world.step(Event::StartRequested { gateway });
        world
    }

    /// A current generation and its successor.
    fn succeeded() -> (Self, Name, Name) {
        let mut world = World::started(true);
        let first = world.machine.current();
        world.step(Event::SuccessionRequested);
        let second = world.machine.successor().expect("a successor");
        (world, first, second)
    }

    fn lives(&self, name: Name) -> bool {
        self.alive.get(&name).copied().unwrap_or_default()
    }

    /// Whether it lives or is about to.
    fn exists(&self, name: Name) -> bool {
        self.lives(name) || self.launching.contains(&name)
    }

    /// The launch, if there is one, ends.
    fn end_launch(&mut self, name: Name, spawns: bool) {
        let Some(at) = self.launching.iter().position(|&launching| launching == name) else { return };
        self.launching.remove(at);
        self.alive.insert(name, spawns);
        let event = if spawns { supervise::Event::Spawned } else { supervise::Event::SpawnFailed };
        self.step(Event::Of(name, event));
    }

    fn step(&mut self, event: Event) {
        for action in self.machine.step(event, self.now) {
            self.carry_out(action);
        }
        self.check();
    }

    fn end(&mut self, name: Name) {
        if self.lives(name) {
            self.alive.insert(name, false);
            self.step(Event::Of(name, supervise::Event::Exited));
        }
    }

    fn carry_out(&mut self, action: Action) {
        assert!(!self.left, "nothing is done after the end");
        match action {
            Action::Of(name, supervise::Action::Spawn) => self.spawn(name),
            Action::Of(name, supervise::Action::Signal(_) | supervise::Action::Remind) => {
                assert!(self.lives(name), "only the living are signalled: {name:?}");
            }
            Action::Of(name, supervise::Action::KillAll) => self.killed.push(name),
            Action::Of(name, supervise::Action::CancelLaunch) => {
                assert!(self.launching.contains(&name), "there is a launch to cancel: {name:?}");
            }
            Action::Of(_, supervise::Action::Leave) => panic!("that is the machine's own to say"),
            Action::Of(..) => {}
            Action::Drop(name) => {
                assert!(!self.exists(name), "{name:?} is dropped alive");
                assert_eq!(self.machine.role(name), None);
            }
            Action::Leave => {
                assert!(self.alive.values().all(|&alive| !alive), "no orphan: {:?}", self.alive);
                assert!(self.launching.is_empty(), "no orphan is on its way: {:?}", self.launching);
                self.left = true;
            }
        }
    }

    fn spawn(&mut self, name: Name) {
        assert!(!self.exists(name), "{name:?} lives already");
        // While a server drains its clients need the gateway; one on its way is not ended yet.
        let has_server = self.alive.values().any(|&alive| alive) || !self.launching.is_empty();
        let drains = name == Name::Gateway && has_server;
        assert!(!self.stop_wanted || drains, "nothing starts after a stop");
        assert!(!self.outgoing.contains(&name), "an outgoing one is never started");
        if name == self.machine.current() && !self.machine.gateway_wanted() {
            assert!(!self.exists(Name::Gateway), "the control socket is the server's own");
        }
        if self.is_asynchronous {
            self.launching.push(name);
            return self.step(Event::Of(name, supervise::Event::Launching));
        }
        self.alive.insert(name, self.spawns);
        let event = if self.spawns { supervise::Event::Spawned } else { supervise::Event::SpawnFailed };
        self.spawns = true;
        self.step(Event::Of(name, event));
    }

    fn check(&mut self) {
        let roles: Vec<(Name, Role)> =
            self.machine.managed.iter().map(|managed| (managed.name, managed.role)).collect();
        let count = |wanted| roles.iter().filter(|(_, role)| *role == wanted).count();
        assert!(count(Role::Current) == 1 && roles[0].1 == Role::Current, "{roles:?}");
        assert!(count(Role::Successor) <= 1, "{roles:?}");
        for (name, role) in roles {
            if role == Role::Outgoing && !self.outgoing.contains(&name) {
                self.outgoing.push(name);
            }
        }
    }

    /// Enough time goes by for every deadline there is.
    fn let_time_pass(&mut self) {
        for _ in 0..64 {
            for (nth, name) in self.launching.clone().into_iter().enumerate() {
                self.end_launch(name, nth.is_multiple_of(2));
            }
            let Some(due) = self.machine.deadline().filter(|_| !self.left) else { return };
            self.now = due.max(self.now);
            self.step(Event::Ticked);
            for name in std::mem::take(&mut self.killed) {
                self.end(name);
            }
        }
    }
}

#[test]
fn the_gateway_comes_with_the_server_and_goes_after_it() {
    let mut world = World::started(true);
    let server = world.machine.current();
    assert!(world.lives(server) && world.lives(Name::Gateway));
    world.step(Event::StopRequested(TERM));
    assert_eq!(world.machine.standing(), Standing::Stopping(Then::Leave));
    world.end(server);
    assert!(!world.left && matches!(world.machine.standing(), Standing::Stopping(_)), "the gateway is left");
    world.end(Name::Gateway);
    assert!(world.left);
}

#[test]
fn a_gateway_that_dies_is_back_at_once_and_one_that_will_not_leave_is_killed() {
    let mut world = World::started(true);
    world.end(Name::Gateway);
    assert!(world.lives(Name::Gateway));
    world.step(Event::StopRequested(TERM));
    world.end(world.machine.current());
    let asked = world.now;
    world.let_time_pass();
    assert!(world.left && world.now.since_ms(asked) <= 2_000, "TERM, two seconds, KILL");
}

#[test]
fn a_successor_that_dies_changes_nothing() {
    let (mut world, first, second) = World::succeeded();
    assert!(world.lives(first) && world.lives(second));
    world.end(second);
    assert_eq!((world.machine.current(), world.machine.successor()), (first, None));
    assert!(world.lives(first) && !world.lives(second), "it is not started again");
    assert_eq!(world.machine.supervision(first).expect("kept").restarts(), 0);
}

#[test]
fn a_successor_that_never_answers_is_withdrawn_within_a_second() {
    let (mut world, first, second) = World::succeeded();
    world.step(Event::WithdrawalRequested);
    world.let_time_pass();
    assert!(world.lives(first) && !world.lives(second) && world.now <= Monotonic(1_000), "{:?}", world.now);
}

#[test]
fn the_promoted_one_is_missed_and_the_outgoing_one_is_not() {
    let (mut world, first, second) = World::succeeded();
    world.step(Event::PromotionRequested);
    assert_eq!((world.machine.current(), world.machine.role(first)), (second, Some(Role::Outgoing)));
    world.end(second);
    assert!(world.lives(second), "started again");
    world.end(first);
    assert!(!world.lives(first) && world.machine.role(first).is_none());
}

#[test]
fn only_an_outgoing_one_is_retired() {
    let (mut world, first, second) = World::succeeded();
    for name in [first, second, Name::Gateway] {
        world.step(Event::RetirementRequested(name));
        let phase = world.machine.supervision(name).expect("kept").phase();
        assert!(matches!(phase, Phase::Running { .. }), "{name:?}");
    }
    world.step(Event::PromotionRequested);
    world.step(Event::RetirementRequested(first));
    let phase = world.machine.supervision(first).expect("kept").phase();
    assert!(matches!(phase, Phase::Stopping { then: Then::Leave, .. }));
}

#[test]
fn a_replacement_waits_until_all_others_have_left() {
    let (mut world, first, second) = World::succeeded();
    world.step(Event::PromotionRequested);
    world.step(Event::ReplaceRequested { policy: HUP, gateway: true });
    world.end(second);
    assert!(!world.lives(second), "one of before lives");
    assert_eq!(world.machine.standing(), Standing::Waiting);
    world.end(first);
    assert!(world.lives(second));
}

#[test]
fn a_server_without_a_gateway_starts_when_the_gateway_is_gone_and_the_reverse() {
    let mut world = World::started(true);
    let server = world.machine.current();
    world.step(Event::ReplaceRequested { policy: TERM, gateway: false });
    world.end(server);
    assert!(!world.lives(server) && world.lives(Name::Gateway), "it is asked to leave first");
    world.end(Name::Gateway);
    assert!(world.lives(server) && !world.lives(Name::Gateway));
    world.step(Event::ReplaceRequested { policy: TERM, gateway: true });
    world.end(server);
    assert!(world.lives(server) && world.lives(Name::Gateway));
}

#[test]
fn a_stop_ends_a_server_and_a_gateway_that_are_being_launched() {
    let mut world = World::new();
    world.is_asynchronous = true;
    world.step(Event::StartRequested { gateway: true });
    let server = world.machine.current();
    assert_eq!((world.machine.standing(), &world.launching), (Standing::Launching, &vec![server]));
    world.step(Event::StartRequested { gateway: true });
    world.step(Event::SuccessionRequested);
    assert_eq!(world.launching, [server], "never two");
    world.end_launch(server, true);
    assert_eq!((world.machine.standing(), &world.launching), (Standing::Running, &vec![Name::Gateway]));
    world.step(Event::StopRequested(TERM));
    world.end(server);
    assert!(!world.left, "the gateway is still on its way");
    world.end_launch(Name::Gateway, true);
    world.end(Name::Gateway);
    assert!(world.left);
}

#[test]
fn a_successor_that_is_being_launched_can_be_withdrawn_and_not_promoted() {
    let mut world = World::started(true);
    world.is_asynchronous = true;
    world.step(Event::SuccessionRequested);
    let second = world.machine.successor().expect("a successor");
    world.step(Event::PromotionRequested);
    assert_eq!(world.machine.successor(), Some(second), "it does not live yet");
    world.step(Event::WithdrawalRequested);
    world.end_launch(second, false);
    assert_eq!((world.machine.successor(), world.machine.standing()), (None, Standing::Running));
}

/// What the outside may do at any moment.
fn happening() -> impl Strategy<Value = (u8, u64)> {
    (0u8..26, prop_oneof![0u64..5, 0u64..2_000, 0u64..120_000])
}

fn happen(world: &mut World, what: u8) {
    let managed: Vec<Name> = world.machine.names();
    match what {
        0 | 1 => {
            world.stop_wanted = false;
            world.step(Event::StartRequested { gateway: what == 0 });
        }
        2 => {
            world.stop_wanted = true;
            world.step(Event::StopRequested(TERM));
        }
        3..=5 => {
            world.stop_wanted = false;
            let policy = if what == 3 { HUP } else { TERM };
            world.step(Event::ReplaceRequested { policy, gateway: what != 5 });
        }
        6 | 7 => world.step(Event::SuccessionRequested),
        8 => world.step(Event::WithdrawalRequested),
        9 | 10 => world.step(Event::PromotionRequested),
        11 => managed.iter().for_each(|&name| world.step(Event::RetirementRequested(name))),
        12 => world.spawns = false,
        13 => world.end(Name::Gateway),
        14..=17 => world.end(managed[usize::from(what - 14) % managed.len()]),
        20 | 21 => world.is_asynchronous = what == 20,
        22..=24 => {
            if let Some(&name) = world.launching.last() {
                world.end_launch(name, what != 22);
            }
        }
        _ => world.step(Event::Ticked),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100_000, ..ProptestConfig::default() })]

    #[test]
    fn never_two_current_ones_never_an_orphan_and_a_stop_always_ends_everything(
        history in prop::collection::vec(happening(), 0..24)
    ) {
        let mut world = World::new();
        for (what, wait_ms) in history {
            world.now = world.now + wait_ms;
            happen(&mut world, what);
            if world.left {
                return Ok(());
            }
        }
        world.stop_wanted = true;
        world.step(Event::StopRequested(TERM));
        world.let_time_pass();
        prop_assert!(world.left, "{:?}", world.machine);
    }
}
