//! Requests, from a frame of a client to the one answer: ordering and fairness, dispatch to a connection, what is pending,
//! responses, the gateway's own requests, and the requests of app-servers to clients.

pub(super) mod back_pressure;
pub(super) mod dispatch;
pub(super) mod fair_queue;
pub(super) mod internal_requests;
pub(super) mod ordering;
pub(super) mod overdue;
pub(super) mod pending;
pub(super) mod refusal;
pub(super) mod request_ids;
pub(super) mod responses;
pub(super) mod server_requests;
