//! The hub's state as JSON, for `codexd debug hub`: ids, methods, ages and counts. No text of a client, a model or a tool is in it.

use serde_json::{Value, json};

use crate::hub::Hub;
use crate::hub::clients::client::Client;
use crate::hub::event::{BlockedOn, Connection, Text};
use crate::hub::requests::pending::{Origin, PendingRequest};
use crate::hub::threads::thread::Thread;
use crate::limits::{SNAPSHOT_INNER_LIST_MAX, SNAPSHOT_LIST_MAX};

/// The request that asks for the snapshot. The gateway answers it itself, also before `initialize`.
pub(super) const METHOD: &str = "codexd/debug/hub";

impl Connection {
    /// The app-server of the connection and, for a dedicated connection, its client.
    pub(in crate::hub) fn snapshot(self) -> Value {
        match self {
            Connection::Shared(server) => json!({"server": server.0}),
            Connection::Dedicated(client, server) => json!({"server": server.0, "client": client.0}),
        }
    }
}

impl Hub {
    /// Everything that explains why a thread, a client or a request waits.
    pub(super) fn snapshot(&self) -> Value {
        json!({
            "nowMs": self.now.0,
            "currentServer": self.servers.current().map(|server| server.0),
            "servingServer": self.servers.serving().map(|server| server.0),
            "servers": list(self.servers.iter().map(|(id, server)| json!({
                "server": id.0,
                "sharedConnection": name(&server.shared),
                "isOutgoing": server.is_outgoing,
                "isDraining": server.is_draining,
                "isRetired": server.is_retired,
                "hasListedThreads": server.is_listed,
            }))),
            "fullConnections": list(self.back_pressure.full_connections().map(Connection::snapshot)),
            "handover": self.handover_report().map(|report| json!({
                "from": report.from.map(|server| server.0),
                "to": report.to.map(|server| server.0),
                "state": name(&report.state),
                "ageMs": report.took_ms,
                "threadsMoved": report.threads_moved,
            })),
            "isRecovering": self.recovery.is_under_way(),
            "queue": {
                "clientsWaiting": self.queue.clients_waiting(),
                "requestsInFlight": self.queue.in_flight(),
                "pausedForMs": self.queue.paused_until().since_ms(self.now),
            },
            "clients": list(self.clients.values().map(|client| self.client_snapshot(client))),
            "threads": list(self.threads.values().map(|thread| self.thread_snapshot(thread))),
            "pendingRequests": list(self.pending.iter().map(|(id, pending)| self.request_snapshot(id, pending))),
            "serverRequests": list(self.server_requests.snapshot()),
            "timers": self.timers.len(),
        })
    }

    /// Each thread with its state and what blocks it, for the log.
    pub(crate) fn thread_states(&self) -> Vec<(String, String)> {
        let described = self.threads.iter().map(|(id, thread)| {
            let (state, blocked) = (name(&thread.state), blocked_on(thread));
            (id.to_string(), format!("{state} on app-server {}, blocked on {blocked}", thread.server.0))
        });
        described.collect()
    }

    fn client_snapshot(&self, client: &Client) -> Value {
        json!({
            "client": client.id.0,
            "stage": name(&client.stage),
            "dedicatedConnection": client.dedicated.open().map(|server| server.0),
            "requestsInFlight": client.in_flight,
            "isPaused": client.is_paused,
            "queuedRequests": client.queued.len(),
            "queuedBytes": client.queued_bytes,
            "queue": inner_list(client.queued.iter().map(|waiting| json!({
                "method": method(&waiting.text),
                "ageMs": self.now.since_ms(waiting.since),
                "refusedByDrainingServer": waiting.refused_by.map(|server| server.0),
            }))),
        })
    }

    fn thread_snapshot(&self, thread: &Thread) -> Value {
        json!({
            "threadId": thread.id.to_string(),
            "server": thread.server.0,
            "state": name(&thread.state),
            "blockedOn": blocked_on(thread),
            "isBusy": thread.is_busy(self.now),
            "turns": inner_list(thread.turns.iter().map(|turn| json!(*turn.id))),
            "openItems": thread.items.len(),
            "viewers": thread.viewers().len(),
            "isWatched": thread.is_watched(),
            "isSubagent": thread.is_child,
            "isEphemeral": thread.is_ephemeral(),
            "hasGoal": thread.goal.reported().is_some(),
            "isGoalSuspended": thread.goal.is_suspended(),
            "isRefused": thread.load_refusal.is_some(),
            "retries": thread.load_attempts,
            "retryInMs": thread.retry_at.since_ms(self.now),
            "requestsUnderWay": self.pending.count_of_thread(&thread.id),
        })
    }

    fn request_snapshot(&self, id: u64, pending: &PendingRequest) -> Value {
        let overdue = pending.overdue_at.map(|at| at.since_ms(self.now));
        match &pending.origin {
            Origin::Client { client, kind, thread, text, .. } => json!({
                "id": id,
                "connection": pending.connection.snapshot(),
                "client": client.0,
                "method": method(text),
                "kind": name(kind),
                "threadId": thread.as_ref().map(ToString::to_string),
                "overdueInMs": overdue,
            }),
            Origin::Internal(request) => json!({
                "id": id,
                "connection": pending.connection.snapshot(),
                "internal": name(request),
                "threadId": request.thread().map(ToString::to_string),
                "overdueInMs": overdue,
            }),
        }
    }
}

/// The first entries of a list, which is in no order, and the number of all.
fn list(entries: impl Iterator<Item = Value>) -> Value {
    list_of(SNAPSHOT_LIST_MAX, entries)
}

/// A list in an entry of a list.
pub(super) fn inner_list(entries: impl Iterator<Item = Value>) -> Value {
    list_of(SNAPSHOT_INNER_LIST_MAX, entries)
}

fn list_of(max: usize, entries: impl Iterator<Item = Value>) -> Value {
    let (mut first, mut count) = (Vec::new(), 0_usize);
    for entry in entries {
        count += 1;
        if first.len() < max {
            first.push(entry);
        }
    }
    if count > first.len() { json!({"count": count, "first": first}) } else { Value::Array(first) }
}

/// The method of a message; null for one that has none or cannot be read.
pub(super) fn method(text: &Text) -> Value {
    match codexd_protocol::parse(text) {
        Ok(codexd_protocol::Message::Request { method, .. })
        | Ok(codexd_protocol::Message::Notification { method, .. }) => method.into(),
        _ => Value::Null,
    }
}

/// The name of a variant in camelCase, without its data.
fn name(value: &impl std::fmt::Debug) -> String {
    let text = format!("{value:?}");
    let end = text.find(|letter: char| !letter.is_ascii_alphanumeric()).unwrap_or(text.len());
    let (first, rest) = text[..end].split_at(1.min(end));
    format!("{}{rest}", first.to_ascii_lowercase())
}

/// Null while nothing keeps it where it is.
fn blocked_on(thread: &Thread) -> Value {
    if thread.blocked_on == BlockedOn::Nothing { Value::Null } else { name(&thread.blocked_on).into() }
}
