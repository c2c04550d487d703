//! Who may be asked about a thread.

use codexd_core::config::SubagentApprovals;
use serde_json::Value;

use super::World;
use crate::hub::ClientId;

impl World {
    /// Only a client that has joined a thread, or one that it descends from, is asked about it.
    pub(super) fn assert_no_bystander_is_asked(&self, client: ClientId, told: &Value) {
        let Some(joined) = self.clients.get(&client).map(|seen| &seen.joined) else { return };
        let thread = told["params"]["threadId"].as_str();
        let Some(thread) = thread.filter(|_| told.get("id").is_some() && told.get("method").is_some()) else {
            return;
        };
        let lineage = std::iter::successors(Some(thread), |id| self.parents.get(*id).map(String::as_str));
        let may = self.subagent_approvals == SubagentApprovals::All;
        assert!(may || lineage.into_iter().any(|id| joined.contains(id)), "{client:?} is asked {told}");
    }
}
