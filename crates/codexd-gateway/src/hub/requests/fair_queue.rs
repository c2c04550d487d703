//! Fair scheduling: requests of all clients are dispatched round robin, and never more at once than upstream takes.
//!
//! App-server 0.169.0 has one queue of 128 for all connections and refuses what does not fit. The queue empties
//! quickly, however long the requests then take, so a permit is released with the response or after [`IN_FLIGHT_PERMIT_MS`].

use std::collections::VecDeque;

use crate::hub::clients::client::QueuedRequest;
use crate::hub::event::{ClientId, Now};
use crate::hub::requests::dispatch::DispatchOutcome;
use crate::hub::requests::ordering::OrderingKey;
use crate::hub::requests::pending::Origin;
use crate::hub::{Hub, Timer, text};
use crate::limits::{
    IN_FLIGHT_MAX, IN_FLIGHT_PER_CLIENT_MAX, IN_FLIGHT_PERMIT_MS, QUEUED_BYTES_MAX, QUEUED_MAX,
    QUEUED_MAX_MS, READ_AGAIN_BELOW, UNINITIALIZED_QUEUED_BYTES_MAX,
};
use codexd_protocol::envelope::{self, Message};

/// The clients that wait their turn, and the permits that are taken.
#[derive(Debug, Default)]
pub struct FairQueue {
    /// Clients with queued requests, in scheduling order.
    run_queue: VecDeque<ClientId>,
    /// Clients in `run_queue` whose queue timeout is not set yet.
    without_deadline: Vec<ClientId>,
    /// Expiry time and request id of each in-flight permit.
    permits: VecDeque<(Now, u64)>,
    in_flight: usize,
    /// Upstream reported overload: until then nothing is dispatched.
    overloaded_until: Now,
    /// Clients that may be read from again.
    readable: Vec<ClientId>,
}

impl FairQueue {
    /// Dispatches nothing until then: upstream reported overload.
    pub fn pause_until(&mut self, at: Now) {
        self.overloaded_until = at;
    }

    pub fn paused_until(&self) -> Now {
        self.overloaded_until
    }

    /// Number of clients with queued requests.
    pub fn clients_waiting(&self) -> usize {
        self.run_queue.len()
    }

    /// Number of permits that are taken.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Takes the clients that may be read from again since the last call.
    pub fn take_readable(&mut self, readable: &mut Vec<ClientId>) {
        readable.append(&mut self.readable);
    }
}

