//! Members that carry the JSON-RPC id of another request, sorted by message.
//!
//! The gateway sends requests on under ids of its own, so such a member names nothing at the other end until it is
//! rewritten. `cargo xtask schema` finds these members in the schema of every reference release and demands a row for each;
//! results have none. The id is a string or an integer, as the sender of the request wrote it.

/// Who sent the request that the id names.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Requester {
    /// The client: it gave the id, and the app-server knows the gateway's.
    Client,
    /// The app-server: it gave the id, and the client knows the gateway's.
    Server,
}

/// A member that carries a request id.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct RequestIdMember {
    /// The request or notification.
    pub message: &'static str,
    /// The member of its `params`. It is the first where `params` are an array.
    pub member: &'static str,
    /// Who sent the request that it names.
    pub requester: Requester,
}

const fn row(message: &'static str, requester: Requester) -> RequestIdMember {
    RequestIdMember { message, member: "requestId", requester }
}

/// Every such member of every reference release.
pub static TABLE: &[RequestIdMember] = &[
    row("serverRequest/resolved", Requester::Server),
    row("thread/sample/cancel", Requester::Client),
    row("thread/search/cancel", Requester::Client),
    row("thread/search/partial", Requester::Client),
    row("thread/search/stream/cancel", Requester::Client),
    row("userVerification/cancel", Requester::Client),
];

/// The member of a message that carries a request id.
pub fn find(message: &str) -> Option<&'static RequestIdMember> {
    TABLE.binary_search_by_key(&message, |row| row.message).ok().map(|at| &TABLE[at])
}
