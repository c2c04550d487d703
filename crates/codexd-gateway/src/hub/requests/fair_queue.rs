//! Fair scheduling: requests of all clients are dispatched round robin, and never more at once than upstream takes.
//!
//! App-server 0.169.0 has one queue of 128 for all connections and refuses what does not fit. The queue empties
//! quickly, however long the requests then take, so a permit is released with the response or after [`SLOT_MAX_MS`].

use crate::hub::clients::client::QueuedRequest;
use crate::hub::event::{ClientId, Text};
use crate::hub::requests::dispatch::DispatchOutcome;
use crate::hub::requests::ordering::OrderingKey;
use crate::hub::requests::pending::Origin;
use crate::hub::{Hub, Timer, text};
use crate::limits::{
    HEARD_AGAIN_BELOW, HELD_MAX_MS, SLOT_MAX_MS, SLOTS_MAX, SLOTS_PER_CLIENT_MAX, WAITING_BEFORE_READY_BYTES,
    WAITING_BYTES_MAX, WAITING_MAX,
};
use codexd_protocol::envelope::{self, Message};

/// Error code of a failure that the request did not cause.
pub(in crate::hub) const SERVER_ERROR: i64 = -32000;

impl Hub {
    /// Adds a client with queued requests to the run queue.
    pub(in crate::hub) fn join_run_queue(&mut self, id: ClientId) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let most = if client.is_ready() { WAITING_BYTES_MAX } else { WAITING_BEFORE_READY_BYTES };
        let full = client.queued.len() >= WAITING_MAX || client.queued_bytes >= most;
        client.is_paused |= full;
        if !client.queued.is_empty() && !client.is_in_run_queue {
            client.is_in_run_queue = true;
            self.run_queue.push_back(id);
            self.without_deadline.push(id);
        }
    }

    /// Dispatches what can be dispatched, one request of each client in turn.
    pub(in crate::hub) fn schedule(&mut self) {
        self.dispatch_queued();
        // Every request that is still queued has a deadline.
        while let Some(id) = self.without_deadline.pop() {
            if let Some(client) = self.clients.get_mut(&id)
                && client.is_in_run_queue
                && !client.has_queue_timer
            {
                client.has_queue_timer = true;
                self.set_timer(HELD_MAX_MS, Timer::QueueTimeout(id));
            }
        }
    }

    fn dispatch_queued(&mut self) {
        let mut idle_turns = 0;
        let may_send = self.serving.is_some() && self.now >= self.overloaded_until;
        while may_send && idle_turns < self.run_queue.len() && self.in_flight < SLOTS_MAX {
            if self.has_sent_enough() {
                break;
            }
            let Some(id) = self.run_queue.pop_front() else { break };
            let sent = self.dispatch_next(id);
            let Some(client) = self.clients.get_mut(&id) else { continue };
            if client.queued.is_empty() {
                client.is_in_run_queue = false;
            } else {
                self.run_queue.push_back(id);
                idle_turns += usize::from(!sent);
            }
            if sent {
                idle_turns = 0;
            }
        }
    }

    /// Dispatches the first request of a client that is not blocked. Returns whether there was one.
    fn dispatch_next(&mut self, id: ClientId) -> bool {
        let mut held: Vec<OrderingKey> = Vec::new();
        let mut at = 0;
        loop {
            let Some(client) = self.clients.get_mut(&id) else { return false };
            let Some(waiting) = client.queued.get_mut(at) else { return false };
            if held.iter().any(|earlier| waiting.lane().is_behind(earlier)) {
                at += 1;
                continue;
            }
            let Some(mut waiting) = client.queued.remove(at) else { return false };
            let dispatched = self.dispatch(id, &waiting);
            if let DispatchOutcome::Done = dispatched {
                self.on_dequeued(id, waiting.text.len());
                return true;
            }
            if let DispatchOutcome::BlockedByKey = dispatched {
                held.push(waiting.lane().clone());
            }
            let Some(client) = self.clients.get_mut(&id) else { return false };
            client.queued.insert(at, waiting);
            if let DispatchOutcome::Blocked = dispatched {
                return false;
            }
            at += 1;
        }
    }

    /// A request has left its client's queue.
    fn on_dequeued(&mut self, id: ClientId, bytes: usize) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        client.queued_bytes = client.queued_bytes.saturating_sub(bytes);
        if client.queued.is_empty() {
            client.queued.shrink_to(0);
        }
        if client.is_paused
            && client.queued.len() < HEARD_AGAIN_BELOW
            && client.queued_bytes < WAITING_BYTES_MAX
        {
            client.is_paused = false;
            self.readable.push(id);
        }
    }

    pub(in crate::hub) fn has_permit_for(&self, id: ClientId) -> bool {
        self.in_flight < SLOTS_MAX
            && self.clients.get(&id).is_some_and(|client| client.in_flight < SLOTS_PER_CLIENT_MAX)
    }

    pub(in crate::hub) fn acquire_permit(&mut self, id: ClientId, call: u64) {
        self.in_flight += 1;
        if let Some(client) = self.clients.get_mut(&id) {
            client.in_flight += 1;
        }
        if self.permits.is_empty() {
            self.set_timer(SLOT_MAX_MS, Timer::ReleasePermits);
        }
        self.permits.push_back((self.now + SLOT_MAX_MS, call));
    }

    pub(in crate::hub) fn release_permit(&mut self, id: ClientId) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if let Some(client) = self.clients.get_mut(&id) {
            client.in_flight = client.in_flight.saturating_sub(1);
        }
    }

    pub(in crate::hub) fn release_expired_permits(&mut self) {
        while let Some(&(at, id)) = self.permits.front() {
            let call = self.pending.get_mut(&id).filter(|call| call.has_permit);
            match call {
                Some(_) if at > self.now => {
                    let wait = at.since_ms(self.now);
                    return self.set_timer(wait, Timer::ReleasePermits);
                }
                Some(call) => {
                    call.has_permit = false;
                    call.shorten();
                    if let Origin::Client { client, .. } = call.origin {
                        self.release_permit(client);
                    }
                }
                None => {}
            }
            self.permits.pop_front();
        }
    }

    /// Queued requests of a client time out.
    pub(in crate::hub) fn on_queue_timeout(&mut self, id: ClientId) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        client.has_queue_timer = false;
        let is_due = |waiting: &QueuedRequest| waiting.since + HELD_MAX_MS <= self.now;
        let (due, wait): (Vec<QueuedRequest>, _) = client.queued.drain(..).partition(is_due);
        client.queued = wait.into();
        if let Some(first) = client.queued.iter().map(|waiting| waiting.since + HELD_MAX_MS).min() {
            client.has_queue_timer = true;
            let wait = first.since_ms(self.now);
            self.set_timer(wait, Timer::QueueTimeout(id));
        }
        for each in due {
            if let Ok(Message::Request { id: raw, .. }) = envelope::parse(&each.text) {
                self.send_to_client(id, unavailable(raw.get()));
            }
            self.on_dequeued(id, each.text.len());
        }
    }

    /// Answers requests that are queued for a thread with the error of the app-server that refuses to load it.
    /// Unsubscribing does not need the thread.
    pub(in crate::hub) fn refuse_queued_for_thread(&mut self, thread: &str, error: &str) {
        let mut clients: Vec<ClientId> = self.clients.keys().copied().collect();
        clients.sort_unstable();
        let lane = OrderingKey::Thread(thread.into());
        for id in clients {
            let Some(client) = self.clients.get_mut(&id) else { continue };
            let (due, wait): (Vec<QueuedRequest>, _) =
                client.queued.drain(..).partition(|waiting| waiting.is_refused_with(&lane));
            client.queued = wait.into();
            for each in due {
                if let Ok(Message::Request { id: raw, .. }) = envelope::parse(&each.text) {
                    let text = format!(r#"{{"id":{},"error":{error}}}"#, raw.get());
                    self.send_to_client(id, text.into());
                }
                self.on_dequeued(id, each.text.len());
            }
        }
    }

    /// The app-server refused a client's dedicated connection: answers the requests that need it with an error.
    pub(in crate::hub) fn refuse_queued_dedicated(&mut self, id: ClientId, error: &str) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let waiting = std::mem::take(&mut client.queued);
        let (due, wait): (Vec<QueuedRequest>, Vec<QueuedRequest>) =
            waiting.into_iter().partition(|each| self.uses_dedicated(&each.text));
        if let Some(client) = self.clients.get_mut(&id) {
            client.queued = wait.into();
        }
        let said = text::string(error, "message").unwrap_or_default();
        let message = format!("the app-server refused a connection for this client's own requests: {said}");
        for each in due {
            if let Ok(Message::Request { id: raw, .. }) = envelope::parse(&each.text) {
                self.send_to_client(id, text::error(raw.get(), SERVER_ERROR, &message, None));
            }
            self.on_dequeued(id, each.text.len());
        }
    }
}

/// The response to a request that timed out in the queue.
pub(in crate::hub) fn unavailable(raw_id: &str) -> Text {
    let data = serde_json::json!({"reason": "appServerUnavailable", "retryable": true});
    let message = format!("no app-server has answered for {} s; try again", HELD_MAX_MS / 1_000);
    text::error(raw_id, SERVER_ERROR, &message, Some(&data))
}
