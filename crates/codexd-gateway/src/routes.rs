//! Where each message goes, as data: which request takes which way, and who is told a notification.
//!
//! The tables hold every name that the reference releases of Codex have (0.131.0, 0.169.0 and 0.171.0); `cargo xtask schema` holds
//! them against the schema that those releases print, both ways. Nothing here does I/O, allocates or fails: a name that
//! no table has takes the safe way, which is a connection of the client's own. Classes that the schema cannot tell
//! (who is told what, what begins a turn) were observed on 0.169.0, unless a row says otherwise.
//!
//! * [`route`]: requests of clients. * [`audience`]: notifications of the app-server. * [`server_request`]: what the
//!   app-server asks. * [`delta_of`]: streamed text. * [`request_id_member`]: ids of other requests. * [`gates`]: what a
//!   client without `experimentalApi` may not do. * [`answer_within_ms`]: how long an answer may take.

mod deadlines;
pub mod gates;
mod notifications;
mod request_ids;
mod requests;
#[cfg(test)]
mod tests;

pub use deadlines::answer_within_ms;
pub use request_ids::{RequestIdMember, Requester};

/// The way of a client's request.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Route {
    /// Names a thread in `params.threadId`, or is `thread/start`: through the hub, to the generation that has the thread.
    Hub,
    /// `params.threadId` is optional: as [`Route::Hub`] when it is there and not null, else as [`Route::Own`].
    HubOrOwn,
    /// On a connection of the client's own. What it makes, uses or ends there decides whether that connection can be made
    /// anew in another generation.
    Own(OwnState),
    /// Answered, or changed on its way, by the gateway.
    Gateway(Special),
}

/// What a request makes, uses or ends that dies with its connection or with its app-server.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum OwnState {
    /// Nothing: the same request on another connection does the same.
    None,
    /// A file watch. It can be made again with the same `watchId`.
    Watch,
    /// A running command, named by a `processId` that no other connection knows.
    Exec,
    /// A process, named by a `processHandle`.
    Process,
    /// A fuzzy file search session. (Its notifications come to every connection.)
    FuzzySession,
    /// A login that waits for its user in this very app-server.
    Login,
    /// A user verification in flight. (By name; not run.)
    Verification,
    /// A setting that the app-server keeps in memory only: a successor starts without it. (Seen of `skills/extraRoots/set`,
    /// `experimentalFeature/enablement/set` and `environment/add`; remote control needs an account and was not run.)
    ProcessSetting,
}

/// What the gateway does itself.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Special {
    /// `initialize`: each client's capabilities are kept here.
    ///
    /// The first connection names the process (`userAgent`, and on 0.169.0 the `originator` of the threads that are started
    /// from then on), unless its `clientInfo.name` is `codex_app_server_daemon`: that one leaves the naming to the next, also
    /// when it comes first, and is told and asked whatever any other is. (0.131.0 and 0.169.0.) Until somebody else has come,
    /// the name is `codex_cli_rs`, and on 0.169.0 a thread keeps the originator that it was started with.
    Initialize,
    /// `thread/unsubscribe {threadId}`: ends the client's subscription; the hub's lasts while anybody has one.
    Unsubscribe,
    /// `thread/loaded/list`: the union over all generations. Params `{cursor?, limit?}`, result `{data: [threadId],
    /// nextCursor}`, the same on 0.131.0 and 0.169.0. The ids are sorted; a cursor is the last id of the page before, and
    /// anything but a thread id is `-32600 invalid cursor: …`; a limit of 0 counts as 1, none as no limit.
    LoadedList,
    /// Names another request of the client by its JSON-RPC id ([`request_id_member`]), which is another one upstream: sent
    /// on with that one, over the connection of the request that it names.
    RequestId,
    /// `mcpServer/event/stream/stop {subscriptionId}`: follows its `…/start`, which went through the hub.
    EventStreamStop,
    /// `thread/list`: own connection; the `status` of threads of another generation is patched.
    ThreadList,
    /// `thread/search` and `thread/search/stream`: as [`Special::ThreadList`].
    ThreadSearch,
}

/// The way of a request. An unknown one goes to the client's own connection, where it is passed on untouched.
pub fn route(method: &str) -> Route {
    requests::find(method).map_or(Route::Own(OwnState::None), |request| request.route)
}

/// Whether a table has this request.
pub fn is_known(method: &str) -> bool {
    requests::find(method).is_some()
}

/// Whether the params of a request may be an array. The app-server takes one, with every member in its own order, which the
/// schema does not tell. So only what the gateway reads nothing of may be one, and what names a request, which is all there is.
pub fn may_be_positional(method: &str) -> bool {
    !is_known(method) || route(method) == Route::Gateway(Special::RequestId)
}

/// Whether a request can begin a turn, or leave work with the thread that begins one later: from its forwarding on the
/// thread is busy, until its effect was seen to be over.
///
/// Wide on purpose. Left out: `turn/steer`, which is refused unless a turn runs; `thread/resume` and `thread/fork`, where an
/// active goal goes on by itself (the goal itself says so); what is said to a realtime session that `thread/realtime/start`
/// opened, for that lasts until `thread/realtime/closed`.
pub fn starts_turn(method: &str) -> bool {
    requests::find(method).is_some_and(|request| request.marks & requests::TURN != 0)
}

/// Whether a thread that has not said anything yet is on disk after this request, and so can be resumed by another
/// generation.
///
/// Once it was accepted, that is: `thread/inject_items` without items and `thread/name/set` without a name are refused.
pub fn materialises(method: &str) -> bool {
    requests::find(method).is_some_and(|request| request.marks & requests::DISK != 0)
}

/// Every request that a table has, sorted.
pub fn requests() -> impl Iterator<Item = (&'static str, Route)> {
    requests::TABLE.iter().map(|request| (request.method, request.route))
}

/// The member of the params of a request or a notification that carries the id of another request; `None` if there is none.
pub fn request_id_member(message: &str) -> Option<&'static RequestIdMember> {
    request_ids::find(message)
}

/// Every member that carries the id of another request, sorted by message.
pub fn request_id_members() -> impl Iterator<Item = &'static RequestIdMember> {
    request_ids::TABLE.iter()
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
