//! The promises of the supervisor, over hand-written histories and 100,000 random ones.

use proptest::prelude::*;

use super::{Action, Backoff, Event, Phase, StopStage, Supervision, Then};
use crate::clock::Monotonic;
use crate::launch_spec::{DrainSignal, StopPolicy};
use crate::limits::{BACKOFF_CEILING_MS, CRASH_LIMIT, STABLE_AFTER_MS};

const TERM: StopPolicy = StopPolicy { signal: DrainSignal::Terminate, grace_ms: Some(60_000) };

fn running() -> Supervision {
    let mut supervision = Supervision::new(1);
    assert_eq!(supervision.step(Event::StartRequested, Monotonic(0)), [Action::Spawn]);
    assert_eq!(supervision.step(Event::Spawned, Monotonic(1)), []);
    supervision
}

#[test]
fn the_first_crash_is_answered_at_once_and_the_next_a_tenth_of_a_second_after_that() {
    let mut supervision = running();
    assert_eq!(supervision.step(Event::Exited, Monotonic(1_000)), [Action::Spawn, Action::SweepOrphans]);
    supervision.step(Event::Spawned, Monotonic(1_001));
    assert_eq!(supervision.step(Event::Exited, Monotonic(1_011)), [Action::SweepOrphans]);
    let Phase::Waiting { until } = supervision.phase() else { panic!("it waits") };
    assert!((1_081..=1_101).contains(&until.0), "{until:?}");
    assert_eq!(supervision.step(Event::Ticked, until), [Action::Spawn]);
    assert_eq!(supervision.restarts(), 2);
}

#[test]
fn one_that_has_lived_for_longer_than_its_pause_is_started_again_at_once() {
    let mut supervision = running();
    let mut now = Monotonic(0);
    for nth in 1..=3 {
        now = now + Backoff::full_wait_ms(nth).max(1);
        let actions = supervision.step(Event::Exited, now);
        assert_eq!(actions, [Action::Spawn, Action::SweepOrphans], "crash {nth}");
        supervision.step(Event::Spawned, now);
    }
}

#[test]
fn in_a_loop_the_starts_are_half_a_minute_apart_however_long_one_has_lived() {
    let mut supervision = running();
    let mut now = Monotonic(0);
    for _ in 0..CRASH_LIMIT {
        now = now + 10_000;
        supervision.step(Event::Exited, now);
        supervision.step(Event::Spawned, now);
    }
    assert!(supervision.crash_looping());
    let started = now;
    assert_eq!(supervision.step(Event::Exited, started + 10_000), [Action::SweepOrphans]);
    let Phase::Waiting { until } = supervision.phase() else { panic!("it waits") };
    let apart = until.since_ms(started);
    assert!((BACKOFF_CEILING_MS * 4 / 5..=BACKOFF_CEILING_MS).contains(&apart), "{apart}");
}

#[test]
fn five_crashes_in_a_minute_are_a_loop_that_is_still_tried_at_the_ceiling() {
    let mut supervision = running();
    let mut now = Monotonic(0);
    let mut reported = 0;
    for _ in 0..CRASH_LIMIT + 3 {
        let actions = supervision.step(Event::Exited, now);
        reported += actions.iter().filter(|&&action| action == Action::ReportCrashLoop).count();
        if let Phase::Waiting { until } = supervision.phase() {
            now = until;
            supervision.step(Event::Ticked, now);
            supervision.step(Event::Spawned, now);
        }
    }
    assert!(supervision.crash_looping());
    assert_eq!(reported, 1, "said once, not at every crash");
    supervision.step(Event::Exited, now);
    let Phase::Waiting { until } = supervision.phase() else { panic!("still tried") };
    assert!(until.since_ms(now) >= BACKOFF_CEILING_MS * 4 / 5);
}

#[test]
fn a_program_that_is_missing_is_no_crash_and_is_started_when_it_appears() {
    let mut supervision = running();
    assert_eq!(supervision.step(Event::Exited, Monotonic(1_000)), [Action::Spawn, Action::SweepOrphans]);
    for nth in 0..2 * CRASH_LIMIT as u64 {
        assert_eq!(supervision.step(Event::ProgramMissing, Monotonic(1_001 + nth)), []);
        let Phase::Waiting { until } = supervision.phase() else { panic!("it waits") };
        assert_eq!(supervision.deadline(), Some(until));
    }
    assert_eq!((supervision.restarts(), supervision.crash_looping()), (1, false));
    assert_eq!(supervision.step(Event::ProgramAppeared, Monotonic(3_000)), [Action::Spawn]);
    supervision.step(Event::Spawned, Monotonic(3_001));
    assert_eq!(supervision.step(Event::ProgramAppeared, Monotonic(3_002)), [], "it runs already");
    supervision.step(Event::StopRequested(TERM, Then::Leave), Monotonic(3_003));
    assert_eq!(supervision.step(Event::ProgramAppeared, Monotonic(3_004)), []);
}

