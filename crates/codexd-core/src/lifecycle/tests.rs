//! A small world in which the steps are carried out: from every state, every command reaches its goal and stays there.

use proptest::prelude::*;

use super::{
    Command, Gone, ListenerSeen, Observation, Progress, Recorded, Refusal, Repair, Step, SupervisorSeen,
    decide,
};
use crate::contract::LifecycleStatus;
use crate::identity::Pid;
use crate::limits::STEPS_MAX;
use crate::record::RecordDefect;
use crate::supervise::Then;

const OURS: Pid = Pid(100);
const FOREIGN: Pid = Pid(200);

const GATEWAY: Pid = Pid(300);

/// A machine: at most one current server of ours, perhaps behind a gateway and with one beside it, and at most one of
/// another process.
#[derive(Clone, Debug)]
struct World {
    record: Recorded,
    server: Option<Server>,
    supervisor: Supervisor,
    foreign: Foreign,
    left_over: bool,
    orphaned: bool,
    /// The gateway that holds the control socket, if one lives.
    gateway: bool,
    /// A server beside the current one lives: an outgoing one, or a successor that was not promoted.
    other: bool,
    /// What the commands want: a gateway in front of what they start.
    wanted: bool,
    /// Whether generations may overlap.
    may_overlap: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Server {
    answers: bool,
    /// It listens on a socket of its own.
    behind_gateway: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Supervisor {
    Absent,
    Unresponsive,
    Idle,
    Keeping,
    Waiting,
    Stopping(Then),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Foreign {
    None,
    Answering,
    Unresponsive,
}

impl World {
    fn observe(&self) -> Observation {
        let supervisor = match self.supervisor {
            Supervisor::Absent => SupervisorSeen::Absent,
            Supervisor::Unresponsive => SupervisorSeen::Unresponsive(None),
            Supervisor::Idle => SupervisorSeen::Idle,
            Supervisor::Keeping => SupervisorSeen::Keeping(OURS),
            Supervisor::Waiting => SupervisorSeen::Waiting,
            Supervisor::Stopping(then) => SupervisorSeen::Stopping(then),
        };
        let listener = match (self.foreign, self.server) {
            (Foreign::Answering, _) => ListenerSeen::Answering { pid: Some(FOREIGN), ours: false },
            (Foreign::Unresponsive, _) => ListenerSeen::Unresponsive { pid: Some(FOREIGN), ours: false },
            (_, Some(Server { answers: true, behind_gateway: true, .. })) if self.gateway => {
                ListenerSeen::Answering { pid: Some(GATEWAY), ours: true }
            }
            (_, Some(Server { answers: true, behind_gateway: false, .. })) => {
                ListenerSeen::Answering { pid: Some(OURS), ours: true }
            }
            (_, Some(Server { answers: false, behind_gateway: false, .. })) => {
                ListenerSeen::Unresponsive { pid: Some(OURS), ours: true }
            }
            _ if self.gateway => ListenerSeen::Unresponsive { pid: Some(GATEWAY), ours: true },
            _ if self.left_over => ListenerSeen::Stale,
            _ => ListenerSeen::Nothing,
        };
        let record = if self.server.is_some() { Recorded::Alive(OURS) } else { self.record.clone() };
        let orphaned = self.orphaned && self.server.is_none() && self.supervisor == Supervisor::Absent;
        let beside = (self.gateway || self.other) && self.supervisor == Supervisor::Absent;
        let behind_gateway =
            self.server.is_some_and(|server| server.behind_gateway) && self.gateway && self.wanted;
        let overlap = self.may_overlap && behind_gateway && self.supervisor == Supervisor::Keeping;
        Observation { record, supervisor, listener, orphaned, beside, overlap }
    }

    fn act(&mut self, step: &Step, progress: &mut Progress) {
        match step {
            Step::Repair(Repair::Record(_)) => self.record = Recorded::Absent,
            Step::Repair(Repair::Socket) => self.left_over = false,
            Step::Repair(Repair::UnresponsiveSupervisor(_)) => self.supervisor = Supervisor::Absent,
            Step::Repair(Repair::Orphaned) => self.orphaned = false,
            Step::AdoptRecorded => {
                assert!(self.server.is_some(), "only a living server is adopted");
                self.supervisor = Supervisor::Keeping;
                // The supervisor puts a gateway in front of it again.
                self.gateway = self.server.is_some_and(|server| server.behind_gateway);
                self.left_over &= !self.gateway;
            }
            Step::AdoptListener(pid) => {
                assert_eq!(*pid, FOREIGN);
                self.foreign = Foreign::None;
                self.server = Some(Server { answers: true, behind_gateway: false });
                self.supervisor = Supervisor::Keeping;
            }
            Step::Start => {
                if self.supervisor == Supervisor::Stopping(Then::Leave) {
                    self.supervisor = Supervisor::Stopping(Then::StartAgain);
                } else {
                    assert!(self.server.is_none(), "never two servers on one home");
                    self.spawn();
                }
                progress.started = true;
            }
            Step::Replace => {
                self.other = false;
                self.spawn();
                progress.restarted = true;
            }
            Step::Succeed => {
                assert!(self.may_overlap && self.gateway, "two at a time only where that may be");
                self.other = true;
                self.spawn();
                progress.restarted = true;
            }
            Step::Stop => {
                (self.gateway, self.other) = (false, false);
                progress.stopped |= self.server.is_some() || self.supervisor == Supervisor::Waiting;
                (self.server, self.supervisor, self.record) = (None, Supervisor::Absent, Recorded::Absent);
            }
            Step::AwaitReady => self.spawn(),
            Step::Finish { .. } | Step::Refuse(_) => {}
        }
    }

    fn spawn(&mut self) {
        assert_eq!(self.foreign, Foreign::None, "the control socket is held by another process");
        // One that is just coming up keeps the front that it has.
        let coming = self.server.filter(|server| !server.answers).map(|server| server.behind_gateway);
        let behind_gateway = coming.unwrap_or(self.wanted);
        self.server = Some(Server { answers: true, behind_gateway });
        self.gateway = behind_gateway;
        self.supervisor = Supervisor::Keeping;
        self.left_over = false;
    }

    fn run(&mut self, command: Command) -> Step {
        let mut progress = Progress::default();
        for _ in 0..STEPS_MAX {
            let step = decide(command, &self.observe(), progress);
            if matches!(step, Step::Finish { .. } | Step::Refuse(_)) {
                return step;
            }
            self.act(&step, &mut progress);
        }
        panic!("{command:?} does not come to an end in {self:?}");
    }
}

fn world() -> impl Strategy<Value = World> {
    let record = prop_oneof![
        Just(Recorded::Absent),
        Just(Recorded::Unusable(RecordDefect::Empty)),
        Just(Recorded::Unusable(RecordDefect::Garbage("x".into()))),
        Just(Recorded::Gone(Gone::Stale)),
        Just(Recorded::Gone(Gone::Reused)),
        Just(Recorded::Gone(Gone::Zombie)),
        Just(Recorded::Gone(Gone::Reboot)),
    ];
    let server = prop_oneof![
        Just(None),
        (any::<bool>(), any::<bool>())
            .prop_map(|(answers, behind_gateway)| Some(Server { answers, behind_gateway })),
    ];
    let front = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let foreign = prop_oneof![4 => Just(Foreign::None), 1 => Just(Foreign::Answering), 1 => Just(Foreign::Unresponsive)];
    (record, server, 0u8..7, foreign, any::<bool>(), any::<bool>(), front).prop_map(
        |(
            record,
            server,
            supervisor,
            foreign,
            left_over,
            orphaned,
            (gateway, other, wanted, may_overlap),
        )| {
            let supervisor = match (supervisor, server.is_some()) {
                (0 | 1, _) => Supervisor::Absent,
                (2, _) => Supervisor::Unresponsive,
                (3, true) => Supervisor::Stopping(Then::Leave),
                (4, true) => Supervisor::Stopping(Then::StartAgain),
                (3, false) => Supervisor::Waiting,
                (4, false) => Supervisor::Idle,
                (_, true) => Supervisor::Keeping,
                (_, false) => Supervisor::Absent,
            };
            // Without a supervisor a gateway may be missing or be all there is; while one lives it is in front of its server.
            let unkept =
                matches!(supervisor, Supervisor::Absent | Supervisor::Unresponsive | Supervisor::Idle);
            let behind_gateway = server.is_some_and(|server| server.behind_gateway);
            let unfronted = server.is_some_and(|server| !server.behind_gateway);
            let gateway =
                if unkept { gateway && !unfronted } else { behind_gateway || (gateway && server.is_none()) };
            // Two cannot hold the control socket.
            let foreign = if gateway { Foreign::None } else { foreign };
            let other = other && !unfronted;
            World {
                record,
                server,
                supervisor,
                foreign,
                left_over,
                orphaned,
                gateway,
                other,
                wanted,
                may_overlap,
            }
        },
    )
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        Just(Command::Start { adopt: false }),
        Just(Command::Start { adopt: true }),
        Just(Command::Stop),
        Just(Command::Restart),
    ]
}

#[test]
fn a_supervisor_that_is_gone_with_its_order_is_replaced() {
    let seen = Observation {
        record: Recorded::Absent,
        supervisor: SupervisorSeen::Absent,
        listener: ListenerSeen::Nothing,
        orphaned: false,
        beside: false,
        overlap: false,
    };
    for (command, started) in [(Command::Start { adopt: false }, true), (Command::Restart, false)] {
        let progress = Progress { started, restarted: !started, stopped: false };
        assert_eq!(decide(command, &seen, progress), Step::Start);
        let told = Observation { supervisor: SupervisorSeen::Idle, ..seen.clone() };
        assert_eq!(decide(command, &told, progress), Step::AwaitReady, "it has not said yet what came of it");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100_000, ..ProptestConfig::default() })]

