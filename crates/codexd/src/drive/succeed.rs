//! Live replacement: a successor beside the server that runs, and the handover of what that holds.

use std::time::{Duration, Instant};

use codexd_core::contract::{Failure, LifecycleStatus};
use codexd_core::generations::Role;
use codexd_core::identity::Pid;
use codexd_core::lifecycle::Command;
use codexd_core::limits::{
    GATEWAY_TIMEOUT_MS, HANDOVER_TOLD_TIMEOUT_MS, PROBE_TIMEOUT_MS, SUPERVISOR_TIMEOUT_MS,
};
use codexd_core::program::Program;
use codexd_core::record::CodexdRecord;
use codexd_host::process;
use codexd_host::service::supervisor::{self, LinkError, Order, SupervisorLink};
use codexd_protocol::probe;
use serde_json::{Value, json};

use super::{Drive, Given, Handover, Reached};
use crate::context::VERSION;
use crate::observe::Sight;
use crate::patience::Progress as Patience;
use crate::ready::{NotReady, Whose, await_ready};
use crate::{codex, failures, migration, prove};

impl Drive<'_> {
    /// Whether a successor may be started beside the server that runs: both are behind a gateway that moves threads, and
    /// both share a home.
    pub(super) fn may_overlap(&self, sight: &Sight) -> bool {
        self.link.as_ref().is_some_and(|link| link.gateway.moves) && self.could_overlap(sight)
    }

    /// The same, as soon as the gateway moves threads.
    fn could_overlap(&self, sight: &Sight) -> bool {
        self.wish.handover != Handover::Never
            && self.wish.gateway.is_on()
            && sight.server.as_ref().is_some_and(|server| {
                sight
                    .codexd
                    .as_ref()
                    .is_some_and(|record| shares_a_home(self.link.as_ref(), server.pid, record))
            })
    }

    /// A gateway that has lost its supervisor, or has just been started, is a moment away from moving threads: without it a restart
    /// would drain. Answers whether it was waited for; then look again.
    pub(super) fn awaits_the_gateway(&mut self, sight: &Sight) -> Result<bool, Failure> {
        let is_over = self.gateway_awaited || self.progress.restarted || self.progress.started;
        if is_over || self.wish.command != Command::Restart || !self.could_overlap(sight) {
            return Ok(false);
        }
        let Some(link) = self.link.as_mut().filter(|link| !link.gateway.moves) else { return Ok(false) };
        self.gateway_awaited = true;
        let deadline = Instant::now() + Duration::from_millis(GATEWAY_TIMEOUT_MS);
        while !link.gateway.moves {
            match link.next(deadline) {
                Ok(_) => {}
                Err(LinkError::Silent(_)) => break,
                Err(LinkError::Gone) => return self.lost_supervisor().map(|()| true),
                Err(error) => return Err(failures::supervisor(&self.context.home, &error)),
            }
        }
        Ok(true)
    }

    /// Starts a successor, waits until it answers, and makes it the current one. If it does not, nothing has changed.
    /// Gives the outcome where this command ends before the replacement.
    pub(super) fn succeed(&mut self, sight: &Sight) -> Result<Option<Reached>, Failure> {
        let (program, gateway) = self.what_to_run(sight)?;
        if !codex::shares_a_home(&program) {
            // The new one may not overlap: the old way.
            self.prove_configuration(&program, sight)?;
            if self.order(&Order::Replace { program, policy: self.wish.policy, gateway })? {
                if self.context.caller().is_inside() {
                    return Ok(Some(self.deferred(LifecycleStatus::Restarting, sight)));
                }
                self.progress.restarted = true;
                self.replaced.clone_from(&sight.server);
                self.await_ready()?;
            }
            return Ok(None);
        }
        if !self.await_the_end_of_another()? || !self.order(&Order::Succeed { program })? {
            return Ok(None);
        }
        let Some(link) = self.link.as_mut() else { return Ok(None) };
        match await_ready(self.context, link, Whose::Successor) {
            Ok(_) => {}
            Err(NotReady::SupervisorGone) => return self.lost_supervisor().map(|()| None),
            Err(not_ready) => {
                let failure = self.not_ready(not_ready);
                self.withdraw();
                return Err(failure);
            }
        }
        let Some((mark, to)) = self.link.as_ref().and_then(successor) else { return Ok(None) };
        if let Err(failure) = self.prove_successor(to, sight) {
            self.withdraw();
            return Err(failure);
        }
        let promote = Order::Promote { generation: mark, gateway };
        let from = sight.server.as_ref().map(|server| server.pid);
        // It is refused if the successor has ended meanwhile: look again.
        if let Given::Taken = self.give(&promote)? {
            self.handover = Some(json!({"from": from, "to": to, "state": "unknown"}));
            self.progress.restarted = true;
        }
        Ok(None)
    }

    /// That it answers `initialize` says little: it is asked for what it will be asked for once it serves.
    fn prove_successor(&self, successor: Pid, sight: &Sight) -> Result<(), Failure> {
        let generations = self.link.as_ref().map(|link| link.generations.as_slice()).unwrap_or_default();
        let socket_of = |pid: Pid| {
            let generation = generations.iter().find(|generation| generation.pid == pid);
            generation.and_then(|generation| generation.socket.clone())
        };
        let old = sight.server.as_ref().map(|server| server.pid);
        match socket_of(successor) {
            Some(socket) => prove::successor(&socket, old.and_then(socket_of).as_deref(), old),
            None => Ok(()),
        }
    }

    /// Before a server that answers is ended for a new one: that the new one's configuration loads. One that does not answer
    /// is replaced whatever the configuration says.
    pub(super) fn prove_configuration(&self, program: &Program, sight: &Sight) -> Result<(), Failure> {
        let Some(old) = sight.server.as_ref() else { return Ok(()) };
        prove::program(program, Some(old.pid)).or_else(|failure| {
            let own = sight.codexd.as_ref().and_then(|record| record.socket.clone());
            let socket = own.unwrap_or_else(|| self.context.home.control_socket());
            match probe::ask(&socket, VERSION, Duration::from_millis(PROBE_TIMEOUT_MS)) {
                Ok(_) => Err(failure),
                Err(_) => Ok(()),
            }
        })
    }

    /// One that a killed command has started is on its way out: two successors there are not. If not, look again.
    fn await_the_end_of_another(&mut self) -> Result<bool, Failure> {
        let Some(link) = self.link.as_mut() else { return Ok(false) };
        let deadline = Instant::now() + Duration::from_millis(SUPERVISOR_TIMEOUT_MS);
        match link.catch_up() {
            Err(LinkError::Gone) => return self.lost_supervisor().map(|()| false),
            other => other.map_err(|error| failures::supervisor(&self.context.home, &error))?,
        }
        while successor(link).is_some() {
            match link.next(deadline) {
                Ok(_) => {}
                Err(LinkError::Gone) => return self.lost_supervisor().map(|()| false),
                // The supervisor says itself that it takes no second one.
                Err(LinkError::Silent(_)) => break,
                Err(error) => return Err(failures::supervisor(&self.context.home, &error)),
            }
        }
        Ok(true)
    }

    /// The successor is ended, and its end waited for: a replacement that fails leaves nothing behind.
    fn withdraw(&mut self) {
        let Some((mark, pid)) = self.link.as_ref().and_then(successor) else { return };
        let order = Order::Withdraw { generation: mark };
        let Some(link) = self.link.as_mut() else { return };
        if link.order(&order).is_err() {
            return;
        }
        let deadline = Instant::now() + Duration::from_millis(SUPERVISOR_TIMEOUT_MS);
        let lives = |link: &SupervisorLink| link.generations.iter().any(|generation| generation.pid == pid);
        // What is left of it is found by the next command.
        while lives(link) && link.next(deadline).is_ok() {}
    }

    /// After a promotion: until the gateway has said how the handover goes, or, if that is wanted, until the server before
    /// has left. That the new one serves is established already, so nothing here makes the command fail.
    pub(super) fn await_the_handover(&mut self) -> Result<(), Failure> {
        let (Some(mut handover), Some(link)) = (self.handover.take(), self.link.as_mut()) else {
            return Ok(());
        };
        let from = handover["from"].as_u64();
        let told_by = Instant::now() + Duration::from_millis(HANDOVER_TOLD_TIMEOUT_MS);
        let mut patience = Patience::begin();
        loop {
            // Some of it may have come before, while something else was waited for.
            link.relayed.drain(..).for_each(|value| take_in(&mut handover, &value));
            let leaves = link.generations.iter().any(|generation| Some(u64::from(generation.pid.0)) == from);
            // One that holds nothing any more is about to leave; one that waits for a turn may do so for hours.
            let waits = handover["state"] == "waiting";
            // The old server waits for the turn in which this command runs.
            let is_inside = self.context.caller().is_inside();
            let done = match self.wish.handover {
                // What is refused moves once the cause is repaired.
                Handover::Completed if !is_inside => !leaves || migration::waits_for_refused_alone(&handover),
                _ => waits || !leaves || Instant::now() >= told_by,
            };
            if done {
                break;
            }
            let until = match self.wish.handover {
                Handover::Completed if !is_inside => patience.due(),
                _ => told_by.min(patience.due()),
            };
            match link.next(until) {
                Ok(_) => {}
                Err(LinkError::Silent(_)) if !supervisor::answers(&self.context.home) => break,
                Err(LinkError::Silent(_)) => {
                    patience.tell(|| "waiting for the old app-server to hand over what it holds".to_owned());
                }
                // What goes on goes on without us.
                Err(_) => break,
            }
        }
        if link.generations.iter().all(|generation| Some(u64::from(generation.pid.0)) != from) {
            handover["state"] = "completed".into();
        }
        self.handover = Some(handover);
        Ok(())
    }
}

