//! When to start, restart, signal and give up: the supervisor's decisions as a pure machine.
//!
//! [`Supervision::step`] takes what happened and when, and answers what to do, in order. It never asks for a second
//! process while one lives, never starts anything after a stop was asked for, and always has either a living process,
//! a moment at which it acts next, or nothing to keep.

mod backoff;
mod phase;
#[cfg(test)]
mod tests;

pub use backoff::Backoff;
pub use phase::{PendingStop, Phase, Reminder, StopStage, Then};

use crate::clock::Monotonic;
use crate::launch_spec::{DrainSignal, StopPolicy};
use crate::limits::{KILL_TIMEOUT_MS, MISSING_PROGRAM_RETRY_MS, SECOND_SIGNAL_GRACE_MS};

/// What can happen to a supervised program.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Event {
    /// The process is wanted.
    StartRequested,
    /// A living process was taken over.
    Adopted,
    /// The process that was taken over had been asked to leave before, without limit as far as we know.
    FoundDraining(Then),
    /// The process is being started by a service manager: `Spawned`, `SpawnFailed` or `ProgramMissing` follows.
    Launching,
    /// The process that we asked for lives.
    Spawned,
    /// It could not be started.
    SpawnFailed,
    /// It could not be started since the file of its program is missing, as during an update.
    ProgramMissing,
    /// The file of its program may be there again.
    ProgramAppeared,
    /// The process ended.
    Exited,
    /// The process is to end.
    StopRequested(StopPolicy, Then),
    /// Time went by.
    Ticked,
}

/// What to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// Start the program; answer with `Spawned`, `SpawnFailed` or `ProgramMissing`, or with `Launching` and later with one of these.
    Spawn,
    /// The process that is being launched is no longer wanted: answer the launch soon, with `SpawnFailed` if that is still possible.
    CancelLaunch,
    /// Send the draining signal to the process.
    Signal(DrainSignal),
    /// Ask the process again to drain, in the way that never forces.
    Remind,
    /// Kill the process, its group, and everything it started.
    KillAll,
    /// End what the dead process left behind.
    SweepOrphans,
    /// The program keeps dying: say so.
    ReportCrashLoop,
    /// A killed process is still there: say so.
    ReportUnkillable,
    /// Nothing is left to keep.
    Leave,
}

/// What to do about an unrequested exit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Restart {
    /// Start it again.
    Always,
    /// Sweep what it left, and forget it.
    Never,
}

/// The machine.
#[derive(Clone, Debug)]
pub struct Supervision {
    phase: Phase,
    backoff: Backoff,
    restarts: u64,
    restart: Restart,
    /// How long after the second signal of a stop the process is killed.
    second_signal_grace_ms: u64,
}

impl Supervision {
    /// A supervisor of nothing yet. `seed` drives the jitter.
    pub fn new(seed: u64) -> Self {
        Self {
            phase: Phase::Idle,
            backoff: Backoff::new(seed),
            restarts: 0,
            restart: Restart::Always,
            second_signal_grace_ms: SECOND_SIGNAL_GRACE_MS,
        }
    }

    /// Sets what to do about an unrequested exit.
    pub fn set_restart(&mut self, restart: Restart) {
        self.restart = restart;
    }

    /// From now on the process is killed so long after the second signal of a stop.
    pub fn set_second_signal_grace_ms(&mut self, grace_ms: u64) {
        self.second_signal_grace_ms = grace_ms;
    }

    /// Where the program stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// How often it was restarted after a crash since its start was last requested.
    pub fn restarts(&self) -> u64 {
        self.restarts
    }

    /// Whether it keeps dying.
    pub fn crash_looping(&self) -> bool {
        self.backoff.looping()
    }

