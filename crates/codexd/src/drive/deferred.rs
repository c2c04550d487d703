//! A command that runs inside the app-server that it ends or replaces: it gives the order and ends, and the supervisor goes on. The
//! server waits for its running turns, and one of them waits for this command.

use codexd_core::contract::{Backend, Failure, LifecycleStatus};
use codexd_core::lifecycle::SupervisorSeen;
use codexd_host::service::supervisor::Order;
use serde_json::json;

use super::{Drive, Outcome};
use crate::observe::Snapshot;

impl Drive<'_> {
    /// Whether a server can start only when the one in which this command runs has ended.
    pub(super) fn must_wait_for_caller(&self, snapshot: &Snapshot) -> bool {
        let is_stopping = matches!(snapshot.observation.supervisor, SupervisorSeen::Stopping(_));
        is_stopping && snapshot.server.is_some() && self.context.caller().is_inside()
    }

    /// The supervisor starts a server when the one that is ending has ended.
    pub(super) fn start_after_caller(&mut self, snapshot: &Snapshot) -> Result<Option<Outcome>, Failure> {
        let (program, gateway) = self.launch_specs(snapshot)?;
        if !self.order(&Order::Start { program, gateway })? {
            return Ok(None);
        }
        Ok(Some(self.deferred(LifecycleStatus::Restarting, snapshot)))
    }

    /// The supervisor ends the server within the grace.
    pub(super) fn stop_after_caller(&mut self, snapshot: &Snapshot) -> Result<Option<Outcome>, Failure> {
        if !self.order(&Order::Stop { policy: self.request.policy, failed: false })? {
            return Ok(None);
        }
        Ok(Some(self.deferred(LifecycleStatus::Stopping, snapshot)))
    }

    /// What the caller is told of an order that the supervisor has taken.
    pub(super) fn deferred(&self, status: LifecycleStatus, snapshot: &Snapshot) -> Outcome {
        let record = snapshot.codexd.as_ref();
        let from = snapshot.server.as_ref().map(|server| server.pid);
        let replaced = status == LifecycleStatus::Restarting;
        Outcome {
            status,
            backend: Some(Backend::Pid),
            pid: None,
            answer: None,
            embedded: record.is_some_and(|record| record.embedded),
            behind_gateway: record.is_some_and(|record| record.socket.is_some()),
            handover: replaced.then(|| json!({"from": from, "to": null, "state": "waiting"})),
        }
    }
}