impl Hub {
    /// Adds a client with queued requests to the run queue.
    pub(in crate::hub) fn join_run_queue(&mut self, id: ClientId) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let most = if client.is_ready() { QUEUED_BYTES_MAX } else { UNINITIALIZED_QUEUED_BYTES_MAX };
        let full = client.queued.len() >= QUEUED_MAX || client.queued_bytes >= most;
        client.is_paused |= full;
        if !client.queued.is_empty() && !client.is_in_run_queue {
            client.is_in_run_queue = true;
            self.queue.run_queue.push_back(id);
            self.queue.without_deadline.push(id);
        }
    }

    /// Dispatches what can be dispatched, one request of each client in turn.
    pub(in crate::hub) fn schedule(&mut self) {
        self.dispatch_queued();
        // Every request that is still queued has a deadline.
        while let Some(id) = self.queue.without_deadline.pop() {
            if let Some(client) = self.clients.get_mut(&id)
                && client.is_in_run_queue
                && !client.has_queue_timer
            {
                client.has_queue_timer = true;
                self.set_timer(QUEUED_MAX_MS, Timer::QueueTimeout(id));
            }
        }
    }

    fn dispatch_queued(&mut self) {
        let mut idle_turns = 0;
        let may_send = self.servers.serving().is_some() && self.now >= self.queue.overloaded_until;
        while may_send && idle_turns < self.queue.run_queue.len() && self.queue.in_flight < IN_FLIGHT_MAX {
            if self.has_sent_enough() {
                break;
            }
            let Some(id) = self.queue.run_queue.pop_front() else { break };
            let sent = self.dispatch_next(id);
            let Some(client) = self.clients.get_mut(&id) else { continue };
            if client.queued.is_empty() {
                client.is_in_run_queue = false;
            } else {
                self.queue.run_queue.push_back(id);
                idle_turns += usize::from(!sent);
            }
            if sent {
                idle_turns = 0;
            }
        }
    }

    /// Dispatches the first request of a client that is not blocked. Returns whether there was one.
    fn dispatch_next(&mut self, id: ClientId) -> bool {
        let mut blocked: Vec<OrderingKey> = Vec::new();
        let mut at = 0;
        loop {
            let Some(client) = self.clients.get_mut(&id) else { return false };
            let Some(waiting) = client.queued.get_mut(at) else { return false };
            if blocked.iter().any(|earlier| waiting.key().is_behind(earlier)) {
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
                blocked.push(waiting.key().clone());
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
            && client.queued.len() < READ_AGAIN_BELOW
            && client.queued_bytes < QUEUED_BYTES_MAX
        {
            client.is_paused = false;
            self.queue.readable.push(id);
        }
    }

    pub(in crate::hub) fn has_permit_for(&self, id: ClientId) -> bool {
        self.queue.in_flight < IN_FLIGHT_MAX
            && self.clients.get(&id).is_some_and(|client| client.in_flight < IN_FLIGHT_PER_CLIENT_MAX)
    }

    pub(in crate::hub) fn acquire_permit(&mut self, id: ClientId, request: u64) {
        self.queue.in_flight += 1;
        if let Some(client) = self.clients.get_mut(&id) {
            client.in_flight += 1;
        }
        if self.queue.permits.is_empty() {
            self.set_timer(IN_FLIGHT_PERMIT_MS, Timer::ReleasePermits);
        }
        self.queue.permits.push_back((self.now + IN_FLIGHT_PERMIT_MS, request));
    }

    pub(in crate::hub) fn release_permit(&mut self, id: ClientId) {
        self.queue.in_flight = self.queue.in_flight.saturating_sub(1);
        if let Some(client) = self.clients.get_mut(&id) {
            client.in_flight = client.in_flight.saturating_sub(1);
        }
    }

    pub(in crate::hub) fn release_expired_permits(&mut self) {
        while let Some(&(at, id)) = self.queue.permits.front() {
            let pending = self.pending.get_mut(id).filter(|pending| pending.has_permit);
            match pending {
                Some(_) if at > self.now => {
                    let wait = at.since_ms(self.now);
                    return self.set_timer(wait, Timer::ReleasePermits);
                }
                Some(pending) => {
                    pending.has_permit = false;
                    pending.shorten();
                    if let Origin::Client { client, .. } = pending.origin {
                        self.release_permit(client);
                    }
                }
                None => {}
            }
            self.queue.permits.pop_front();
        }
    }

    /// Queued requests of a client time out.
    pub(in crate::hub) fn on_queue_timeout(&mut self, id: ClientId) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        client.has_queue_timer = false;
        let is_due = |waiting: &QueuedRequest| waiting.since + QUEUED_MAX_MS <= self.now;
        let (due, wait): (Vec<QueuedRequest>, _) = client.queued.drain(..).partition(is_due);
        client.queued = wait.into();
        if let Some(first) = client.queued.iter().map(|waiting| waiting.since + QUEUED_MAX_MS).min() {
            client.has_queue_timer = true;
            let wait = first.since_ms(self.now);
            self.set_timer(wait, Timer::QueueTimeout(id));
        }
        for each in due {
            if let Ok(Message::Request { id: raw, .. }) = envelope::parse(&each.text) {
                self.send_to_client(id, text::unavailable(raw.get()));
            }
            self.on_dequeued(id, each.text.len());
        }
    }

    /// Answers requests that are queued for a thread with the error of the app-server that refuses to load it.
    /// Unsubscribing does not need the thread.
    pub(in crate::hub) fn refuse_queued_for_thread(&mut self, thread: &str, error: &str) {
        let mut clients: Vec<ClientId> = self.clients.keys().copied().collect();
        clients.sort_unstable();
        let key = OrderingKey::Thread(thread.into());
        for id in clients {
            let Some(client) = self.clients.get_mut(&id) else { continue };
            let (due, wait): (Vec<QueuedRequest>, _) =
                client.queued.drain(..).partition(|waiting| waiting.is_refused_with(&key));
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
        let reason = text::string(error, "message").unwrap_or_default();
        let message = format!("the app-server refused a connection for this client's own requests: {reason}");
        for each in due {
            if let Ok(Message::Request { id: raw, .. }) = envelope::parse(&each.text) {
                self.send_to_client(id, text::error(raw.get(), text::SERVER_ERROR, &message, None));
            }
            self.on_dequeued(id, each.text.len());
        }
    }
}
