//! Live replacement: a successor is started beside the running server, and the threads are handed over.

use std::ffi::OsString;
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
use codexd_host::launch::app_server;
use codexd_host::process;
use codexd_host::service::supervisor::{self, ConnectionError, Order, SupervisorConnection};
use codexd_protocol::probe;
use serde_json::{Value, json};

use super::{Drive, Handover, OrderResult, Outcome};
use crate::context::VERSION;
use crate::observe::Snapshot;
use crate::progress::ProgressReporter;
use crate::ready::{NotReady, Target, await_ready};
use crate::{failures, migration, prove};

impl Drive<'_> {
    /// Whether a successor may be started beside the running server: a gateway moves threads, and both servers may share the
    /// home.
    pub(super) fn may_overlap(&self, snapshot: &Snapshot) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.gateway.moves)
            && self.could_overlap(snapshot)
    }

    /// The same, whether or not the gateway moves threads yet.
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

    /// Waits until the gateway is connected to the supervisor and moves threads. It may have been started, or have lost its
    /// supervisor, a moment ago; without the wait `restart` would drain the server. `true`: observe again.
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

    /// Starts a successor, waits until it answers, and promotes it. If it does not answer, nothing has changed. Returns the
    /// outcome if this command exits before the replacement.
    pub(super) fn succeed(&mut self, snapshot: &Snapshot) -> Result<Option<Outcome>, Failure> {
        let (program, gateway) = self.launch_specs(snapshot)?;
        if !app_server::shares_a_home(&program) {
            // The two may not run at the same time: stop the old one first.
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
        // The supervisor refuses if the successor has exited meanwhile: observe again.
        if let OrderResult::Taken = self.give(&promote)? {
            self.handover = Some(json!({"from": from, "to": to, "state": "unknown"}));
            self.progress.restarted = true;
        }
        Ok(None)
    }

    /// An answer to `initialize` proves little: the successor also has to load its configuration and to read threads.
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

    /// Checks that the configuration of the new server loads, before a server that answers is stopped for it. A server that
    /// does not answer is replaced in any case.
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

    /// Waits for the exit of a successor that a killed command started: a supervisor starts no second one. `false`: observe
    /// again.
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
                // The supervisor refuses a second successor itself.
                Err(ConnectionError::Silent(_)) => break,
                Err(error) => return Err(failures::supervisor(&self.context.home, &error)),
            }
        }
        Ok(true)
    }

    /// Ends the successor and waits for its exit, so that a replacement that fails leaves no process.
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
        // The next command finds what is left.
        while lives(connection) && connection.next(deadline).is_ok() {}
    }

    /// After a promotion, waits for a report of the gateway about the handover, or until the old server has exited, if the
    /// command wants that. The new server is known to serve, so nothing here makes the command fail.
    pub(super) fn await_handover(&mut self) -> Result<(), Failure> {
        let (Some(mut handover), Some(connection)) = (self.handover.take(), self.connection.as_mut()) else {
            return Ok(());
        };
        let from = handover["from"].as_u64();
        let report_deadline = Instant::now() + Duration::from_millis(HANDOVER_REPORT_TIMEOUT_MS);
        let mut progress = ProgressReporter::start();
        loop {
            // Some reports may have arrived during an earlier wait.
            connection.relayed.drain(..).for_each(|value| merge_report(&mut handover, &value));
            let leaves =
                connection.generations.iter().any(|generation| Some(u64::from(generation.pid.0)) == from);
            // A server with no threads left is about to exit; one with a running turn may take hours.
            let waits = handover["state"] == "waiting";
            // If this command runs inside the old server, that server waits for the turn of this command.
            let is_inside = self.context.caller().is_inside();
            let done = match self.request.handover {
                // Threads that the new server refuses move once the cause is repaired.
                Handover::Completed if !is_inside => !leaves || migration::waits_for_refused_alone(&handover),
                _ => waits || !leaves || Instant::now() >= report_deadline,
            };
            if done {
                break;
            }
            let until = match self.request.handover {
                Handover::Completed if !is_inside => progress.next_due(),
                _ => report_deadline.min(progress.next_due()),
            };
            match connection.next(until) {
                Ok(_) => {}
                Err(ConnectionError::Silent(_)) if !supervisor::answers(&self.context.home) => break,
                Err(ConnectionError::Silent(_)) => {
                    progress.report(|| "waiting for the old app-server to hand over its threads".to_owned());
                }
                // The handover continues without this command.
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

/// Merges a report of the gateway into the known state of the handover.
fn merge_report(handover: &mut Value, value: &Value) {
    if let (Some(known), Some(reported)) = (handover.as_object_mut(), value["handover"].as_object()) {
        let ours = |name: &str| name == "from" || name == "to";
        known.extend(
            reported
                .iter()
                .filter(|(name, _)| !ours(name))
                .map(|(name, value)| (name.clone(), value.clone())),
        );
    }
}

fn successor(connection: &SupervisorConnection) -> Option<(String, Pid)> {
    let successor = connection.generations.iter().find(|generation| generation.role == Role::Successor)?;
    Some((successor.generation_id.clone()?, successor.pid))
}

/// Whether the running server may share its home with another one: it has its own socket, no remote control, and a version that
/// supports it.
fn shares_a_home(connection: Option<&SupervisorConnection>, pid: Pid, record: &CodexdRecord) -> bool {
    let known = connection
        .and_then(|connection| connection.generations.iter().find(|generation| generation.pid == pid));
    let version = known.and_then(|generation| generation.version.as_deref()).unwrap_or_default();
    let arguments = process::arguments(pid);
    let remote_control =
        arguments.is_empty() || app_server::has_remote_control(arguments.iter().map(OsString::as_os_str));
    record.socket.is_some()
        && !remote_control
        && (record.embedded || app_server::version_shares_a_home(version))
}