/// Adds what the gateway says of the handover to what is known of it.
fn take_in(handover: &mut Value, value: &Value) {
    if let (Some(known), Some(told)) = (handover.as_object_mut(), value["handover"].as_object()) {
        let ours = |name: &str| name == "from" || name == "to";
        known.extend(
            told.iter().filter(|(name, _)| !ours(name)).map(|(name, value)| (name.clone(), value.clone())),
        );
    }
}

fn successor(link: &SupervisorLink) -> Option<(String, Pid)> {
    let successor = link.generations.iter().find(|generation| generation.role == Role::Successor)?;
    Some((successor.mark.clone()?, successor.pid))
}

/// Whether the server that runs shares its home with another one: it has a socket of its own, no remote control, and is of
/// a version that can.
fn shares_a_home(link: Option<&SupervisorLink>, pid: Pid, record: &CodexdRecord) -> bool {
    let known = link.and_then(|link| link.generations.iter().find(|generation| generation.pid == pid));
    let version = known.and_then(|generation| generation.version.as_deref()).unwrap_or_default();
    let arguments = process::arguments(pid);
    let remote_control =
        arguments.is_empty() || arguments.iter().any(|argument| argument == "--remote-control");
    record.socket.is_some() && !remote_control && (record.embedded || codex::version_shares_a_home(version))
}
