//! What all threads share: the connections, the time, and the actions of the current step.

use std::collections::{BTreeMap, BTreeSet};

use codexd_protocol::RequestId;
use serde_json::{Value, json};

use crate::ids::{ConnectionId, IdGenerator, ItemId, ServerRequestId, ThreadId};
use crate::model::Action;
use crate::model::connections::Connections;
use crate::refusal::Refusal;
use crate::settings::Settings;
use crate::timestamp::Timestamp;
use crate::wire;

/// The part of the state that all threads use.
#[derive(Debug)]
pub(crate) struct SharedState {
    pub now: Timestamp,
    pub settings: Settings,
    pub id_generator: IdGenerator,
    pub connections: Connections,
    /// The thread that waits for the answer to a server request.
    pub approvals: BTreeMap<ServerRequestId, ThreadId>,
    pub draining: bool,
    next_request: i64,
    /// Starts at a number that differs per process, so that item ids in a thread's history stay unique across restarts.
    model_calls: u64,
    actions: Vec<Action>,
}

/// Where a request came from, which is where the response goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin<'a> {
    pub connection: ConnectionId,
    pub id: &'a RequestId,
}

impl SharedState {
    pub(crate) fn new(settings: Settings, mut id_generator: IdGenerator) -> Self {
        let model_calls = id_generator.first_call();
        Self {
            now: Timestamp::default(),
            settings,
            id_generator,
            connections: Connections::default(),
            approvals: BTreeMap::new(),
            draining: false,
            next_request: 0,
            model_calls,
            actions: Vec::new(),
        }
    }

    pub(crate) fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    pub(crate) fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// Responds to a request.
    pub(crate) fn reply(&mut self, origin: Origin<'_>, outcome: Result<Value, Refusal>) {
        let frame = wire::reply(origin.id, outcome);
        self.act(Action::Send { to: vec![origin.connection], frame });
    }

    /// Notifies every initialized client.
    pub(crate) fn broadcast(&mut self, method: &str, params: &Value) {
        self.notify_connections(self.connections.listeners(method), method, params);
    }

    /// Notifies one client.
    pub(crate) fn notify_client(&mut self, connection: ConnectionId, method: &str, params: &Value) {
        self.notify(&BTreeSet::from([connection]), method, params);
    }

    /// Notifies the subscribers of a thread.
    pub(crate) fn notify(&mut self, subscribers: &BTreeSet<ConnectionId>, method: &str, params: &Value) {
        self.notify_connections(self.connections.willing(subscribers, method), method, params);
    }

    /// Sends a server request. Clients cannot opt out of server requests.
    pub(crate) fn send_request(
        &mut self,
        subscribers: &BTreeSet<ConnectionId>,
        id: ServerRequestId,
        method: &str,
        params: &Value,
    ) {
        if !subscribers.is_empty() {
            let frame = wire::request(id, method, params);
            self.act(Action::Send { to: subscribers.iter().copied().collect(), frame });
        }
    }

    /// Sends the account's rate limits, which follow token usage upstream and are always empty here.
    pub(crate) fn notify_rate_limits(&mut self, subscribers: &BTreeSet<ConnectionId>) {
        let limits = json!({"rateLimits": {
            "limitId": "codex", "limitName": null, "normalModelSlug": null, "primary": null, "secondary": null,
            "credits": null, "individualLimit": null, "spendControlReached": null, "planType": null,
            "rateLimitReachedType": null,
        }});
        self.notify(subscribers, "account/rateLimits/updated", &limits);
    }

    pub(crate) fn next_request(&mut self, thread: ThreadId) -> ServerRequestId {
        let id = ServerRequestId(self.next_request);
        self.next_request += 1;
        self.approvals.insert(id, thread);
        id
    }

    /// Counts a model call.
    pub(crate) fn count_model_call(&mut self) {
        self.model_calls += 1;
    }

    /// The id of an item of the current model call: `msg_3`, `call_3`.
    pub(crate) fn model_item(&self, kind: &str) -> ItemId {
        ItemId(format!("{kind}_{}", self.model_calls))
    }

    fn notify_connections(&mut self, to: Vec<ConnectionId>, method: &str, params: &Value) {
        if !to.is_empty() {
            let frame = wire::notification(method, params, self.now);
            self.act(Action::Send { to, frame });
        }
    }
}
