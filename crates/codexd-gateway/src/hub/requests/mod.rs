//! Requests: queueing and fairness, ordering, dispatch to a connection, pending requests, responses, the gateway's
//! own requests, and server requests to clients.
//!
//! Invariants: a client's request is answered once and sent again only if it was refused unseen; at most `IN_FLIGHT_MAX`
//! are in flight; requests of one client about one thread stay in order. Failure: a lost connection answers its
//! pending requests with `appServerRestarted`; an unanswered request times out with `appServerUnresponsive`, a queued
//! one with `appServerUnavailable`.

pub(super) mod back_pressure;
pub(super) mod deprecation_notices;
pub(super) mod dispatch;
pub(super) mod fair_queue;
pub(super) mod internal_requests;
pub(super) mod ordering;
pub(super) mod overdue;
pub(super) mod pending;
pub(super) mod request_ids;
pub(super) mod responses;
pub(super) mod server_requests;