#[test]
fn a_stop_takes_the_grace_and_a_second_at_most() {
    let mut supervision = running();
    let policy = StopPolicy { grace_ms: Some(2_000), ..TERM };
    supervision.step(Event::StopRequested(policy, Then::Leave), Monotonic(0));
    let (mut now, mut actions) = (Monotonic(0), Vec::new());
    while actions != [Action::KillAll] {
        now = supervision.deadline().expect("a deadline");
        actions = supervision.step(Event::Ticked, now);
    }
    assert!((2_000..=2_900).contains(&now.0), "{now:?}");
}

#[test]
fn a_server_that_lives_a_minute_leaves_its_crashes_behind() {
    let mut supervision = running();
    for at in 0..CRASH_LIMIT as u64 {
        supervision.step(Event::Exited, Monotonic(at));
        supervision.step(Event::Spawned, Monotonic(at));
    }
    assert!(supervision.crash_looping());
    let settles = supervision.deadline().expect("it is looked at again");
    assert_eq!(settles.since_ms(Monotonic(CRASH_LIMIT as u64 - 1)), STABLE_AFTER_MS);
    supervision.step(Event::Ticked, settles);
    assert!(!supervision.crash_looping());
    assert_eq!(supervision.deadline(), None, "nothing left to wake up for");
}

/// Lets time go by until no reminder is due any more; answers how many there were.
fn remind_until_quiet(supervision: &mut Supervision) -> usize {
    let mut reminded = 0;
    while let Phase::Stopping { reminder: Some(reminder), .. } = supervision.phase() {
        assert_eq!(supervision.step(Event::Ticked, reminder.at), [Action::Remind]);
        reminded += 1;
    }
    reminded
}

#[test]
fn a_stop_goes_from_term_over_term_to_kill() {
    let mut supervision = running();
    let actions = supervision.step(Event::StopRequested(TERM, Then::Leave), Monotonic(10));
    assert_eq!(actions, [Action::Signal(DrainSignal::Terminate)]);
    assert_eq!(remind_until_quiet(&mut supervision), 6);
    let forced = supervision.deadline().expect("a deadline");
    assert_eq!(forced, Monotonic(60_010));
    assert_eq!(supervision.step(Event::Ticked, forced), [Action::Signal(DrainSignal::Terminate)]);
    let killed = supervision.deadline().expect("a deadline");
    assert_eq!(supervision.step(Event::Ticked, killed), [Action::KillAll]);
    assert_eq!(supervision.step(Event::Exited, killed), [Action::SweepOrphans, Action::Leave]);
}

#[test]
fn a_start_during_a_stop_makes_it_a_restart() {
    let mut supervision = running();
    supervision.step(Event::StopRequested(TERM, Then::Leave), Monotonic(10));
    assert_eq!(supervision.step(Event::StartRequested, Monotonic(11)), []);
    assert_eq!(supervision.step(Event::Exited, Monotonic(12)), [Action::Spawn, Action::SweepOrphans]);
}

#[test]
fn a_drain_without_limit_waits_for_ever_and_a_later_stop_ends_it() {
    let mut supervision = running();
    let hangup = StopPolicy { signal: DrainSignal::Hangup, grace_ms: None };
    supervision.step(Event::StopRequested(hangup, Then::StartAgain), Monotonic(10));
    remind_until_quiet(&mut supervision);
    assert_eq!(supervision.deadline(), None, "then it waits for ever");
    let at_once = StopPolicy { grace_ms: Some(0), ..TERM };
    let actions = supervision.step(Event::StopRequested(at_once, Then::Leave), Monotonic(99));
    assert_eq!(actions, [Action::Signal(DrainSignal::Terminate)]);
    assert_eq!(supervision.step(Event::Exited, Monotonic(100)), [Action::SweepOrphans, Action::Leave]);
}

