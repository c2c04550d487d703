//! Where each message goes, as data: which request takes which way, and which clients receive a notification.
//!
//! Requests are the rows of [`codexd_protocol::methods`]; here are the tables of notifications and server requests. They hold every
//! name that the reference releases of Codex have (0.131.0, 0.169.0 and 0.171.0); `cargo xtask schema` checks
//! them against the schema that those releases print, in both directions. Nothing here does I/O, allocates or fails: a name
//! without a row takes the safe way, which is the client's dedicated connection. Classes that the schema does not show
//! (which client receives what, what starts a turn) were observed on 0.169.0, unless a row says otherwise.
//!
//! - [`route`]: requests of clients.
//! - [`audience`]: notifications of the app-server.
//! - [`server_request`]: server requests.
//! - [`delta_of`]: streamed text.
//! - [`request_id_member`]: ids of other requests.
//! - [`gates`]: what a client without `experimentalApi` may not send.
//! - [`answer_within_ms`]: how long a response may take.

pub mod gates;
mod notifications;
#[cfg(test)]
mod tests;

pub use codexd_protocol::methods::{
    self, RequestIdMember, Requester, Route, Special, is_known, may_be_positional, request_id_member,
    request_id_members, route, starts_turn,
};

use crate::limits::{ANSWER_WITHIN_MS, SLOW_ANSWER_WITHIN_MS};
use methods::Deadline;

/// The time after which the client of a request gets an error in place of a response; `None` if there is no such time.
pub fn answer_within_ms(method: &str) -> Option<u64> {
    match methods::deadline(method) {
        Deadline::Short => Some(ANSWER_WITHIN_MS),
        Deadline::Long => Some(SLOW_ANSWER_WITHIN_MS),
        Deadline::None => None,
    }
}

/// Who is told a notification.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Audience {
    /// Names a thread, and is told to every initialized connection, subscribed or not. From the hub.
    Everyone,
    /// Names a thread, and is told to its subscribers. From the hub. A child thread (`spawn_agent`) has every connection
    /// for a subscriber.
    Subscribers,
    /// `threadId` is optional: with one as [`Audience::Subscribers`], without it as [`Audience::EveryoneWithoutThread`].
    SubscribersOrEveryone,
    /// Names no thread, but is told only to the subscribers of the thread whose turn it belongs to: what comes between
    /// `thread/tokenUsage/updated` and the `thread/status/changed` of that thread. From the hub.
    RateLimits,
    /// Names no thread, and is told to all connections: the own one brings it.
    EveryoneWithoutThread,
    /// As [`Audience::EveryoneWithoutThread`], and also to each connection when it is initialized.
    Greeting,
    /// Only on the connection that asked for it: the own one brings it. `deprecationNotice` comes to whoever resumed with
    /// all turns, which is the hub: it goes to the client whose request that was.
    Asker,
    /// By `subscriptionId`, to the client that began the stream. From the hub.
    EventStream,
}

impl Audience {
    /// Whether the hub tells it, so that own connections must not.
    pub fn is_told_by_hub(self) -> bool {
        matches!(self, Audience::Everyone | Audience::Subscribers | Audience::RateLimits)
    }
}

/// Who is told a notification; `None` if no table has it. The safe way then: with a `threadId` as
/// [`Audience::Subscribers`], without one whatever own connections bring.
pub fn audience(notification: &str) -> Option<Audience> {
    notifications::find(notification)
}

/// Every notification that a table has, sorted.
pub fn notifications() -> impl Iterator<Item = (&'static str, Audience)> {
    notifications::TABLE.iter().copied()
}

/// What own connections opt out of, because the hub tells it.
///
/// What names a thread only sometimes is not among them, because without a thread only own connections bring it; with one
/// it is dropped there.
pub fn hub_told() -> impl Iterator<Item = &'static str> {
    notifications().filter(|(_, audience)| audience.is_told_by_hub()).map(|(name, _)| name)
}

/// Whom the app-server asks.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ServerRequestScope {
    /// The subscribers of the thread in `params.threadId`, or `params.conversationId` in the old approvals. From the hub;
    /// on an own connection it is dropped.
    Thread,
    /// One connection.
    Connection,
    /// Every connection, under the same id. (0.169.0.) From the hub; on an own connection it is dropped.
    All,
}

/// The scope of what the app-server asks; `None` if no table has it. The safe way then: [`ServerRequestScope::Thread`] if
/// it names one.
pub fn server_request(method: &str) -> Option<ServerRequestScope> {
    let at = notifications::SERVER_REQUESTS.binary_search_by_key(&method, |(name, _)| name).ok()?;
    Some(notifications::SERVER_REQUESTS[at].1)
}

/// Whether the app-server tells `serverRequest/resolved` when this is answered, or does not matter any more.
///
/// Observed on 0.169.0: it does of approvals, elicitations and input of the user; of these two it says nothing, and asks
/// nobody again once the turn has ended.
pub fn is_resolved(server_request: &str) -> bool {
    !matches!(server_request, "item/tool/call" | "currentTime/read")
}

/// Everything that the app-server may ask, sorted.
pub fn server_requests() -> impl Iterator<Item = (&'static str, ServerRequestScope)> {
    notifications::SERVER_REQUESTS.iter().copied()
}

/// A notification that carries a piece of a text: pieces of one stream make its text when put together in order.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct DeltaShape {
    /// The member of `params` with the piece, a string.
    pub text: &'static str,
    /// The member that tells streams of one item apart, an integer; beside it `threadId`, `turnId` and `itemId` do.
    pub part: Option<&'static str>,
}

/// The shape of a notification that carries a piece of an item's text, else `None`.
///
/// Realtime transcripts and sound are none: they belong to a session that cannot move.
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