    /// When [`Event::Ticked`] is due; `None` when only the outside can change anything.
    pub fn deadline(&self) -> Option<Monotonic> {
        match self.phase {
            Phase::Idle | Phase::Launching { .. } => None,
            Phase::Running { since } => self.backoff.settles_at(since),
            Phase::Waiting { until } => Some(until),
            Phase::Stopping { deadline, reminder, .. } => sooner(deadline, reminder.map(|due| due.at)),
        }
    }

    /// Takes one event at `now` and answers what to do, in order.
    pub fn step(&mut self, event: Event, now: Monotonic) -> Vec<Action> {
        match event {
            Event::StartRequested => self.start_requested(),
            Event::Launching => {
                if let Phase::Idle | Phase::Waiting { .. } = self.phase {
                    self.phase = Phase::Launching { stop: None };
                }
                Vec::new()
            }
            Event::Adopted | Event::Spawned => self.lives(now),
            Event::FoundDraining(then) => {
                if let Phase::Running { .. } = self.phase {
                    let reminder = Reminder::first(now);
                    self.phase =
                        Phase::Stopping { stage: StopStage::Draining, deadline: None, reminder, then };
                }
                Vec::new()
            }
            Event::SpawnFailed => match self.phase {
                Phase::Stopping { .. } | Phase::Launching { stop: Some(_) } => self.ended(),
                _ if self.restart == Restart::Never => self.lost(),
                _ => self.crashed(now),
            },
            Event::ProgramMissing => match self.phase {
                Phase::Stopping { .. } | Phase::Launching { stop: Some(_) } => self.ended(),
                _ if self.restart == Restart::Never => self.lost(),
                _ => {
                    // Nothing has crashed.
                    self.phase = Phase::Waiting { until: now + MISSING_PROGRAM_RETRY_MS };
                    Vec::new()
                }
            },
            Event::ProgramAppeared => match self.phase {
                Phase::Waiting { .. } => vec![Action::Spawn],
                _ => Vec::new(),
            },
            Event::Exited => match self.phase {
                Phase::Stopping { .. } | Phase::Launching { stop: Some(_) } => self.ended(),
                _ if self.restart == Restart::Never => self.lost(),
                _ => {
                    let mut actions = self.crashed(now);
                    // The successor first: sweeping may take a while.
                    actions.push(Action::SweepOrphans);
                    actions
                }
            },
            Event::StopRequested(policy, then) => self.stop_requested(policy, then, now),
            Event::Ticked => self.ticked(now),
        }
    }

    fn start_requested(&mut self) -> Vec<Action> {
        match &mut self.phase {
            Phase::Running { .. } | Phase::Launching { stop: None } => Vec::new(),
            Phase::Stopping { then, .. } | Phase::Launching { stop: Some(PendingStop { then, .. }) } => {
                *then = Then::StartAgain;
                Vec::new()
            }
            Phase::Idle | Phase::Waiting { .. } => {
                self.forget_the_past();
                vec![Action::Spawn]
            }
        }
    }

    fn lives(&mut self, now: Monotonic) -> Vec<Action> {
        match self.phase {
            Phase::Stopping { .. } => Vec::new(),
            Phase::Launching { stop: Some(PendingStop { signal, deadline, then }) } => {
                let reminder = Reminder::first(now);
                self.phase = Phase::Stopping { stage: StopStage::Draining, deadline, reminder, then };
                vec![Action::Signal(signal)]
            }
            _ => {
                self.phase = Phase::Running { since: now };
                Vec::new()
            }
        }
    }

    fn crashed(&mut self, now: Monotonic) -> Vec<Action> {
        let mut lived_ms = 0;
        if let Phase::Running { since } = self.phase {
            self.backoff.lived(since, now);
            lived_ms = now.since_ms(since);
        }
        let was_looping = self.backoff.looping();
        let wait_ms = self.backoff.crashed(lived_ms, now);
        self.restarts += 1;
        let mut actions = Vec::new();
        if wait_ms == 0 {
            actions.push(Action::Spawn);
        }
        self.phase = Phase::Waiting { until: now + wait_ms };
        if self.backoff.looping() && !was_looping {
            actions.push(Action::ReportCrashLoop);
        }
        actions
    }