    #[test]
    fn every_command_reaches_its_goal_from_every_state(mut world in world(), commands in prop::collection::vec(command(), 1..6)) {
        for command in commands {
            let end = world.run(command);
            match (command, &end) {
                (_, Step::Refuse(Refusal::Unmanaged(_) | Refusal::Occupied(_))) => {
                    prop_assert_ne!(world.foreign, Foreign::None, "refused only because of another process");
                }
                (Command::Stop, Step::Finish { status, .. }) => {
                    prop_assert!(world.server.is_none() && world.supervisor == Supervisor::Absent);
                    prop_assert!(!world.orphaned && !world.gateway && !world.other, "no orphan");
                    prop_assert!(matches!(status, LifecycleStatus::Stopped | LifecycleStatus::NotRunning));
                }
                (_, Step::Finish { managed: true, .. }) => {
                    let server = world.server.expect("it runs");
                    prop_assert!(server.answers && world.supervisor == Supervisor::Keeping);
                    prop_assert_eq!(server.behind_gateway, world.gateway, "a gateway is there for those who need it");
                }
                (Command::Start { .. }, Step::Finish { managed: false, status }) => {
                    prop_assert_eq!(*status, LifecycleStatus::AlreadyRunning);
                    prop_assert_eq!(world.foreign, Foreign::Answering);
                }
                other => prop_assert!(false, "an unexpected end: {other:?}"),
            }
        }
    }

    #[test]
    fn a_command_run_twice_says_so_and_changes_nothing(mut world in world(), command in command()) {
        let first = world.run(command);
        let before = format!("{world:?}");
        let second = world.run(command);
        match (command, first, second) {
            (Command::Start { .. }, Step::Finish { managed, .. }, second) => prop_assert_eq!(
                second, Step::Finish { status: LifecycleStatus::AlreadyRunning, managed }),
            (Command::Stop, Step::Finish { .. }, second) if world.foreign != Foreign::None => {
                // Ours is gone; another process listens there now.
                let refusal = if world.foreign == Foreign::Unresponsive { Refusal::Occupied } else { Refusal::Unmanaged };
                prop_assert_eq!(second, Step::Refuse(refusal(Some(FOREIGN))));
            }
            (Command::Stop, Step::Finish { .. }, second) => prop_assert_eq!(
                second, Step::Finish { status: LifecycleStatus::NotRunning, managed: false }),
            (_, first, second) => prop_assert_eq!(first, second),
        }
        // A restart may leave the old one beside the new one.
        if command != Command::Restart {
            prop_assert_eq!(before, format!("{world:?}"));
        }
    }
}
