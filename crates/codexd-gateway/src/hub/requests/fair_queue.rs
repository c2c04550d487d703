//! Whose turn it is: requests of all clients share the way upstream, in turns, and never more at once than upstream takes.
//!
//! App-server 0.169.0 has one queue of 128 for everybody and refuses what does not fit. It is emptied quickly, whatever
//! the requests then take, so a slot is given back when its request was answered or after [`SLOT_MAX_MS`].

use crate::hub::clients::client::Waiting;
use crate::hub::event::{ClientId, Text};
use crate::hub::requests::dispatch::Dispatched;
use crate::hub::requests::ordering::Lane;
use crate::hub::requests::pending::Asker;
use crate::hub::{Hub, Timer, text};
use crate::limits::{
    HEARD_AGAIN_BELOW, HELD_MAX_MS, SLOT_MAX_MS, SLOTS_MAX, SLOTS_PER_CLIENT_MAX, WAITING_BEFORE_READY_BYTES,
    WAITING_BYTES_MAX, WAITING_MAX,
};
use codexd_protocol::envelope::{self, Message};

/// The code of a failure that is not the request's fault.
pub(in crate::hub) const SERVER_ERROR: i64 = -32000;

impl Hub {
    /// Gives a client its place in the ring if a request of it waits.
    pub(in crate::hub) fn queue_up(&mut self, id: ClientId) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let most = if client.is_ready() { WAITING_BYTES_MAX } else { WAITING_BEFORE_READY_BYTES };
        let full = client.waiting.len() >= WAITING_MAX || client.waiting_bytes >= most;
        client.paused |= full;
        if !client.waiting.is_empty() && !client.in_ring {
            client.in_ring = true;
            self.ring.push_back(id);
            self.untimed.push(id);
        }
    }

    /// Sends on what can be sent on, one request of each client in turn.
    pub(in crate::hub) fn pump(&mut self) {
        self.send_on();
        self.load_what_is_demanded();
        // Whoever still waits does not wait for ever.
        while let Some(id) = self.untimed.pop() {
            if let Some(client) = self.clients.get_mut(&id)
                && client.in_ring
                && !client.has_held_timer
            {
                client.has_held_timer = true;
                self.timer(HELD_MAX_MS, Timer::Held(id));
            }
        }
    }

    fn send_on(&mut self) {
        let mut idle_turns = 0;
        let may_send = self.serving.is_some() && self.now >= self.overloaded_until;
        while may_send && idle_turns < self.ring.len() && self.slots_taken < SLOTS_MAX {
            if self.has_sent_enough() {
                break;
            }
            let Some(id) = self.ring.pop_front() else { break };
            let sent = self.send_one(id);
            let Some(client) = self.clients.get_mut(&id) else { continue };
            if client.waiting.is_empty() {
                client.in_ring = false;
            } else {
                self.ring.push_back(id);
                idle_turns += usize::from(!sent);
            }
            if sent {
                idle_turns = 0;
            }
        }
    }

    /// Sends on the first request of a client that need not wait; answers whether there was one.
    fn send_one(&mut self, id: ClientId) -> bool {
        let mut held: Vec<Lane> = Vec::new();
        let mut at = 0;
        loop {
            let Some(client) = self.clients.get_mut(&id) else { return false };
            let Some(waiting) = client.waiting.get_mut(at) else { return false };
            if held.iter().any(|earlier| waiting.lane().is_behind(earlier)) {
                at += 1;
                continue;
            }
            let Some(mut waiting) = client.waiting.remove(at) else { return false };
            let dispatched = self.dispatch(id, &waiting);
            if let Dispatched::Done = dispatched {
                self.went_on(id, waiting.text.len());
                return true;
            }
            if let Dispatched::WaitsInLane = dispatched {
                held.push(waiting.lane().clone());
            }
            let Some(client) = self.clients.get_mut(&id) else { return false };
            client.waiting.insert(at, waiting);
            if let Dispatched::Waits = dispatched {
                return false;
            }
            at += 1;
        }
    }

    /// A request of a client does not wait any more.
    fn went_on(&mut self, id: ClientId, bytes: usize) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        client.waiting_bytes = client.waiting_bytes.saturating_sub(bytes);
        if client.waiting.is_empty() {
            client.waiting.shrink_to(0);
        }
        if client.paused
            && client.waiting.len() < HEARD_AGAIN_BELOW
            && client.waiting_bytes < WAITING_BYTES_MAX
        {
            client.paused = false;
            self.resumed.push(id);
        }
    }

    pub(in crate::hub) fn has_slot(&self, id: ClientId) -> bool {
        self.slots_taken < SLOTS_MAX
            && self.clients.get(&id).is_some_and(|client| client.slots < SLOTS_PER_CLIENT_MAX)
    }

    pub(in crate::hub) fn take_slot(&mut self, id: ClientId, call: u64) {
        self.slots_taken += 1;
        if let Some(client) = self.clients.get_mut(&id) {
            client.slots += 1;
        }
        if self.slots.is_empty() {
            self.timer(SLOT_MAX_MS, Timer::Slots);
        }
        self.slots.push_back((self.now + SLOT_MAX_MS, call));
    }

    pub(in crate::hub) fn give_back_slot(&mut self, id: ClientId) {
        self.slots_taken = self.slots_taken.saturating_sub(1);
        if let Some(client) = self.clients.get_mut(&id) {
            client.slots = client.slots.saturating_sub(1);
        }
    }

    pub(in crate::hub) fn give_back_slots(&mut self) {
        while let Some(&(at, id)) = self.slots.front() {
            let call = self.calls.get_mut(&id).filter(|call| call.holds_slot);
            match call {
                Some(_) if at > self.now => {
                    let wait = at.since_ms(self.now);
                    return self.timer(wait, Timer::Slots);
                }
                Some(call) => {
                    call.holds_slot = false;
                    call.shorten();
                    if let Asker::Client { client, .. } = call.asker {
                        self.give_back_slot(client);
                    }
                }
                None => {}
            }
            self.slots.pop_front();
        }
    }

    /// Requests of a client have waited as long as any may: nobody answers.
    pub(in crate::hub) fn held_too_long(&mut self, id: ClientId) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        client.has_held_timer = false;
        let is_due = |waiting: &Waiting| waiting.since + HELD_MAX_MS <= self.now;
        let (due, wait): (Vec<Waiting>, _) = client.waiting.drain(..).partition(is_due);
        client.waiting = wait.into();
        if let Some(first) = client.waiting.iter().map(|waiting| waiting.since + HELD_MAX_MS).min() {
            client.has_held_timer = true;
            let wait = first.since_ms(self.now);
            self.timer(wait, Timer::Held(id));
        }
        for each in due {
            if let Ok(Message::Request { id: raw, .. }) = envelope::parse(&each.text) {
                self.tell(id, unavailable(raw.get()));
            }
            self.went_on(id, each.text.len());
        }
    }

    /// Answers what waits for a thread with the refusal of the app-server to load it, an error object. To be left, a thread
    /// need not be loaded.
    pub(in crate::hub) fn refuse_waiting_for(&mut self, thread: &str, error: &str) {
        let mut clients: Vec<ClientId> = self.clients.keys().copied().collect();
        clients.sort_unstable();
        let lane = Lane::Thread(thread.into());
        for id in clients {
            let Some(client) = self.clients.get_mut(&id) else { continue };
            let (due, wait): (Vec<Waiting>, _) =
                client.waiting.drain(..).partition(|waiting| waiting.is_refused_with(&lane));
            client.waiting = wait.into();
            for each in due {
                if let Ok(Message::Request { id: raw, .. }) = envelope::parse(&each.text) {
                    let text = format!(r#"{{"id":{},"error":{error}}}"#, raw.get());
                    self.tell(id, text.into());
                }
                self.went_on(id, each.text.len());
            }
        }
    }

    /// The app-server refused a client's dedicated connection: what waits for that connection is answered with an error.
    pub(in crate::hub) fn refuse_waiting(&mut self, id: ClientId, error: &str) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let waiting = std::mem::take(&mut client.waiting);
        let (due, wait): (Vec<Waiting>, Vec<Waiting>) =
            waiting.into_iter().partition(|each| self.is_dedicated(&each.text));
        if let Some(client) = self.clients.get_mut(&id) {
            client.waiting = wait.into();
        }
        let said = text::string(error, "message").unwrap_or_default();
        let message = format!("the app-server refused a connection for this client's own requests: {said}");
        for each in due {
            if let Ok(Message::Request { id: raw, .. }) = envelope::parse(&each.text) {
                self.tell(id, text::error(raw.get(), SERVER_ERROR, &message, None));
            }
            self.went_on(id, each.text.len());
        }
    }
}

/// The answer to what has waited as long as anything may.
pub(in crate::hub) fn unavailable(raw_id: &str) -> Text {
    let data = serde_json::json!({"reason": "appServerUnavailable", "retryable": true});
    let message = format!("no app-server has answered for {} s; try again", HELD_MAX_MS / 1_000);
    text::error(raw_id, SERVER_ERROR, &message, Some(&data))
}
