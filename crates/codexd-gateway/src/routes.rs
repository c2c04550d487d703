//! Where each message goes, as data: the route of a request and the audience of a notification.
//!
//! Requests are the rows of [`codexd_protocol::methods`]; this module has the tables of notifications and server requests. They
//! hold every name of the reference releases of Codex (0.131.0, 0.169.0 and 0.171.0); `cargo xtask schema` checks them
//! against the schema that those releases print, in both directions. Nothing here does I/O, allocates or fails: a request
//! without a row goes over the client's dedicated connection. What the schema does not show (which client receives what, what
//! starts a turn) was observed on 0.169.0, unless a row names another release.
//!
//! - [`route`]: requests of clients.
//! - [`audience`]: notifications of the app-server.
//! - [`server_request`]: server requests.
//! - [`delta_of`]: streamed text.
//! - [`request_id_member`]: ids of other requests.
//! - [`gates`]: what a client without `experimentalApi` may not send.
//! - [`response_timeout_ms`]: how long a response may take.

pub mod gates;
mod notifications;
#[cfg(test)]
mod tests;

pub use codexd_protocol::methods::{
    self, RequestIdMember, Requester, Route, Special, is_known, may_be_positional, request_id_member,
    request_id_members, route, starts_turn,
};

use crate::limits::{RESPONSE_TIMEOUT_MS, SLOW_RESPONSE_TIMEOUT_MS};
use methods::Deadline;

/// The time after which the client of a request gets an error in place of a response; `None` if there is no such time.
pub fn response_timeout_ms(method: &str) -> Option<u64> {
    match methods::deadline(method) {
        Deadline::Short => Some(RESPONSE_TIMEOUT_MS),
        Deadline::Long => Some(SLOW_RESPONSE_TIMEOUT_MS),
        Deadline::None => None,
    }
}

/// The clients that receive a notification.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Audience {
    /// Names a thread. Sent to every initialized connection, subscribed or not, by the hub.
    Everyone,
    /// Names a thread. Sent to its subscribers, by the hub. Every connection is a subscriber of a child thread (`spawn_agent`).
    Subscribers,
    /// `threadId` is optional: with it as [`Audience::Subscribers`], without it as [`Audience::EveryoneWithoutThread`].
    SubscribersOrEveryone,
    /// Names no thread. Sent to the subscribers of the thread whose turn it belongs to, by the hub: it arrives between
    /// `thread/tokenUsage/updated` and `thread/status/changed` of that thread.
    RateLimits,
    /// Names no thread. Sent to all connections: it arrives on the dedicated one.
    EveryoneWithoutThread,
    /// As [`Audience::EveryoneWithoutThread`], and also to each connection when it is initialized.
    Greeting,
    /// Sent only on the connection that requested it: it arrives on the dedicated one. `deprecationNotice` follows a resume with
    /// all turns, which the hub sends: it goes to the client that requested the resume.
    Requester,
    /// Sent to the client that started the stream `subscriptionId`, by the hub.
    EventStream,
}

impl Audience {
    /// Whether the hub sends it, so that dedicated connections must not.
    pub fn is_sent_by_hub(self) -> bool {
        matches!(self, Audience::Everyone | Audience::Subscribers | Audience::RateLimits)
    }
}

/// The audience of a notification; `None` if the table does not have it. With a `threadId` it is then treated as
/// [`Audience::Subscribers`]; without one, it is passed on from dedicated connections.
pub fn audience(notification: &str) -> Option<Audience> {
    notifications::find(notification)
}

/// Every notification in the table, sorted.
pub fn notifications() -> impl Iterator<Item = (&'static str, Audience)> {
    notifications::TABLE.iter().copied()
}

/// The notifications that dedicated connections opt out of, because the hub sends them.
///
/// Notifications with an optional `threadId` are not among them: without a thread they arrive only on dedicated connections;
/// with one they are dropped there.
pub fn sent_by_hub() -> impl Iterator<Item = &'static str> {
    notifications().filter(|(_, audience)| audience.is_sent_by_hub()).map(|(name, _)| name)
}

/// The recipients of a server request.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ServerRequestScope {
    /// The subscribers of the thread in `params.threadId`, or `params.conversationId` in the old approvals. Sent by the hub;
    /// on a dedicated connection it is dropped.
    Thread,
    /// One connection.
    Connection,
    /// Every connection, under the same id (0.169.0). Sent by the hub; on a dedicated connection it is dropped.
    All,
}

/// The scope of a server request; `None` if the table does not have it. It is then treated as [`ServerRequestScope::Thread`] if
/// it names a thread.
pub fn server_request(method: &str) -> Option<ServerRequestScope> {
    let at = notifications::SERVER_REQUESTS.binary_search_by_key(&method, |(name, _)| name).ok()?;
    Some(notifications::SERVER_REQUESTS[at].1)
}

/// Whether the app-server sends `serverRequest/resolved` when this request is answered or void.
///
/// Observed on 0.169.0: it does for approvals, elicitations and user input. For these two it does not, and it does not repeat
/// them after the end of the turn.
pub fn is_resolved(server_request: &str) -> bool {
    !matches!(server_request, "item/tool/call" | "currentTime/read")
}

/// Every server request in the table, sorted.
pub fn server_requests() -> impl Iterator<Item = (&'static str, ServerRequestScope)> {
    notifications::SERVER_REQUESTS.iter().copied()
}

/// The shape of a notification with a piece of streamed text. The pieces of one stream, in order, are its text.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct DeltaShape {
    /// The member of `params` with the piece, a string.
    pub text: &'static str,
    /// The integer member that, with `threadId`, `turnId` and `itemId`, identifies the stream.
    pub part: Option<&'static str>,
}

/// The shape of a notification with a piece of an item's text, else `None`.
///
/// Realtime transcripts and audio are not included: their session cannot migrate.
pub fn delta_of(notification: &str) -> Option<DeltaShape> {
    let part = match notification {
        "item/agentMessage/delta"
        | "item/plan/delta"
        | "item/commandExecution/outputDelta"
        | "item/fileChange/outputDelta" => None,
        "item/reasoning/summaryTextDelta" => Some("summaryIndex"),
        "item/reasoning/textDelta" => Some("contentIndex"),
        _ => return None,
    };
    Some(DeltaShape { text: "delta", part })
}
