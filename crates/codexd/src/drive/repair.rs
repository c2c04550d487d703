//! The repairs of a command.

use std::time::Duration;

use codexd_core::contract::{ErrorCode, Failure};
use codexd_core::identity::Pid;
use codexd_core::lifecycle::{Command, Gone, ListenerSeen, RecordProblem, Repair};
use codexd_core::limits::{BUSY_SUPERVISOR_TIMEOUT_MS, SUPERVISOR_END_TIMEOUT_MS};
use codexd_core::plural::counted;
use codexd_core::record::RecordDefect;
use codexd_host::elsewhere::{Elsewhere, Place};
use codexd_host::service::supervisor;
use codexd_host::{atomic, orphans, pid_record, process, socket_path};
use rustix::process::Signal;

use super::Drive;
use super::stop::still_alive;
use crate::observe::{self, Orphans, OwnServer, Snapshot};
use crate::{failures, output};

impl Drive<'_> {
    pub(super) fn repair(&mut self, repair: Repair, snapshot: &Snapshot) -> Result<(), Failure> {
        let home = &self.context.home;
        match repair {
            Repair::Record(trouble) => {
                let (found, what) = name_problem(&trouble);
                match pid_record::remove_unusable(home) {
                    Ok(()) => {}
                    // `stop` can succeed without a write if no server runs.
                    Err(error) if self.request.command == Command::Stop => {
                        output::say(&format!("warning: {what}; failed to remove the record: {error}"));
                        self.record_stays = true;
                        return Ok(());
                    }
                    Err(error) => return Err(failures::state("remove", &home.pid_record(), &error)),
                }
                self.context.repaired(found, format!("{what}; removed the record"));
            }
            Repair::Socket => self.remove_stale_socket(snapshot)?,
            Repair::UnresponsiveSupervisor(pid) => self.end_unresponsive_supervisor(pid)?,
            Repair::Orphaned => self.end_orphans(snapshot.orphaned.as_ref())?,
        }
        Ok(())
    }

    /// Checks again right before the removal: a process may have begun to listen.
    fn remove_stale_socket(&mut self, snapshot: &Snapshot) -> Result<(), Failure> {
        let socket = self.context.home.control_socket();
        let ours = OwnServer::of(snapshot.server.as_ref(), snapshot.codexd.as_ref());
        let again = observe::listener(&self.context.home, ours);
        if again.seen != ListenerSeen::Stale {
            return Ok(());
        }
        let our_link = socket_path::is_ours(&socket);
        atomic::remove_if_exists(&socket)
            .map_err(|error| failures::state("remove the stale socket", &socket, &error))?;
        if our_link {
            return Ok(());
        }
        self.context.repaired(
            "stale-socket",
            format!("removed {}: stale socket, no process listened on it", socket.display()),
        );
        Ok(())
    }

    fn end_unresponsive_supervisor(&mut self, pid: Option<Pid>) -> Result<(), Failure> {
        self.connection = None;
        let Some(unresponsive) = pid.and_then(|pid| process::identify(pid).ok()) else {
            // A supervisor that was exiting is gone or almost gone: observe again.
            let timeout = Duration::from_millis(BUSY_SUPERVISOR_TIMEOUT_MS);
            if pid.is_some()
                || supervisor::await_free_lock(&self.context.home, timeout).is_ok_and(|free| free)
            {
                return Ok(());
            }
            let unidentified =
                Elsewhere { place: Place::Unidentified, host_name: None, has_supervisor: true };
            return Err(failures::elsewhere(&self.context.home, &unidentified));
        };
        if !supervisor::is_identified(unresponsive.pid, &self.context.home) {
            // The kernel shows neither arguments nor open files of a process that is exiting.
            if process::await_end(&unresponsive, Duration::from_millis(SUPERVISOR_END_TIMEOUT_MS)) {
                return Ok(());
            }
            let message = format!(
                "pid {} listens on the supervisor's socket of {} but cannot be identified as a supervisor",
                unresponsive.pid,
                self.context.home.root().display()
            );
            return Err(Failure::new(ErrorCode::SupervisorFailed, message)
                .hint("end that process; codexd does not signal processes that it cannot identify")
                .with("pid", unresponsive.pid.0));
        }
        process::signal(&unresponsive, Signal::KILL).map_err(|error| {
            Failure::new(
                ErrorCode::SupervisorFailed,
                format!("failed to kill the supervisor (pid {}): {error}", unresponsive.pid),
            )
        })?;
        // A process that waits for a disk exits when the disk has answered.
        if !process::await_end(&unresponsive, Duration::from_millis(BUSY_SUPERVISOR_TIMEOUT_MS)) {
            return Err(Failure::new(
                ErrorCode::SupervisorFailed,
                format!("the supervisor (pid {}) is still alive after SIGKILL", unresponsive.pid),
            ));
        }
        self.context.repaired(
            "unresponsive-supervisor",
            format!("killed the supervisor (pid {}): it did not respond", unresponsive.pid),
        );
        Ok(())
    }

    fn end_orphans(&self, found: Option<&Orphans>) -> Result<(), Failure> {
        let Some(found) = found else { return Ok(()) };
        let swept = orphans::sweep(&found.evidence, found.excluded());
        if !swept.left.is_empty() {
            return Err(still_alive(&swept.left));
        }
        let message =
            format!("ended {} of an app-server that has exited", counted(swept.ended, "orphaned process"));
        self.context.repaired("orphaned-processes", message);
        Ok(())
    }
}

/// The `found` of a record that names no running process, and a sentence about it.
pub fn name_problem(trouble: &RecordProblem) -> (&'static str, String) {
    match trouble {
        RecordProblem::Defect(defect) => {
            let found = match defect {
                RecordDefect::Empty => "empty-record",
                RecordDefect::Garbage(_) => "garbage-record",
                RecordDefect::ImpossiblePid(_) => "impossible-pid-record",
                RecordDefect::Unidentified(_) => "unidentified-record",
            };
            (found, defect.to_string())
        }
        RecordProblem::Gone(gone) => {
            let (found, what) = match gone {
                Gone::Stale => ("stale-record", "the recorded app-server no longer runs"),
                Gone::Reused => ("reused-pid", "the recorded pid belongs to another process now"),
                Gone::Zombie => {
                    ("zombie-server", "the recorded app-server is a zombie: it has exited and was not reaped")
                }
                Gone::Reboot => ("reboot", "the machine was rebooted after the app-server was recorded"),
                Gone::Foreign => ("foreign-process", "the recorded pid is not an app-server"),
                Gone::OtherNamespace => (
                    "other-namespace",
                    "the recorded app-server ran in another pid namespace, such as a container",
                ),
            };
            (found, what.to_owned())
        }
    }
}
