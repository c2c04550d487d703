//! Draining: the first signal waits for running turns, a second one does not.
//!
//! As upstream: SIGTERM, SIGINT and SIGHUP begin the drain; a second SIGTERM or SIGINT forces the exit, a SIGHUP
//! never does. There is no time limit: the drain also waits for a turn that waits for an approval.

use crate::ExitReason;
use crate::model::{Action, State};

/// A signal that asks the server to exit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Signal {
    Terminate,
    Interrupt,
    HangUp,
}

impl State {
    pub(crate) fn signalled(&mut self, signal: Signal) {
        let forced = self.shared.draining && signal != Signal::HangUp;
        self.shared.draining = true;
        if forced {
            self.shared.act(Action::Exit(ExitReason::Forced));
        }
    }

    pub(crate) fn exit_when_drained(&mut self) {
        if self.shared.draining && self.threads.values().all(|thread| thread.running.is_none()) {
            self.shared.act(Action::Exit(ExitReason::Drained));
        }
    }
}
