//! The limits of a connection, by the kind of its peer.

use codexd_protocol::websocket::Rules;

use super::outbox::Bounds;
use crate::limits::{
    FRAME_BYTES_MAX, MESSAGE_BYTES_MAX, OUTBOUND_BYTES_MAX, OUTBOUND_BYTES_WITH_RESPONSES_MAX,
    OUTBOUND_MESSAGES_MAX, SKIPPED_BYTES_MAX, UNINITIALIZED_MESSAGE_BYTES_MAX,
    UNINITIALIZED_OUTBOUND_BYTES_MAX, UNINITIALIZED_OUTBOUND_MESSAGES_MAX, UPSTREAM_BYTES_MAX,
    UPSTREAM_MESSAGE_BYTES_MAX, UPSTREAM_MESSAGES_MAX,
};

/// The peer of a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Peer {
    Client,
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

    /// As long as a client has not sent `initialize`.
    pub(super) fn first_rules(self) -> Rules {
        match self {
            Peer::Client => {
                let most = UNINITIALIZED_MESSAGE_BYTES_MAX;
                Rules { masked: true, frame_bytes_max: most, message_bytes_max: most, skipped_bytes_max: 0 }
            }
            Peer::AppServer => self.rules(),
        }
    }

    /// See [`Self::first_rules`].
    pub(super) fn first_bounds(self) -> Bounds {
        match self {
            Peer::Client => Bounds {
                messages: UNINITIALIZED_OUTBOUND_MESSAGES_MAX,
                bytes: UNINITIALIZED_OUTBOUND_BYTES_MAX,
                bytes_with_answers: UNINITIALIZED_OUTBOUND_BYTES_MAX,
            },
            Peer::AppServer => self.bounds(),
        }
    }

    pub(super) fn bounds(self) -> Bounds {
        match self {
            Peer::Client => Bounds {
                messages: OUTBOUND_MESSAGES_MAX,
                bytes: OUTBOUND_BYTES_MAX,
                bytes_with_answers: OUTBOUND_BYTES_WITH_RESPONSES_MAX,
            },
            Peer::AppServer => Bounds {
                messages: UPSTREAM_MESSAGES_MAX,
                bytes: UPSTREAM_BYTES_MAX,
                bytes_with_answers: UPSTREAM_BYTES_MAX,
            },
        }
    }
}
