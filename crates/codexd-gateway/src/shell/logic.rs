//! What the I/O half needs of the hub. Tests replace it.

use codexd_core::clock::Monotonic;

use crate::hub::{Action, ClientId, Connection, Event, Hub};

/// Decides what follows from an event. No method may block.
pub(crate) trait Logic {
    /// The time of day, in milliseconds since 1970. Set before each run of events.
    fn set_unix_time(&mut self, unix_ms: u64) {
        let _ = unix_ms;
    }

    /// Takes one event at `now` and appends the actions that follow, in order.
    fn step(&mut self, event: Event, now: Monotonic, out: &mut Vec<Action>);

    /// When [`Event::DeadlineReached`] is due.
    fn deadline(&self) -> Option<Monotonic>;

    /// Whether more is to be read from a client. Checked before each read. A client that is not read is named by
    /// [`Self::take_readable`] later.
    fn wants_input(&self, client: ClientId) -> bool {
        let _ = client;
        true
    }

    /// Appends the clients that may be read again since the last call.
    fn take_readable(&mut self, readable: &mut Vec<ClientId>) {
        let _ = readable;
    }

    /// Whether a client has sent `initialize`.
    fn has_initialized(&self, client: ClientId) -> bool {
        let _ = client;
        true
    }

    /// Whether a response is expected on a connection. Checked while many notifications arrive on it.
    fn awaits(&self, connection: Connection) -> bool {
        let _ = connection;
        false
    }

    /// Whether a new client would be served.
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

    fn take_readable(&mut self, readable: &mut Vec<ClientId>) {
        Hub::take_readable(self, readable);
    }

    fn awaits(&self, connection: Connection) -> bool {
        Hub::awaits(self, connection)
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