    /// It ended and is not missed.
    fn lost(&mut self) -> Vec<Action> {
        self.phase = Phase::Idle;
        vec![Action::SweepOrphans, Action::Leave]
    }

    fn ended(&mut self) -> Vec<Action> {
        let (Phase::Stopping { then, .. } | Phase::Launching { stop: Some(PendingStop { then, .. }) }) =
            self.phase
        else {
            return Vec::new();
        };
        self.phase = Phase::Idle;
        self.forget_the_past();
        match then {
            Then::Leave => vec![Action::SweepOrphans, Action::Leave],
            Then::StartAgain => vec![Action::Spawn, Action::SweepOrphans],
        }
    }

    fn stop_requested(&mut self, policy: StopPolicy, then: Then, now: Monotonic) -> Vec<Action> {
        match self.phase {
            Phase::Idle | Phase::Waiting { .. } => {
                self.phase = Phase::Idle;
                self.forget_the_past();
                vec![if then == Then::Leave { Action::Leave } else { Action::Spawn }]
            }
            Phase::Running { .. } => {
                let deadline = policy.grace_ms.map(|grace| now + grace);
                let reminder = Reminder::first(now);
                self.phase = Phase::Stopping { stage: StopStage::Draining, deadline, reminder, then };
                vec![Action::Signal(policy.signal)]
            }
            Phase::Launching { stop } => {
                let wished = policy.grace_ms.map(|grace| now + grace);
                let deadline = stop.map_or(wished, |pending| sooner(pending.deadline, wished));
                let signal = stop.map_or(policy.signal, |pending| pending.signal);
                self.phase = Phase::Launching { stop: Some(PendingStop { signal, deadline, then }) };
                if stop.is_none() { vec![Action::CancelLaunch] } else { Vec::new() }
            }
            Phase::Stopping { stage, deadline, reminder, .. } => {
                // A second wish can hasten a stop and change what follows, never slow it down.
                let wished = policy.grace_ms.map(|grace| now + grace);
                let deadline = if stage == StopStage::Draining { sooner(deadline, wished) } else { deadline };
                self.phase = Phase::Stopping { stage, deadline, reminder, then };
                self.ticked(now)
            }
        }
    }

    fn ticked(&mut self, now: Monotonic) -> Vec<Action> {
        match self.phase {
            Phase::Waiting { until } if until <= now => vec![Action::Spawn],
            Phase::Running { since } => {
                self.backoff.lived(since, now);
                Vec::new()
            }
            Phase::Stopping { stage, deadline: Some(deadline), then, .. } if deadline <= now => {
                let (stage, wait_ms, action) = match stage {
                    StopStage::Draining => {
                        let grace_ms = self.second_signal_grace_ms;
                        (StopStage::Forced, grace_ms, Action::Signal(DrainSignal::Terminate))
                    }
                    StopStage::Forced => (StopStage::Killed, KILL_TIMEOUT_MS, Action::KillAll),
                    StopStage::Killed => (StopStage::Killed, KILL_TIMEOUT_MS, Action::ReportUnkillable),
                };
                let deadline = Some(now + wait_ms);
                self.phase = Phase::Stopping { stage, deadline, reminder: None, then };
                vec![action]
            }
            Phase::Stopping { stage, deadline, reminder: Some(reminder), then } if reminder.at <= now => {
                self.phase = Phase::Stopping { stage, deadline, reminder: reminder.next(), then };
                vec![Action::Remind]
            }
            _ => Vec::new(),
        }
    }

    fn forget_the_past(&mut self) {
        self.backoff.reset();
        self.restarts = 0;
    }
}

fn sooner(one: Option<Monotonic>, other: Option<Monotonic>) -> Option<Monotonic> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
