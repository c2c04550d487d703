//! Live replacement: a successor beside the server that runs, and the handover of what that holds.

use std::time::{Duration, Instant};

use codexd_core::contract::{Failure, LifecycleStatus};
use codexd_core::generations::Role;
use codexd_core::identity::Pid;
use codexd_core::launch_spec::LaunchSpec;
use codexd_core::lifecycle::Command;
use codexd_core::limits::{
    GATEWAY_TIMEOUT_MS, HANDOVER_REPORT_TIMEOUT_MS, PROBE_TIMEOUT_MS, SUPERVISOR_TIMEOUT_MS,
};
use codexd_core::record::CodexdRecord;
use codexd_host::process;
use codexd_host::service::supervisor::{self, ConnectionError, Order, SupervisorConnection};
use codexd_protocol::probe;
use serde_json::{Value, json};

use super::{Drive, Handover, OrderResult, Outcome};
use crate::context::VERSION;
use crate::observe::Snapshot;
use crate::progress::ProgressReporter;
use crate::ready::{NotReady, Target, await_ready};
use crate::{failures, launch, migration, prove};

impl Drive<'_> {
    /// Whether a successor may be started beside the server that runs: both are behind a gateway that moves threads, and
    /// both share a home.
    pub(super) fn may_overlap(&self, snapshot: &Snapshot) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.gateway.moves)
            && self.could_overlap(snapshot)
    }

    /// The same, as soon as the gateway moves threads.
    fn could_overlap(&self, snapshot: &Snapshot) -> bool {
        self.request.handover != Handover::Never
            && self.request.gateway.is_on()
            && snapshot.server.as_ref().is_some_and(|server| {
                snapshot
                    .codexd
                    .as_ref()
                    .is_some_and(|record| shares_a_home(self.connection.as_ref(), server.pid, record))
            })
    }

    /// A gateway that has lost its supervisor, or has just been started, is a moment away from moving threads: without it a restart
    /// would drain. Answers whether it was waited for; then look again.
    pub(super) fn await_gateway(&mut self, snapshot: &Snapshot) -> Result<bool, Failure> {
        let is_over = self.gateway_awaited || self.progress.restarted || self.progress.started;
        if is_over || self.request.command != Command::Restart || !self.could_overlap(snapshot) {
            return Ok(false);
        }
        let Some(connection) = self.connection.as_mut().filter(|connection| !connection.gateway.moves) else {
            return Ok(false);
        };
        self.gateway_awaited = true;
        let deadline = Instant::now() + Duration::from_millis(GATEWAY_TIMEOUT_MS);
        while !connection.gateway.moves {
            match connection.next(deadline) {
                Ok(_) => {}
                Err(ConnectionError::Silent(_)) => break,
                Err(ConnectionError::Gone) => return self.on_supervisor_lost().map(|()| true),
                Err(error) => return Err(failures::supervisor(&self.context.home, &error)),
            }
        }
        Ok(true)
    }

    /// Starts a successor, waits until it answers, and makes it the current one. If it does not, nothing has changed.
    /// Gives the outcome where this command ends before the replacement.
    pub(super) fn succeed(&mut self, snapshot: &Snapshot) -> Result<Option<Outcome>, Failure> {
        let (program, gateway) = self.launch_specs(snapshot)?;
        if !launch::shares_a_home(&program) {
            // The new one may not overlap: the old way.
            self.prove_configuration(&program, snapshot)?;
            if self.order(&Order::Replace { program, policy: self.request.policy, gateway })? {
                if self.context.caller().is_inside() {
                    return Ok(Some(self.deferred(LifecycleStatus::Restarting, snapshot)));
                }
                self.progress.restarted = true;
                self.replaced.clone_from(&snapshot.server);
                self.await_ready()?;
            }
            return Ok(None);
        }
        if !self.await_end_of_other_successor()? || !self.order(&Order::Succeed { program })? {
            return Ok(None);
        }
        let Some(connection) = self.connection.as_mut() else { return Ok(None) };
        match await_ready(self.context, connection, Target::Successor) {
            Ok(_) => {}
            Err(NotReady::SupervisorGone) => return self.on_supervisor_lost().map(|()| None),
            Err(not_ready) => {
                let failure = self.not_ready(not_ready);
                self.withdraw();
                return Err(failure);
            }
        }
        let Some((generation_id, to)) = self.connection.as_ref().and_then(successor) else { return Ok(None) };
        if let Err(failure) = self.prove_successor(to, snapshot) {
            self.withdraw();
            return Err(failure);
        }
        let promote = Order::Promote { generation: generation_id, gateway };
        let from = snapshot.server.as_ref().map(|server| server.pid);
        // It is refused if the successor has ended meanwhile: look again.
        if let OrderResult::Taken = self.give(&promote)? {
            self.handover = Some(json!({"from": from, "to": to, "state": "unknown"}));
            self.progress.restarted = true;
        }
        Ok(None)
    }

    /// That it answers `initialize` says little: it is asked for what it will be asked for once it serves.
    fn prove_successor(&self, successor: Pid, snapshot: &Snapshot) -> Result<(), Failure> {
        let generations =
            self.connection.as_ref().map(|connection| connection.generations.as_slice()).unwrap_or_default();
        let socket_of = |pid: Pid| {
            let generation = generations.iter().find(|generation| generation.pid == pid);
            generation.and_then(|generation| generation.socket.clone())
        };
        let old = snapshot.server.as_ref().map(|server| server.pid);
        match socket_of(successor) {
            Some(socket) => prove::successor(&socket, old.and_then(socket_of).as_deref(), old),
            None => Ok(()),
        }
    }

    /// Before a server that answers is ended for a new one: that the new one's configuration loads. One that does not answer
    /// is replaced whatever the configuration says.
    pub(super) fn prove_configuration(
        &self,
        program: &LaunchSpec,
        snapshot: &Snapshot,
    ) -> Result<(), Failure> {
        let Some(old) = snapshot.server.as_ref() else { return Ok(()) };
        prove::program(program, Some(old.pid)).or_else(|failure| {
            let own = snapshot.codexd.as_ref().and_then(|record| record.socket.clone());
            let socket = own.unwrap_or_else(|| self.context.home.control_socket());
            match probe::ask(&socket, VERSION, Duration::from_millis(PROBE_TIMEOUT_MS)) {
                Ok(_) => Err(failure),
                Err(_) => Ok(()),
            }
        })
    }

    /// One that a killed command has started is on its way out: two successors there are not. If not, look again.
    fn await_end_of_other_successor(&mut self) -> Result<bool, Failure> {
        let Some(connection) = self.connection.as_mut() else { return Ok(false) };
        let deadline = Instant::now() + Duration::from_millis(SUPERVISOR_TIMEOUT_MS);
        match connection.catch_up() {
            Err(ConnectionError::Gone) => return self.on_supervisor_lost().map(|()| false),
            other => other.map_err(|error| failures::supervisor(&self.context.home, &error))?,
        }
        while successor(connection).is_some() {
            match connection.next(deadline) {
                Ok(_) => {}
                Err(ConnectionError::Gone) => return self.on_supervisor_lost().map(|()| false),
                // The supervisor says itself that it takes no second one.
                Err(ConnectionError::Silent(_)) => break,
                Err(error) => return Err(failures::supervisor(&self.context.home, &error)),
            }
        }
        Ok(true)
    }

    /// The successor is ended, and its end waited for: a replacement that fails leaves nothing behind.
    fn withdraw(&mut self) {
        let Some((generation_id, pid)) = self.connection.as_ref().and_then(successor) else { return };
        let order = Order::Withdraw { generation: generation_id };
        let Some(connection) = self.connection.as_mut() else { return };
        if connection.order(&order).is_err() {
            return;
        }
        let deadline = Instant::now() + Duration::from_millis(SUPERVISOR_TIMEOUT_MS);
        let lives = |connection: &SupervisorConnection| {
            connection.generations.iter().any(|generation| generation.pid == pid)
        };
        // What is left of it is found by the next command.
        while lives(connection) && connection.next(deadline).is_ok() {}
    }

    /// After a promotion: until the gateway has said how the handover goes, or, if that is wanted, until the server before
    /// has left. That the new one serves is established already, so nothing here makes the command fail.
    pub(super) fn await_handover(&mut self) -> Result<(), Failure> {
        let (Some(mut handover), Some(connection)) = (self.handover.take(), self.connection.as_mut()) else {
            return Ok(());
        };
        let from = handover["from"].as_u64();
        let told_by = Instant::now() + Duration::from_millis(HANDOVER_REPORT_TIMEOUT_MS);
        let mut progress = ProgressReporter::start();
        loop {
            // Some of it may have come before, while something else was waited for.
            connection.relayed.drain(..).for_each(|value| take_in(&mut handover, &value));
            let leaves =
                connection.generations.iter().any(|generation| Some(u64::from(generation.pid.0)) == from);
            // One that holds nothing any more is about to leave; one that waits for a turn may do so for hours.
            let waits = handover["state"] == "waiting";
            // The old server waits for the turn in which this command runs.
            let is_inside = self.context.caller().is_inside();
            let done = match self.request.handover {
                // What is refused moves once the cause is repaired.
                Handover::Completed if !is_inside => !leaves || migration::waits_for_refused_alone(&handover),
                _ => waits || !leaves || Instant::now() >= told_by,
            };
            if done {
                break;
            }
            let until = match self.request.handover {
                Handover::Completed if !is_inside => progress.next_due(),
                _ => told_by.min(progress.next_due()),
            };
            match connection.next(until) {
                Ok(_) => {}
                Err(ConnectionError::Silent(_)) if !supervisor::answers(&self.context.home) => break,
                Err(ConnectionError::Silent(_)) => {
                    progress.report(|| "waiting for the old app-server to hand over its threads".to_owned());
                }
                // What goes on goes on without us.
                Err(_) => break,
            }
        }
        if connection.generations.iter().all(|generation| Some(u64::from(generation.pid.0)) != from) {
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

fn successor(connection: &SupervisorConnection) -> Option<(String, Pid)> {
    let successor = connection.generations.iter().find(|generation| generation.role == Role::Successor)?;
    Some((successor.generation_id.clone()?, successor.pid))
}

/// Whether the server that runs shares its home with another one: it has a socket of its own, no remote control, and is of
/// a version that can.
fn shares_a_home(connection: Option<&SupervisorConnection>, pid: Pid, record: &CodexdRecord) -> bool {
    let known = connection
        .and_then(|connection| connection.generations.iter().find(|generation| generation.pid == pid));
    let version = known.and_then(|generation| generation.version.as_deref()).unwrap_or_default();
    let arguments = process::arguments(pid);
    let remote_control =
        arguments.is_empty() || arguments.iter().any(|argument| argument == "--remote-control");
    record.socket.is_some() && !remote_control && (record.embedded || launch::version_shares_a_home(version))
}
