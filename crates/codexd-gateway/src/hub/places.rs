//! What is begun on one connection and can be reached on that one only.

/// How a request concerns something that lives on a connection.
#[derive(Clone, Copy, Debug)]
pub struct Placed {
    /// What it is.
    pub kind: &'static str,
    /// The member of the parameters that names it.
    pub member: &'static str,
    pub begins: bool,
    pub ends: bool,
}

/// A command: it ends with the answer to the request that began it.
pub const EXEC: &str = "exec";
/// A process: it ends with `process/exited`.
pub const PROCESS: &str = "process";
/// A login that waits for its user: it ends with `account/login/completed`.
pub const LOGIN: &str = "login";
/// A watch: it can be made again on another connection.
pub const WATCH: &str = "watch";
/// A search: as a watch.
pub const SEARCH: &str = "search";

/// How a method concerns something that lives on a connection; `None` if it does not.
pub fn placed(method: &str) -> Option<Placed> {
    let place = |kind, member, begins, ends| Some(Placed { kind, member, begins, ends });
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
        "fs/watch" => place(WATCH, "watchId", true, false),
        "fs/unwatch" => place(WATCH, "watchId", false, true),
        "fuzzyFileSearch/sessionStart" => place(SEARCH, "sessionId", true, false),
        "fuzzyFileSearch/sessionUpdate" => place(SEARCH, "sessionId", false, false),
        "fuzzyFileSearch/sessionStop" => place(SEARCH, "sessionId", false, true),
        _ => None,
    }
}
