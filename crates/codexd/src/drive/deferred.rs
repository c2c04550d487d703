//! A command that runs inside the app-server that it stops or replaces: it gives the order and exits, and the supervisor
//! continues. Otherwise the server would wait for the turn, and the turn for the command.

use codexd_core::contract::{Failure, LifecycleStatus};
use codexd_core::lifecycle::SupervisorSeen;
use codexd_host::service::supervisor::Order;
use serde_json::json;

use super::{Drive, Outcome};
use crate::observe::Snapshot;

impl Drive<'_> {
    /// Whether a server can start only after the exit of the one in which this command runs.
    pub(super) fn must_wait_for_caller(&self, snapshot: &Snapshot) -> bool {
        let is_stopping = matches!(snapshot.observation.supervisor, SupervisorSeen::Stopping(_));
        is_stopping && snapshot.server.is_some() && self.context.caller().is_inside()
    }

    /// Orders the supervisor to start a server after the exit of the one that is stopping.
    pub(super) fn start_after_caller(&mut self, snapshot: &Snapshot) -> Result<Option<Outcome>, Failure> {
        let (program, gateway) = self.launch_specs(snapshot)?;
        if !self.order(&Order::Start { program, gateway })? {
            return Ok(None);
        }
        Ok(Some(self.deferred(LifecycleStatus::Restarting, snapshot)))
    }

    /// Orders the supervisor to stop the server within the grace period.
    pub(super) fn stop_after_caller(&mut self, snapshot: &Snapshot) -> Result<Option<Outcome>, Failure> {
        if !self.order(&Order::Stop { policy: self.request.policy, failed: false })? {
            return Ok(None);
        }
        Ok(Some(self.deferred(LifecycleStatus::Stopping, snapshot)))
    }

    /// The outcome of an order that the supervisor carries out later.
    pub(super) fn deferred(&self, status: LifecycleStatus, snapshot: &Snapshot) -> Outcome {
        let record = snapshot.codexd.as_ref();
        let from = snapshot.server.as_ref().map(|server| server.pid);
        let replaced = status == LifecycleStatus::Restarting;
        Outcome {
            status,
            backend: Some(self.context.backend()),
            pid: None,
            answer: None,
            embedded: record.is_some_and(|record| record.embedded),
            behind_gateway: record.is_some_and(|record| record.socket.is_some()),
            handover: replaced.then(|| json!({"from": from, "to": null, "state": "waiting"})),
        }
    }
}
