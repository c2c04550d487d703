//! Limits the bytes read from a client before other clients are read.
//!
//! A client that floods always has more input. A message of another client waits for one round over all such clients, on the way in
//! and on the way back. So the more clients have more input, the less is read from each in one turn.

use std::cell::Cell;

use crate::limits::{CLIENT_READ_BYTES, CLIENT_READ_MIN_BYTES, CLIENT_READ_ROUND_BYTES};

/// The clients with more input than one turn reads.
#[derive(Debug, Default)]
pub(super) struct ReadTurns {
    busy: Cell<usize>,
}

/// The turns of one client.
#[derive(Debug)]
pub(super) struct ClientTurns<'a> {
    all: &'a ReadTurns,
    has_more: bool,
}

impl ReadTurns {
    pub(super) fn of_a_client(&self) -> ClientTurns<'_> {
        ClientTurns { all: self, has_more: false }
    }
}

impl ClientTurns<'_> {
    /// Bytes to read in the next turn.
    pub(super) fn bytes(&self) -> usize {
        let share = CLIENT_READ_ROUND_BYTES / self.all.busy.get().max(1);
        share.clamp(CLIENT_READ_MIN_BYTES, CLIENT_READ_BYTES)
    }

    /// Records whether the last turn has left input.
    pub(super) fn set_has_more(&mut self, has_more: bool) {
        match (self.has_more, has_more) {
            (false, true) => self.all.busy.set(self.all.busy.get() + 1),
            (true, false) => self.all.busy.set(self.all.busy.get().saturating_sub(1)),
            _ => {}
        }
        self.has_more = has_more;
    }
}

impl Drop for ClientTurns<'_> {
    fn drop(&mut self) {
        self.set_has_more(false);
    }
}

#[cfg(test)]
mod tests {
    use super::ReadTurns;
    use crate::limits::{CLIENT_READ_BYTES, CLIENT_READ_MIN_BYTES, CLIENT_READ_ROUND_BYTES};

    #[test]
    fn a_round_over_all_clients_that_have_more_to_read_stays_short() {
        let all = ReadTurns::default();
        let mut clients: Vec<_> = (0..50).map(|_| all.of_a_client()).collect();
        assert_eq!(clients[0].bytes(), CLIENT_READ_BYTES);
        for client in &mut clients {
            client.set_has_more(true);
            client.set_has_more(true);
        }
        let round: usize = clients.iter().map(|client| client.bytes()).sum();
        assert!(round <= CLIENT_READ_ROUND_BYTES && clients[0].bytes() >= CLIENT_READ_MIN_BYTES, "{round}");
        clients.truncate(1);
        assert_eq!(clients[0].bytes(), CLIENT_READ_BYTES);
        clients[0].set_has_more(false);
        assert_eq!(all.busy.get(), 0);
    }
}
