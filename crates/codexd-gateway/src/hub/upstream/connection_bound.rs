//! What is begun on one connection and can be reached on that one only.

use serde_json::value::RawValue;

use crate::hub::text;

/// How a request concerns something that lives on a connection.
#[derive(Clone, Copy, Debug)]
pub struct BoundResource {
    /// What it is.
    pub kind: &'static str,
    /// The member of the parameters that names it; empty where there is no name.
    pub member: &'static str,
    pub begins: bool,
    pub ends: bool,
}

impl BoundResource {
    /// Whether it can be begun again on another connection.
    pub fn is_replayed(&self) -> bool {
        matches!(self.kind, WATCH | SEARCH)
    }

    /// The name in the parameters, raw.
    pub fn name<'a>(&self, params: Option<&'a RawValue>) -> Option<&'a str> {
        match self.member {
            "" => Some(NAMELESS),
            member => text::member(params?.get(), member).map(RawValue::get),
        }
    }
}

/// A command: it ends with the answer to the request that began it.
pub const EXEC: &str = "exec";
/// A process: it ends with `process/exited`.
pub const PROCESS: &str = "process";
/// A login that waits for its user: it ends with `account/login/completed`.
pub const LOGIN: &str = "login";
/// A login at the gateway of a model provider: it ends with `account/gatewayOAuth/changed`.
pub const GATEWAY_LOGIN: &str = "gatewayLogin";
/// A login at an MCP server: it ends with `mcpServer/oauthLogin/completed`.
pub const MCP_LOGIN: &str = "mcpLogin";
/// A watch: it can be made again on another connection.
pub const WATCH: &str = "watch";
/// A search: as a watch.
pub const SEARCH: &str = "search";

/// How a method concerns something that lives on a connection; `None` if it does not.
pub fn placed(method: &str) -> Option<BoundResource> {
    let place = |kind, member, begins, ends| Some(BoundResource { kind, member, begins, ends });
    match method {
        "command/exec" => place(EXEC, "processId", true, false),
        "command/exec/write" | "command/exec/terminate" | "command/exec/resize" => {
            place(EXEC, "processId", false, false)
        }
        "process/spawn" => place(PROCESS, "processHandle", true, false),
        "process/writeStdin" | "process/kill" | "process/resizePty" => {
            place(PROCESS, "processHandle", false, false)
        }
        // It is named by the answer to `account/login/start`.
        "account/login/cancel" => place(LOGIN, "loginId", false, true),
        // These name no login, but a provider, or none: the only one that waits is meant.
        "account/gatewayOAuth/cancel" => place(GATEWAY_LOGIN, "", false, true),
        "account/gatewayOAuth/read" => place(GATEWAY_LOGIN, "", false, false),
        "fs/watch" => place(WATCH, "watchId", true, false),
        "fs/unwatch" => place(WATCH, "watchId", false, true),
        "fuzzyFileSearch/sessionStart" => place(SEARCH, "sessionId", true, false),
        "fuzzyFileSearch/sessionUpdate" => place(SEARCH, "sessionId", false, false),
        "fuzzyFileSearch/sessionStop" => place(SEARCH, "sessionId", false, true),
        _ => None,
    }
}

/// Work that goes on in the app-server when the request that began it is answered.
#[derive(Debug, Eq, PartialEq)]
pub struct Background {
    /// What it is.
    pub kind: &'static str,
    /// The request that begins it.
    begins: &'static str,
    /// The notification that ends it.
    ends: &'static str,
    /// The member that names it in the notification; none where it has no name.
    pub member: Option<&'static str>,
    /// The same member names it in the result, not in the parameters.
    pub is_in_result: bool,
}

static BACKGROUND: [Background; 3] = [
    Background {
        kind: LOGIN,
        begins: "account/login/start",
        ends: "account/login/completed",
        member: Some("loginId"),
        is_in_result: true,
    },
    Background {
        kind: GATEWAY_LOGIN,
        begins: "account/gatewayOAuth/login",
        ends: "account/gatewayOAuth/changed",
        member: None,
        is_in_result: false,
    },
    Background {
        kind: MCP_LOGIN,
        begins: "mcpServer/oauth/login",
        ends: "mcpServer/oauthLogin/completed",
        member: Some("name"),
        is_in_result: false,
    },
];

/// The name of what has none, raw.
pub const NAMELESS: &str = "null";

/// What a request begins.
pub fn background(method: &str) -> Option<&'static Background> {
    BACKGROUND.iter().find(|background| background.begins == method)
}

/// What a notification may end. One that names a status ends it unless it says that it has only begun.
pub fn ended_by(notification: &str, params: &str) -> Option<&'static Background> {
    let status = text::string(params, "status");
    let has_only_begun = status.is_some_and(|status| status == "started");
    BACKGROUND.iter().find(|background| background.ends == notification && !has_only_begun)
}

impl Background {
    /// Its name in the parameters or the result, raw.
    pub fn name<'a>(&self, params: &'a str) -> Option<&'a str> {
        match self.member {
            Some(member) => text::member(params, member).map(RawValue::get).filter(|name| *name != "null"),
            None => Some(NAMELESS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{GATEWAY_LOGIN, background, ended_by};

    #[test]
    fn a_gateway_login_ends_when_it_is_neither_begun_nor_under_way() {
        let ends = |params: &str| ended_by("account/gatewayOAuth/changed", params).map(|it| it.kind);
        assert_eq!(ends(r#"{"providerId":"p","status":"started","authUrl":"u"}"#), None);
        for status in ["succeeded", "failed", "notReady"] {
            assert_eq!(ends(&format!(r#"{{"providerId":"p","status":"{status}"}}"#)), Some(GATEWAY_LOGIN));
        }
    }

    #[test]
    fn what_goes_on_is_named_by_the_request_or_by_its_answer() {
        let login = background("account/login/start").expect("it goes on");
        assert_eq!(login.name(r#"{"type":"chatgpt","loginId":"l"}"#), Some(r#""l""#));
        assert_eq!(login.name(r#"{"type":"apiKey"}"#), None, "it has ended with the answer");
        assert_eq!(background("model/list"), None);
    }
}
