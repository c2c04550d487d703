//! Where a supervised program stands.

use serde::{Deserialize, Serialize};

use crate::clock::Monotonic;
use crate::launch_spec::DrainSignal;
use crate::limits::{REMINDER_FIRST_MS, REMINDER_LAST_MS};

/// What comes after a stop.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Then {
    /// Nothing: the supervisor leaves.
    Leave,
    /// A new process of the newest program.
    StartAgain,
}

/// How far a stop has come.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum StopStage {
    /// The first signal is out; turns drain.
    Draining,
    /// The second signal is out.
    Forced,
    /// The whole group was killed.
    Killed,
}

/// A server may miss the signal: 0.131.0 does when it arrives while a client is being initialized. SIGHUP drains, too, and
/// never forces, whatever was sent before (observed on 0.131.0 and 0.169.0), so it is sent again for a while.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reminder {
    /// When.
    pub at: Monotonic,
    /// How long after that the next one is due.
    pub then_ms: u64,
}

impl Reminder {
    /// The first one of a stop that begins at `now`.
    pub fn first(now: Monotonic) -> Option<Reminder> {
        Some(Reminder { at: now + REMINDER_FIRST_MS, then_ms: REMINDER_FIRST_MS * 2 })
    }

    pub(super) fn next(self) -> Option<Reminder> {
        (self.then_ms <= REMINDER_LAST_MS)
            .then(|| Reminder { at: self.at + self.then_ms, then_ms: self.then_ms * 2 })
    }
}

/// A stop that was requested while the process is being launched. It begins when the process lives.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PendingStop {
    /// The first signal.
    pub signal: DrainSignal,
    /// When the second signal is due; `None` waits without limit.
    pub deadline: Option<Monotonic>,
    /// What comes after.
    pub then: Then,
}

/// Where a program stands.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", tag = "phase")]
pub enum Phase {
    /// Nothing runs and nothing is due.
    Idle,
    /// A process lives.
    Running {
        /// Since when.
        since: Monotonic,
    },
    /// Nothing runs; the next attempt is due.
    Waiting {
        /// When.
        until: Monotonic,
    },
    /// A service manager was asked to start the process, and has not done so yet.
    Launching {
        /// The stop that was requested since.
        stop: Option<PendingStop>,
    },
    /// A process lives and was asked to leave.
    Stopping {
        /// How far that has come.
        stage: StopStage,
        /// When the next stage is due; `None` waits without limit.
        deadline: Option<Monotonic>,
        /// When the server is reminded that it was asked to leave; `None` when that has been done often enough.
        reminder: Option<Reminder>,
        /// What comes after.
        then: Then,
    },
}
