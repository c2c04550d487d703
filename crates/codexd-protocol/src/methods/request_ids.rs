//! Members that carry the JSON-RPC id of another request.
//!
//! The gateway sends requests on under ids of its own, so such a member names nothing at the other end until it is
//! rewritten. `cargo xtask schema` finds these members in the schema of every reference release and demands a row for each;
//! results have none. The id is a string or an integer, as the sender of the request wrote it.

/// The sender of the request that the id names.
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
    /// The sender of the request that the id names.
    pub requester: Requester,
}

/// The notifications of every reference release that have such a member.
const NOTIFICATIONS: [RequestIdMember; 2] = [
    RequestIdMember { message: "serverRequest/resolved", member: "requestId", requester: Requester::Server },
    RequestIdMember { message: "thread/search/partial", member: "requestId", requester: Requester::Client },
];

fn of_request(row: &super::Method) -> Option<RequestIdMember> {
    let (message, requester) = (row.name, Requester::Client);
    row.request_id.map(|member| RequestIdMember { message, member, requester })
}

/// The member of the params of a request or notification that carries the id of another request.
pub fn request_id_member(message: &str) -> Option<RequestIdMember> {
    let notification = || NOTIFICATIONS.into_iter().find(|row| row.message == message);
    super::find(message).and_then(of_request).or_else(notification)
}

/// Every such member.
pub fn request_id_members() -> impl Iterator<Item = RequestIdMember> {
    super::all().filter_map(of_request).chain(NOTIFICATIONS)
}
