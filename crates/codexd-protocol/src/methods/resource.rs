//! Resources that live on one connection, or in one app-server, and can be reached there only.

/// How a request concerns a resource.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Resource {
    /// The kind of resource.
    pub kind: ResourceKind,
    /// The member of the params that names it; empty where it has no name: there is one at a time then.
    pub member: &'static str,
    /// What the request does to it.
    pub role: ResourceRole,
}

/// What a request does to a resource.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ResourceRole {
    /// It begins with the request.
    Begins,
    /// It has to exist on the connection.
    Uses,
    /// It ends with the request.
    Ends,
    /// It begins with the response and ends with the notification [`ResourceKind::ended_by`].
    ContinuesAfterResponse,
}

/// A kind of resource.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ResourceKind {
    /// A command: it ends with the response to the request that began it.
    Command,
    /// A process: it ends with `process/exited`.
    Process,
    /// A login that waits for its user. The response to `account/login/start` names it.
    Login,
    /// A login at the gateway of a model provider.
    GatewayLogin,
    /// A login at an MCP server.
    McpLogin,
    /// A watch of files. It can be made again on another connection with the same `watchId`.
    Watch,
    /// A fuzzy file search session, which can be made again. Its notifications go to every connection.
    Search,
}

impl Resource {
    /// Whether it begins with the request.
    pub fn begins(&self) -> bool {
        self.role == ResourceRole::Begins
    }

    /// Whether it ends with the request.
    pub fn ends(&self) -> bool {
        self.role == ResourceRole::Ends
    }

    /// Whether the gateway begins it again on another connection.
    pub fn is_replayed(&self) -> bool {
        self.kind.is_replayed()
    }
}

impl ResourceKind {
    /// Whether the gateway begins it again on another connection.
    pub const fn is_replayed(self) -> bool {
        matches!(self, ResourceKind::Watch | ResourceKind::Search)
    }

    /// Whether the result names it, not the params of the request that begins it.
    pub fn is_named_by_result(self) -> bool {
        self == ResourceKind::Login
    }

    /// What a notification ends. One that names a status ends it unless the status is `started`.
    pub fn ended_by(notification: &str) -> Option<Resource> {
        let (kind, member) = match notification {
            "account/login/completed" => (ResourceKind::Login, "loginId"),
            "account/gatewayOAuth/changed" => (ResourceKind::GatewayLogin, ""),
            "mcpServer/oauthLogin/completed" => (ResourceKind::McpLogin, "name"),
            _ => return None,
        };
        Some(Resource { kind, member, role: ResourceRole::ContinuesAfterResponse })
    }
}
