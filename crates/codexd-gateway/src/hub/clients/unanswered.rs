//! The bound on a client's unanswered requests.

use serde_json::{Value, json};

use crate::hub::Hub;
use crate::hub::event::{ClientId, Now};
use crate::hub::requests::pending::Origin;
use crate::limits::{UNANSWERED_BYTES_MAX, UNANSWERED_MAX, UNANSWERED_RECOUNT_INTERVAL_MS};

/// Error data of a refusal because of a bound.
pub(in crate::hub) fn too_many() -> Value {
    json!({"reason": "tooMany"})
}

/// Number and bytes of a client's unanswered requests: an upper bound, recounted when a limit seems reached.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unanswered {
    requests: usize,
    bytes: usize,
    counted_at: Option<Now>,
    /// The last recount was above half of a limit: wait before the next recount.
    was_high: bool,
}

/// Which bound is reached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::hub) enum TooMany {
    Requests,
    Bytes,
}

impl Hub {
    pub(in crate::hub) fn count_unanswered(&mut self, id: ClientId, bytes: usize) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.unanswered.requests += 1;
            client.unanswered.bytes += bytes;
        }
    }

    /// Which bound of unanswered requests a client has reached, if any.
    pub(in crate::hub) fn has_too_many_unanswered(&mut self, id: ClientId) -> Option<TooMany> {
        let reached = |unanswered: &Unanswered| match unanswered {
            Unanswered { requests: UNANSWERED_MAX.., .. } => Some(TooMany::Requests),
            Unanswered { bytes: UNANSWERED_BYTES_MAX.., .. } => Some(TooMany::Bytes),
            _ => None,
        };
        let client = self.clients.get_mut(&id)?;
        reached(&client.unanswered)?;
        let again = |at: Now| at + UNANSWERED_RECOUNT_INTERVAL_MS <= self.now;
        if !client.unanswered.was_high || client.unanswered.counted_at.is_none_or(again) {
            client.unanswered = Unanswered { counted_at: Some(self.now), ..Unanswered::default() };
            for pending in self.pending.values() {
                if let Origin::Client { client: of, id: raw, thread, text, .. } = &pending.origin
                    && *of == id
                {
                    client.unanswered.requests += 1;
                    client.unanswered.bytes +=
                        text.len() + raw.len() + thread.as_ref().map_or(0, |id| id.len());
                }
            }
            let Unanswered { requests, bytes, was_high, .. } = &mut client.unanswered;
            *was_high = *requests >= UNANSWERED_MAX / 2 || *bytes >= UNANSWERED_BYTES_MAX / 2;
        }
        reached(&client.unanswered)
    }
}