#[test]
fn a_stop_while_a_process_is_launched_cancels_the_launch() {
    let mut supervision = Supervision::new(1);
    supervision.step(Event::StartRequested, Monotonic(0));
    assert_eq!(supervision.step(Event::Launching, Monotonic(0)), []);
    assert_eq!(supervision.deadline(), None);
    assert_eq!(supervision.step(Event::StartRequested, Monotonic(1)), [], "never two launches");
    let stop = Event::StopRequested(TERM, Then::Leave);
    assert_eq!(supervision.step(stop, Monotonic(2)), [Action::CancelLaunch]);
    assert_eq!(supervision.step(stop, Monotonic(3)), [], "cancelled already");
    assert_eq!(
        supervision.step(Event::SpawnFailed, Monotonic(4)),
        [Action::SweepOrphans, Action::Leave],
        "what is cancelled is no crash"
    );
    assert_eq!((supervision.phase(), supervision.restarts()), (Phase::Idle, 0));
}

#[test]
fn a_process_that_lives_although_its_launch_was_cancelled_is_stopped_within_the_grace_of_the_stop() {
    let mut supervision = Supervision::new(1);
    supervision.step(Event::StartRequested, Monotonic(0));
    supervision.step(Event::Launching, Monotonic(0));
    supervision.step(Event::StopRequested(TERM, Then::StartAgain), Monotonic(1_000));
    let at_once = StopPolicy { grace_ms: Some(0), ..TERM };
    supervision.step(Event::StopRequested(at_once, Then::Leave), Monotonic(2_000));
    let actions = supervision.step(Event::Spawned, Monotonic(2_500));
    assert_eq!(actions, [Action::Signal(DrainSignal::Terminate)]);
    let Phase::Stopping { deadline, then, .. } = supervision.phase() else { panic!("it is stopped") };
    assert_eq!((deadline, then), (Some(Monotonic(2_000)), Then::Leave), "the sooner of both requests");
}

#[test]
fn a_launch_that_fails_is_a_crash() {
    let mut supervision = Supervision::new(1);
    supervision.step(Event::StartRequested, Monotonic(0));
    supervision.step(Event::Launching, Monotonic(0));
    assert_eq!(supervision.step(Event::SpawnFailed, Monotonic(10)), [Action::Spawn]);
    supervision.step(Event::Launching, Monotonic(10));
    assert_eq!(supervision.step(Event::SpawnFailed, Monotonic(20)), []);
    assert!(matches!(supervision.phase(), Phase::Waiting { .. }) && supervision.restarts() == 2);
}

/// What the outside may do at any moment; the world of [`drive`] makes it consistent.
fn happening() -> impl Strategy<Value = (u8, u64)> {
    (0u8..11, prop_oneof![0u64..5, 0u64..2_000, 0u64..120_000])
}

/// A world with at most one process in which the supervisor's actions are carried out.
#[derive(Default)]
struct World {
    alive: bool,
    left: bool,
    stop_wanted: bool,
    /// A process is started by a service manager, which answers later.
    is_asynchronous: bool,
    launching: bool,
}

impl World {
    fn carry_out(
        &mut self,
        supervision: &mut Supervision,
        actions: Vec<Action>,
        now: Monotonic,
        spawns: bool,
    ) {
        for action in actions {
            match action {
                Action::Spawn => {
                    assert!(!self.alive && !self.launching, "never two processes");
                    assert!(!self.stop_wanted, "nothing starts after a stop");
                    if self.is_asynchronous {
                        self.launching = true;
                        assert_eq!(supervision.step(Event::Launching, now), []);
                        continue;
                    }
                    self.alive = spawns;
                    let event = if spawns { Event::Spawned } else { Event::SpawnFailed };
                    let more = supervision.step(event, now);
                    self.carry_out(supervision, more, now, true);
                }
                Action::CancelLaunch => assert!(self.launching, "there is a launch to cancel"),
                Action::Signal(_) | Action::Remind => {
                    assert!(self.alive, "only a living process is signalled");
                }
                Action::KillAll => {
                    assert!(self.alive);
                    self.alive = false;
                    let more = supervision.step(Event::Exited, now);
                    self.carry_out(supervision, more, now, true);
                }
                Action::Leave => {
                    assert!(!self.alive && !self.launching, "the supervisor never leaves a living process");
                    self.left = true;
                }
                Action::SweepOrphans | Action::ReportCrashLoop | Action::ReportUnkillable => {}
            }
        }
    }
}

