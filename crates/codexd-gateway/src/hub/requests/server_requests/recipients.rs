//! Which clients receive a server request.
//!
//! A request about a thread goes to the clients that explicitly watch the thread or one of its ancestors. A client
//! that upstream merely notifies about sub-agent threads does not receive it, unless the setting says so.

use crate::hub::Hub;
use crate::hub::event::{Action, ClientId, Connection, Text, ThreadId};
use crate::hub::requests::server_requests::PendingServerRequest;
use crate::hub::threads::thread::{Audience, Thread, Viewer};
use codexd_core::config::SubagentApprovals;

impl Hub {
    /// Every client that should receive the request now.
    pub(super) fn recipients(&self, request: &PendingServerRequest) -> Vec<ClientId> {
        let ready = self.clients.values().filter(|client| client.is_ready());
        let mut recipients: Vec<ClientId> = match (&request.thread, request.connection) {
            (None, Connection::Dedicated(client, _)) => return vec![client],
            // Upstream asks one client that can attest, and waits for the answer before it calls the model.
            (None, _) if request.is_attestation => {
                let attests = ready.filter(|client| client.capabilities.attests);
                return attests.map(|client| client.id).min().into_iter().collect();
            }
            (None, _) => ready.map(|client| client.id).collect(),
            (Some(thread), _) => self.approvers(thread),
        };
        recipients.retain(|client| {
            let capabilities = self.clients.get(client).map(|client| &client.capabilities);
            capabilities.is_some_and(|it| request.may_see(it.experimental, it.human_approval))
        });
        recipients.sort_unstable();
        recipients.dedup();
        recipients
    }

    /// The clients that decide requests about a thread.
    fn approvers(&self, id: &ThreadId) -> Vec<ClientId> {
        let Some(thread) = self.threads.get(id) else { return Vec::new() };
        if let Audience::Everyone { but, .. } = &thread.audience
            && self.server_requests.subagent_approvals == SubagentApprovals::All
        {
            let ready = self.clients.values().filter(|client| client.is_ready() && !but.contains(&client.id));
            return ready.map(|client| client.id).collect();
        }
        let ancestors = thread.lineage.ancestors().iter().filter_map(|ancestor| self.threads.get(ancestor));
        let of_ancestors =
            ancestors.flat_map(Thread::viewers).filter(|viewer| !thread.has_left(viewer.client));
        thread.viewers().iter().chain(of_ancestors).map(|viewer| viewer.client).collect()
    }

    /// Sends a new viewer the unanswered requests of the thread, repeated if necessary (same as upstream), and those
    /// of sub-agent threads below it.
    pub(in crate::hub) fn send_pending_to_subscriber(&mut self, viewer: &Viewer, thread: &ThreadId) {
        let mut here: Vec<&mut PendingServerRequest> = self
            .server_requests
            .waiting
            .values_mut()
            .filter(|request| request.thread.as_ref() == Some(thread) && request.answer.is_none())
            .filter(|request| request.may_see(viewer.experimental, viewer.human_approval))
            .collect();
        here.sort_by_key(|request| request.number);
        for request in here {
            if !request.recipients.contains(&viewer.client) {
                request.recipients.push(viewer.client);
            }
            self.out.push(Action::SendToClient(viewer.client, request.text.clone()));
        }
        let descends = |id: &ThreadId| {
            self.threads.get(id).is_some_and(|other| other.lineage.ancestors().contains(thread))
        };
        let below = self
            .server_requests
            .waiting
            .values()
            .filter(|request| request.thread.as_ref().is_some_and(descends));
        let mut below: Vec<u64> = below.map(|request| request.number).collect();
        below.sort_unstable();
        below.into_iter().for_each(|number| self.send_to_recipients(number));
    }

    /// The setting has changed: updates the recipients of all requests.
    pub(in crate::hub) fn set_subagent_approvals(&mut self, approvals: SubagentApprovals) {
        self.server_requests.subagent_approvals = approvals;
        let mut numbers: Vec<u64> = self.server_requests.waiting.keys().copied().collect();
        numbers.sort_unstable();
        numbers.into_iter().for_each(|number| self.send_to_recipients(number));
    }

    /// A thread's ancestors have changed: updates the recipients of its requests.
    pub(in crate::hub) fn update_recipients(&mut self, thread: &ThreadId) {
        let waiting =
            self.server_requests.waiting.values().filter(|request| request.thread.as_ref() == Some(thread));
        let mut numbers: Vec<u64> = waiting.map(|request| request.number).collect();
        numbers.sort_unstable();
        numbers.into_iter().for_each(|number| self.send_to_recipients(number));
    }

    /// Sends the resolution to the recipients and to all explicit viewers of the thread.
    pub(super) fn send_resolved(
        &mut self,
        thread: &ThreadId,
        request: &PendingServerRequest,
        method: &str,
        text: &Text,
    ) {
        let mut clients = request.recipients.clone();
        if let Some(thread) = self.threads.get(thread) {
            clients.extend(thread.viewers().iter().map(|viewer| viewer.client));
        }
        clients.sort_unstable();
        clients.dedup();
        for client in clients {
            if self.wants(client, method) {
                self.send_to_client(client, text.clone());
            }
        }
    }
}
