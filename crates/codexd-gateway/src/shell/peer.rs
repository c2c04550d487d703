//! What holds at either end of a connection.

use codexd_protocol::websocket::Rules;

use super::outbox::Bounds;
use crate::limits::{
    FIRST_MESSAGE_BYTES_MAX, FIRST_OUTBOUND_BYTES_MAX, FIRST_OUTBOUND_MESSAGES_MAX, FRAME_BYTES_MAX,
    MESSAGE_BYTES_MAX, OUTBOUND_BYTES_MAX, OUTBOUND_BYTES_WITH_ANSWERS_MAX, OUTBOUND_MESSAGES_MAX,
    SKIPPED_BYTES_MAX, UPSTREAM_BYTES_MAX, UPSTREAM_MESSAGE_BYTES_MAX, UPSTREAM_MESSAGES_MAX,
};

/// At which end we are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Peer {
    /// The other end is a client of ours.
    Client,
    /// The other end is an app-server.
    AppServer,
}

impl Peer {
    pub(super) fn rules(self) -> Rules {
        match self {
            Peer::Client => Rules {
                masked: true,
                frame_bytes_max: FRAME_BYTES_MAX,
                message_bytes_max: MESSAGE_BYTES_MAX,
                skipped_bytes_max: SKIPPED_BYTES_MAX,
            },
            Peer::AppServer => Rules {
                masked: false,
                frame_bytes_max: UPSTREAM_MESSAGE_BYTES_MAX,
                message_bytes_max: UPSTREAM_MESSAGE_BYTES_MAX,
                skipped_bytes_max: usize::MAX,
            },
        }
    }

    /// Of a client that has not introduced itself.
    pub(super) fn first_rules(self) -> Rules {
        match self {
            Peer::Client => {
                let most = FIRST_MESSAGE_BYTES_MAX;
                Rules { masked: true, frame_bytes_max: most, message_bytes_max: most, skipped_bytes_max: 0 }
            }
            Peer::AppServer => self.rules(),
        }
    }

    /// See [`Self::first_rules`].
    pub(super) fn first_bounds(self) -> Bounds {
        match self {
            Peer::Client => Bounds {
                messages: FIRST_OUTBOUND_MESSAGES_MAX,
                bytes: FIRST_OUTBOUND_BYTES_MAX,
                bytes_with_answers: FIRST_OUTBOUND_BYTES_MAX,
            },
            Peer::AppServer => self.bounds(),
        }
    }

    pub(super) fn bounds(self) -> Bounds {
        match self {
            Peer::Client => Bounds {
                messages: OUTBOUND_MESSAGES_MAX,
                bytes: OUTBOUND_BYTES_MAX,
                bytes_with_answers: OUTBOUND_BYTES_WITH_ANSWERS_MAX,
            },
            Peer::AppServer => Bounds {
                messages: UPSTREAM_MESSAGES_MAX,
                bytes: UPSTREAM_BYTES_MAX,
                bytes_with_answers: UPSTREAM_BYTES_MAX,
            },
        }
    }
}
