//! The stop step of a command, and the wait for the exit of the supervisor.

use std::time::Duration;

use codexd_core::contract::{ErrorCode, Failure};
use codexd_core::identity::Pid;
use codexd_core::lifecycle::SupervisorSeen;
use codexd_core::limits::SUPERVISOR_TIMEOUT_MS;
use codexd_host::service::supervisor::{self, ConnectionError, Order, Report, SupervisorConnection};

use super::Drive;
use crate::failures;
use crate::observe::Snapshot;
use crate::progress::ProgressReporter;
use crate::ready::NotReady;

impl Drive<'_> {
    pub(super) fn stop(&mut self, snapshot: &Snapshot) -> Result<(), Failure> {
        // A supervisor without a server has nothing to stop but, at most, a gateway.
        let is_managed =
            !matches!(snapshot.observation.supervisor, SupervisorSeen::Idle | SupervisorSeen::Absent);
        if !self.order(&Order::Stop { policy: self.request.policy, failed: false })? {
            return Ok(());
        }
        let Some(mut connection) = self.connection.take() else { return Ok(()) };
        self.await_leaving(&mut connection, &mut ProgressReporter::start())?;
        match connection.await_exit(&self.context.home, Duration::from_millis(SUPERVISOR_TIMEOUT_MS)) {
            Ok(()) => {}
            Err(error) => return Err(failures::supervisor(&self.context.home, &error)),
        }
        self.progress.stopped |= is_managed;
        Ok(())
    }

    /// Waits until the supervisor reports that no process is left, with progress lines.
    pub(super) fn await_leaving(
        &self,
        connection: &mut SupervisorConnection,
        progress: &mut ProgressReporter,
    ) -> Result<(), Failure> {
        loop {
            match connection.next(progress.next_due()) {
                Ok(Report::Leaving) | Err(ConnectionError::Gone) => return Ok(()),
                Ok(Report::Swept { left, .. }) if !left.is_empty() => {
                    return Err(still_alive(&left));
                }
                Ok(Report::Unkillable { pid }) => return Err(self.not_ready(NotReady::Unkillable(pid))),
                Ok(_) => {}
                Err(ConnectionError::Silent(_)) if !supervisor::answers(&self.context.home) => {
                    return Err(failures::supervisor_hangs(&connection.supervisor));
                }
                Err(ConnectionError::Silent(_)) => {
                    let grace = self.request.policy.grace_ms.map(|ms| format!(" for up to {} s", ms / 1_000));
                    progress.report(|| {
                        format!("waiting{} for running turns to finish", grace.unwrap_or_default())
                    });
                }
                Err(error) => return Err(failures::supervisor(&self.context.home, &error)),
            }
        }
    }
}

pub(super) fn still_alive(left: &[Pid]) -> Failure {
    let pids: Vec<u32> = left.iter().map(|pid| pid.0).collect();
    let message = format!("processes that the app-server started are still alive: {pids:?}");
    Failure::new(ErrorCode::StopTimeout, message).with("left", pids)
}
