//! Every request of the app-server protocol that a client may send, a row each: the one place that classifies a method.
//!
//! The rows are those of every reference release of Codex (0.131.0, 0.169.0 and 0.171.0). `cargo xtask schema` holds them against
//! the schema that these releases print, in both directions. A method without a row goes over the client's dedicated connection
//! untouched. What the schema does not show, such as which request starts a turn, was observed on 0.169.0 unless a row says
//! otherwise.

mod experimental;
mod request_ids;
mod resource;
mod table;
#[cfg(test)]
mod tests;

pub use experimental::{Gate, GatedValue};
pub use request_ids::{RequestIdMember, Requester, request_id_member, request_id_members};
pub use resource::{Resource, ResourceKind, ResourceRole};

/// A row of the table.
#[derive(Debug)]
pub struct Method {
    /// The name, as in the envelope.
    pub name: &'static str,
    /// The way of the request.
    pub route: Route,
    /// What the response means to the gateway.
    pub kind: RequestKind,
    /// See [`starts_turn`].
    pub starts_turn: bool,
    /// What the request begins, uses or ends that is bound to its connection.
    pub resource: Option<Resource>,
    /// The member of the params that holds the id of another request of the client. It is the first where params are an array.
    pub request_id: Option<&'static str>,
    /// What of it needs `experimentalApi`.
    pub gate: Gate,
    /// How long the response may take.
    pub deadline: Deadline,
}

/// The way of a client's request.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Route {
    /// Names a thread in `params.threadId`, or is `thread/start`: through the hub, to the generation that has the thread.
    Hub,
    /// `params.threadId` is optional: as [`Route::Hub`] when it is present and not null, else as [`Route::Dedicated`].
    HubOrDedicated,
    /// Over the client's dedicated connection.
    Dedicated,
    /// Answered, or changed on its way, by the gateway.
    Gateway(Special),
}

/// What the gateway does itself.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Special {
    /// `initialize`: the gateway keeps each client's capabilities.
    ///
    /// The first connection names the process (`userAgent`, and on 0.169.0 the `originator` of the threads that are started
    /// from then on), unless its `clientInfo.name` is `codex_app_server_daemon`: that client leaves the naming to the next one,
    /// also when it connects first, and gets the same notifications and server requests as any other. (0.131.0 and 0.169.0.)
    /// Until another client connects, the name is `codex_cli_rs`; on 0.169.0 a thread keeps the originator of its start.
    Initialize,
    /// `thread/unsubscribe {threadId}`: ends the client's subscription; the hub's lasts while any client has one.
    Unsubscribe,
    /// `thread/loaded/list`: the union over all generations. Params `{cursor?, limit?}`, result `{data: [threadId],
    /// nextCursor}`, the same on 0.131.0 and 0.169.0. The ids are sorted; a cursor is the last id of the page before, and
    /// anything but a thread id is `-32600 invalid cursor: …`; a limit of 0 counts as 1, none as no limit.
    LoadedList,
    /// Names another request of the client by its JSON-RPC id ([`Method::request_id`]), which differs upstream: sent on with
    /// the upstream id, over the connection of the request that it names.
    RequestId,
    /// `mcpServer/event/stream/stop {subscriptionId}`: follows its `…/start`, which went through the hub.
    EventStreamStop,
    /// `thread/list`: dedicated connection; the `status` of threads of another generation is corrected.
    ThreadList,
    /// `thread/search` and `thread/search/stream`: as [`Special::ThreadList`].
    ThreadSearch,
}

/// What the response to a client's request means to the gateway.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RequestKind {
    /// Nothing.
    Plain,
    /// It names a new thread that the client watches: `thread/start`, `thread/fork`.
    NewThread,
    /// The client watches the thread from now on.
    Resume,
    /// It carries the turn that it started.
    Turn,
    /// It may have started a turn that it does not name.
    MayStartTurn,
    /// It ended the running turn.
    Interrupt,
    /// The command that it ran has ended.
    Exec,
    /// The process that it started runs until `process/exited`; after a refusal it never ran.
    Spawn,
    /// It began, changed or ended a resource that is begun again on another connection.
    Replayed,
    /// Work continues in the app-server, such as a login that waits for its user.
    StartsBackground(Resource),
    /// It changed a setting that an app-server keeps in memory only: a successor needs it as well.
    Setting,
    /// It began a stream of events.
    EventStream,
    /// The client does not watch the thread any more.
    Unsubscribe,
    /// A goal, which the gateway may have suspended.
    Goal,
    /// A list of loaded threads, which lacks those on other app-servers.
    LoadedList,
    /// A list of threads, whose status is wrong for those on other app-servers.
    ThreadList,
}

/// How long the response may take.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Deadline {
    /// A look-up.
    Short,
    /// It loads, begins, searches, copies or asks the network. Also of methods without a row.
    Long,
    /// None: it waits for a command, a tool, a model or a person.
    None,
}

impl RequestKind {
    /// The kind of a request that goes over the shared connection, where no client's resource lives.
    pub fn over_shared(self) -> Self {
        match self {
            RequestKind::Exec
            | RequestKind::Spawn
            | RequestKind::Replayed
            | RequestKind::StartsBackground(_)
            | RequestKind::Setting => RequestKind::Plain,
            kind => kind,
        }
    }

    /// The kind of a request that goes over a dedicated connection, which has no subscription.
    pub fn over_dedicated(self) -> Self {
        match self {
            RequestKind::Exec
            | RequestKind::Spawn
            | RequestKind::Replayed
            | RequestKind::StartsBackground(_)
            | RequestKind::Setting
            | RequestKind::ThreadList => self,
            _ => RequestKind::Plain,
        }
    }
}

/// The row of a method; `None` if no reference release has it.
pub fn find(method: &str) -> Option<&'static Method> {
    table::TABLE.binary_search_by_key(&method, |row| row.name).ok().map(|at| &table::TABLE[at])
}

/// Every row, sorted by name.
pub fn all() -> impl Iterator<Item = &'static Method> {
    table::TABLE.iter()
}

/// Whether the table has a row for this method.
pub fn is_known(method: &str) -> bool {
    find(method).is_some()
}

/// The way of a request. One without a row goes over the dedicated connection.
pub fn route(method: &str) -> Route {
    find(method).map_or(Route::Dedicated, |row| row.route)
}

/// What the response to a request means to the gateway.
pub fn kind(method: &str) -> RequestKind {
    find(method).map_or(RequestKind::Plain, |row| row.kind)
}

/// What a request begins, uses or ends that is bound to its connection.
pub fn resource(method: &str) -> Option<Resource> {
    find(method)?.resource
}

/// Whether the params of a request may be an array. The app-server takes one, with each member in upstream's order, which the
/// schema does not show. So an array is allowed only where the gateway reads no member, or the only one.
pub fn may_be_positional(method: &str) -> bool {
    find(method).is_none_or(|row| row.request_id.is_some())
}

/// Whether a request can start a turn, or leave work with the thread that starts one later: the thread is busy from the
/// forwarding until the effect is over.
///
/// Wide on purpose. Left out: `turn/steer`, which is refused unless a turn runs; `thread/resume` and `thread/fork`, where an
/// active goal continues by itself (the goal shows it); input to a realtime session that `thread/realtime/start`
/// opened, for that lasts until `thread/realtime/closed`.
pub fn starts_turn(method: &str) -> bool {
    find(method).is_some_and(|row| row.starts_turn)
}

/// How long the response to a request may take.
pub fn deadline(method: &str) -> Deadline {
    find(method).map_or(Deadline::Long, |row| row.deadline)
}
