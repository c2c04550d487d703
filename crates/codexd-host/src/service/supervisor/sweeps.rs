//! Ends the orphans of dead app-servers as a part of the supervisor's loop, which keeps answering meanwhile.
//!
//! The exit of the supervisor waits for the end of all sweeps, and the removal of a generation for the end of its own.

use std::os::fd::BorrowedFd;

use codexd_core::clock::Monotonic;
use codexd_core::contract::EventLevel;
use codexd_core::generations::{Name, Standing};
use codexd_core::plural::counted;
use codexd_core::supervise::Then;

use super::Supervisor;
use super::wire::Report;
use crate::events::Event as LogEvent;
use crate::orphans::{self, OwnershipEvidence, Sweep, Swept};

/// The running sweeps.
#[derive(Debug, Default)]
pub struct Sweeps {
    of: Vec<(Option<Name>, Sweep)>,
    /// Generations to be removed afterwards.
    forgotten: Vec<Name>,
    /// The supervisor exits afterwards.
    leaves: bool,
}

impl Sweeps {
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.of.iter().flat_map(|(_, sweep)| sweep.fds())
    }

    pub fn deadline(&self) -> Option<Monotonic> {
        self.of.iter().map(|(_, sweep)| sweep.deadline()).min()
    }

    pub fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    pub fn is_of(&self, name: Name) -> bool {
        self.of.iter().any(|(of, _)| *of == Some(name))
    }
}

impl Supervisor {
    /// Begins to end the orphans of a generation's dead process.
    pub(super) fn sweep(&mut self, name: Name) {
        if let Some(evidence) = self.managed_mut(name).and_then(|managed| managed.dead.take()) {
            self.begin_sweep(Some(name), evidence);
        }
    }

    pub(super) fn begin_sweep(&mut self, name: Option<Name>, evidence: OwnershipEvidence) {
        match self.with_excluded(|excluded| Sweep::begin(evidence, excluded)) {
            Ok(sweep) => self.sweeps.of.push((name, sweep)),
            Err(swept) => self.swept(name, swept),
        }
    }

    /// Continues the sweeps: orphans have exited, or a deadline has passed.
    pub(super) fn advance_sweeps(&mut self) {
        for (name, mut sweep) in std::mem::take(&mut self.sweeps.of) {
            match self.with_excluded(|excluded| sweep.advance(excluded)) {
                None => self.sweeps.of.push((name, sweep)),
                Some(swept) => self.swept(name, swept),
            }
        }
        let done = |sweeps: &Sweeps| sweeps.forgotten.iter().position(|&name| !sweeps.is_of(name));
        while let Some(at) = done(&self.sweeps) {
            let name = self.sweeps.forgotten.remove(at);
            self.forget(name);
        }
        if self.sweeps.is_empty() && std::mem::take(&mut self.sweeps.leaves) {
            // A start may have been ordered meanwhile.
            if self.machine.standing() == Standing::Stopping(Then::Leave) {
                self.leave();
            }
        }
        self.act(Vec::new());
        self.leave_if_unused();
    }

    pub(super) fn forget_when_swept(&mut self, name: Name) {
        match self.sweeps.is_of(name) {
            true => self.sweeps.forgotten.push(name),
            false => self.forget(name),
        }
    }

    pub(super) fn leave_when_swept(&mut self) {
        match self.sweeps.is_empty() {
            true => self.leave(),
            false => self.sweeps.leaves = true,
        }
    }

    fn swept(&mut self, name: Option<Name>, swept: Swept) {
        if let Some(managed) = name.and_then(|name| self.managed_mut(name)) {
            managed.ended = None;
        }
        self.orphaned = !swept.left.is_empty();
        if swept.ended > 0 || !swept.left.is_empty() {
            let message = format!("ended {} of the app-server", counted(swept.ended, "orphaned process"));
            let left: Vec<u32> = swept.left.iter().map(|pid| pid.0).collect();
            let level = if left.is_empty() { EventLevel::Info } else { EventLevel::Error };
            self.log_event(LogEvent::new(level, "child.orphans", message).with("left", left));
        }
        self.clients.broadcast(&Report::Swept { ended: swept.ended, left: swept.left });
    }

    /// Ends all orphans and waits until they have exited. For a supervisor that gives up its home.
    pub(super) fn sweep_and_wait(&mut self) {
        for (_, sweep) in std::mem::take(&mut self.sweeps.of) {
            self.with_excluded(|excluded| sweep.finish(excluded));
        }
        let dead: Vec<OwnershipEvidence> =
            self.table.iter_mut().filter_map(|managed| managed.dead.take()).collect();
        for evidence in dead {
            self.with_excluded(|excluded| orphans::sweep(&evidence, excluded));
        }
    }
}