impl World {
    /// The launch, if there is one, ends.
    fn end_launch(&mut self, supervision: &mut Supervision, spawns: bool, now: Monotonic) {
        if std::mem::take(&mut self.launching) {
            self.alive = spawns;
            let event = if spawns { Event::Spawned } else { Event::SpawnFailed };
            let actions = supervision.step(event, now);
            self.carry_out(supervision, actions, now, true);
        }
    }
}

fn drive(history: &[(u8, u64)]) {
    let mut supervision = Supervision::new(7);
    let mut world = World::default();
    let mut now = Monotonic(0);
    for &(what, wait_ms) in history {
        now = now + wait_ms;
        let event = match what {
            0 | 1 => {
                world.stop_wanted = false;
                Event::StartRequested
            }
            2 | 3 if world.alive => {
                world.alive = false;
                Event::Exited
            }
            4 => {
                world.stop_wanted = true;
                Event::StopRequested(TERM, Then::Leave)
            }
            5 => {
                world.stop_wanted = false;
                Event::StopRequested(StopPolicy { grace_ms: None, ..TERM }, Then::StartAgain)
            }
            8 => {
                world.is_asynchronous = !world.is_asynchronous;
                Event::Ticked
            }
            9 | 10 => {
                world.end_launch(&mut supervision, what == 9, now);
                Event::Ticked
            }
            _ => Event::Ticked,
        };
        if !world.left {
            let actions = supervision.step(event, now);
            world.carry_out(&mut supervision, actions, now, what != 1);
        }
        if world.left {
            return;
        }
        match supervision.phase() {
            Phase::Running { .. } | Phase::Stopping { .. } => assert!(world.alive),
            Phase::Waiting { .. } => assert!(!world.alive && supervision.deadline().is_some()),
            Phase::Idle => assert!(!world.alive && !world.launching),
            Phase::Launching { .. } => assert!(world.launching && !world.alive),
        }
    }
    settle(supervision, world, now);
}

/// From wherever a history ends, a stop and enough time always end everything.
fn settle(mut supervision: Supervision, mut world: World, mut now: Monotonic) {
    world.stop_wanted = true;
    let actions = supervision.step(Event::StopRequested(TERM, Then::Leave), now);
    world.carry_out(&mut supervision, actions, now, true);
    world.end_launch(&mut supervision, now.0.is_multiple_of(2), now);
    for _ in 0..12 {
        if world.left {
            break;
        }
        now = supervision.deadline().expect("a stop has a deadline");
        let actions = supervision.step(Event::Ticked, now);
        world.carry_out(&mut supervision, actions, now, true);
    }
    assert!(world.left && !world.alive);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100_000, ..ProptestConfig::default() })]

    #[test]
    fn no_history_makes_two_processes_or_leaves_one(history in prop::collection::vec(happening(), 0..24)) {
        drive(&history);
    }
}

proptest! {
    #[test]
    fn the_pause_never_shrinks_and_never_passes_the_ceiling(
        seed: u64,
        gaps in prop::collection::vec((0u64..500, 0u64..40_000), 1..40),
    ) {
        let mut backoff = Backoff::new(seed);
        let mut now = Monotonic(0);
        let mut nth = 0;
        for (gap, lived_ms) in gaps {
            now = now + gap;
            nth += 1;
            let wait_ms = backoff.crashed(lived_ms, now);
            // From start to start.
            let pause_ms = if wait_ms == 0 { lived_ms } else { wait_ms + lived_ms };
            let full_ms = if backoff.looping() { BACKOFF_CEILING_MS } else { Backoff::full_wait_ms(nth) };
            prop_assert!(Backoff::full_wait_ms(nth) >= Backoff::full_wait_ms(nth - 1));
            prop_assert!(full_ms <= BACKOFF_CEILING_MS);
            prop_assert!(pause_ms >= full_ms * 4 / 5, "a jitter of at most a fifth");
            prop_assert!(wait_ms == 0 || pause_ms <= full_ms, "{wait_ms} after {lived_ms}");
        }
    }
}

#[test]
fn a_killed_stage_without_an_end_is_reported_not_forgotten() {
    let mut supervision = running();
    supervision
        .step(Event::StopRequested(StopPolicy { grace_ms: Some(0), ..TERM }, Then::Leave), Monotonic(5));
    let mut actions = Vec::new();
    for _ in 0..3 {
        let due = supervision.deadline().expect("a deadline");
        actions = supervision.step(Event::Ticked, due);
    }
    assert_eq!(actions, [Action::ReportUnkillable]);
    assert!(matches!(supervision.phase(), Phase::Stopping { stage: StopStage::Killed, .. }));
}
