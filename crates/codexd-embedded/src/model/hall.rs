//! Everything that the threads share: who listens, what time it is, what has been said in this step.

use std::collections::{BTreeMap, BTreeSet};

use codexd_protocol::RequestId;
use serde_json::{Value, json};

use crate::ids::{ConnectionId, ItemId, Minter, ServerRequestId, ThreadId};
use crate::model::Action;
use crate::model::connections::Connections;
use crate::moment::Moment;
use crate::refusal::Refusal;
use crate::settings::Settings;
use crate::wire;

/// The shared part of the state.
#[derive(Debug)]
pub(crate) struct Hall {
    pub now: Moment,
    pub settings: Settings,
    pub minter: Minter,
    pub connections: Connections,
    /// Which thread waits for the answer to which request.
    pub approvals: BTreeMap<ServerRequestId, ThreadId>,
    pub draining: bool,
    next_request: i64,
    /// Counted from a number of this process's own, so that the ids in a thread's history stay unique over restarts.
    model_calls: u64,
    actions: Vec<Action>,
}

/// A request that is being answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker<'a> {
    pub connection: ConnectionId,
    pub id: &'a RequestId,
}

impl Hall {
    pub(crate) fn new(settings: Settings, mut minter: Minter) -> Self {
        let model_calls = minter.first_call();
        Self {
            now: Moment::default(),
            settings,
            minter,
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

    /// Answers a request.
    pub(crate) fn reply(&mut self, asker: Asker<'_>, outcome: Result<Value, Refusal>) {
        let frame = wire::reply(asker.id, outcome);
        self.act(Action::Tell { to: vec![asker.connection], frame });
    }

    /// Tells every client that has introduced itself.
    pub(crate) fn tell_all(&mut self, method: &str, params: &Value) {
        self.tell_these(self.connections.listeners(method), method, params);
    }

    /// Tells one client.
    pub(crate) fn tell_one(&mut self, connection: ConnectionId, method: &str, params: &Value) {
        self.tell(&BTreeSet::from([connection]), method, params);
    }

    /// Tells the subscribers of a thread.
    pub(crate) fn tell(&mut self, subscribers: &BTreeSet<ConnectionId>, method: &str, params: &Value) {
        self.tell_these(self.connections.willing(subscribers, method), method, params);
    }

    /// Sends a request of ours; clients cannot opt out of those.
    pub(crate) fn ask(
        &mut self,
        subscribers: &BTreeSet<ConnectionId>,
        id: ServerRequestId,
        method: &str,
        params: &Value,
    ) {
        if !subscribers.is_empty() {
            let frame = wire::request(id, method, params);
            self.act(Action::Tell { to: subscribers.iter().copied().collect(), frame });
        }
    }

    /// Upstream's account limits: always told after the tokens, always empty here.
    pub(crate) fn tell_rate_limits(&mut self, subscribers: &BTreeSet<ConnectionId>) {
        let limits = json!({"rateLimits": {
            "limitId": "codex", "limitName": null, "normalModelSlug": null, "primary": null, "secondary": null,
            "credits": null, "individualLimit": null, "spendControlReached": null, "planType": null,
            "rateLimitReachedType": null,
        }});
        self.tell(subscribers, "account/rateLimits/updated", &limits);
    }

    pub(crate) fn next_request(&mut self, thread: ThreadId) -> ServerRequestId {
        let id = ServerRequestId(self.next_request);
        self.next_request += 1;
        self.approvals.insert(id, thread);
        id
    }

    /// Counts a call of the model.
    pub(crate) fn count_model_call(&mut self) {
        self.model_calls += 1;
    }

    /// The id of what the call that was counted last brings about: `msg_3`, `call_3`.
    pub(crate) fn model_item(&self, kind: &str) -> ItemId {
        ItemId(format!("{kind}_{}", self.model_calls))
    }

    fn tell_these(&mut self, to: Vec<ConnectionId>, method: &str, params: &Value) {
        if !to.is_empty() {
            let frame = wire::notification(method, params, self.now);
            self.act(Action::Tell { to, frame });
        }
    }
}
