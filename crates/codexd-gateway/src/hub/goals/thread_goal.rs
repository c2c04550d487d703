//! The goal of one thread: what upstream reported of it, and what a client or the gateway has done to it since.

use std::borrow::Cow;

use crate::hub::text;

/// The goal of one thread.
#[derive(Debug, Default)]
pub struct ThreadGoal {
    /// `None` until upstream has reported it.
    reported: Option<Reported>,
    pause: Pause,
    /// A client interrupted the last turn: upstream then pauses an active goal until the next turn starts.
    is_interrupted: bool,
}

#[derive(Debug)]
struct Reported {
    /// The parameters of `thread/goal/updated` or `thread/goal/cleared`, raw JSON.
    params: Box<str>,
    is_active: bool,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Pause {
    /// It is as upstream has reported.
    #[default]
    None,
    /// A client paused it and upstream has not reported that yet.
    ByClient,
    /// The gateway suspended it until the thread has migrated.
    Suspended,
}

impl ThreadGoal {
    /// Upstream reported it: the parameters of `thread/goal/updated` or of `thread/goal/cleared`.
    pub fn apply(&mut self, params: &str) {
        let status = text::member(params, "goal").and_then(|goal| text::string(goal.get(), "status"));
        let is_active = status.is_some_and(|status| status == "active");
        self.reported = Some(Reported { params: params.into(), is_active });
    }

    /// What upstream reported last, raw JSON.
    pub fn reported(&self) -> Option<&str> {
        self.reported.as_ref().map(|reported| &*reported.params)
    }

    pub fn status(&self) -> Option<Cow<'_, str>> {
        let goal = text::member(self.reported()?, "goal")?;
        text::string(goal.get(), "status")
    }

    /// Whether it is active, as upstream reported.
    pub fn is_active(&self) -> bool {
        self.reported.as_ref().is_some_and(|reported| reported.is_active)
    }

    /// Whether it starts turns, as far as is known.
    pub fn is_running(&self) -> bool {
        self.is_active() && !self.is_interrupted
    }

    pub fn is_suspended(&self) -> bool {
        self.pause == Pause::Suspended
    }

    pub fn suspend(&mut self) {
        self.pause = Pause::Suspended;
    }

    /// It is not suspended any more. Returns whether it was.
    pub fn end_suspension(&mut self) -> bool {
        let was_suspended = self.is_suspended();
        if was_suspended {
            self.pause = Pause::None;
        }
        was_suspended
    }

    /// Whether a client paused it and upstream has not reported that yet.
    pub fn is_pausing(&self) -> bool {
        self.pause == Pause::ByClient
    }

    /// A client's request decided whether it is to be paused.
    pub fn set_pausing(&mut self, is_pausing: bool) {
        if !self.is_suspended() {
            self.pause = if is_pausing { Pause::ByClient } else { Pause::None };
        }
    }

    /// What is not active is neither suspended nor about to be paused.
    pub fn end_pause_unless_active(&mut self) {
        if !self.is_active() {
            self.pause = Pause::None;
        }
    }

    pub fn is_interrupted(&self) -> bool {
        self.is_interrupted
    }

    /// A client interrupted the turn.
    pub fn interrupt(&mut self) {
        self.is_interrupted = true;
    }

    pub fn turn_began(&mut self) {
        self.is_interrupted = false;
    }
}
