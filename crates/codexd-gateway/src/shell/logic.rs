//! What the shell needs of whoever decides.

use codexd_core::clock::Monotonic;

use crate::hub::{Action, ClientId, Connection, Event, Hub};

/// Decides what follows from what happens. Nothing here may wait.
pub(crate) trait Logic {
    /// The time of day, in milliseconds since 1970. Told before each run of events.
    fn set_unix_time(&mut self, unix_ms: u64) {
        let _ = unix_ms;
    }

    /// Takes one event at `now` and pushes what follows from it, in order.
    fn step(&mut self, event: Event, now: Monotonic, out: &mut Vec<Action>);

    /// When [`Event::DeadlineReached`] is due.
    fn deadline(&self) -> Option<Monotonic>;

    /// Whether more is to be read from a client. Asked before each read; whoever says no names the client to
    /// [`Self::take_readable`] later.
    fn wants_input(&self, client: ClientId) -> bool {
        let _ = client;
        true
    }

    /// Adds the clients that may be heard again since this was last asked.
    fn take_readable(&mut self, resumed: &mut Vec<ClientId>) {
        let _ = resumed;
    }

    /// Whether a client has sent `initialize`.
    fn has_initialized(&self, client: ClientId) -> bool {
        let _ = client;
        true
    }

    /// Whether an answer is to come over a link. Asked where much comes that nobody waits for.
    fn awaits(&self, link: Connection) -> bool {
        let _ = link;
        false
    }

    /// Whether a client that came now would be answered.
    fn is_ready(&self) -> bool {
        true
    }

    /// Each thread with its state, for the log.
    fn thread_states(&self) -> Vec<(String, String)> {
        Vec::new()
    }
}

impl Logic for Hub {
    fn set_unix_time(&mut self, unix_ms: u64) {
        Hub::set_unix_time(self, unix_ms);
    }

    fn step(&mut self, event: Event, now: Monotonic, out: &mut Vec<Action>) {
        Hub::step(self, event, now, out);
    }

    fn deadline(&self) -> Option<Monotonic> {
        Hub::deadline(self)
    }

    fn wants_input(&self, client: ClientId) -> bool {
        Hub::wants_input(self, client)
    }

    fn take_readable(&mut self, resumed: &mut Vec<ClientId>) {
        Hub::take_readable(self, resumed);
    }

    fn awaits(&self, link: Connection) -> bool {
        Hub::awaits(self, link)
    }

    fn has_initialized(&self, client: ClientId) -> bool {
        Hub::has_initialized(self, client)
    }

    fn is_ready(&self) -> bool {
        Hub::is_ready(self)
    }

    fn thread_states(&self) -> Vec<(String, String)> {
        Hub::thread_states(self)
    }
}
