//! How things stand, for `status`.

use serde::Serialize;

use super::Hub;
use super::event::HandoverReport;
use super::servers::LinkState;

/// How things stand in the gateway.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// Connected clients.
    pub clients: usize,
    /// Threads that an app-server has loaded.
    pub threads: usize,
    /// Turns that run.
    pub turns: usize,
    /// Questions that wait for somebody's answer.
    pub approvals: usize,
    /// Connections to app-servers.
    pub links: usize,
    /// The replacement that is under way.
    pub handover: Option<HandoverReport>,
}

impl Hub {
    /// How things stand.
    pub fn snapshot(&self) -> Snapshot {
        let shared = self.servers.values().filter(|server| server.shared == LinkState::Up).count();
        let own = |client: &super::Client| usize::from(client.has_own()) + client.dedicated.draining().len();
        Snapshot {
            clients: self.clients.len(),
            threads: self.threads.len(),
            turns: self.threads.values().map(|thread| thread.turns.len()).sum(),
            approvals: self.asks.len(),
            links: shared + self.clients.values().map(own).sum::<usize>(),
            handover: self.handover_report(),
        }
    }
}
