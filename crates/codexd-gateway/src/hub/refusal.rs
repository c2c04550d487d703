//! Why an app-server did not load a thread, and what follows from it.
//!
//! Seen with 0.131.0, 0.169.0 and 0.171.0, as answers to `thread/resume`:
//!
//! | what is wrong | code | message |
//! |---|---|---|
//! | config.toml, or a trusted project's, cannot be loaded | -32600 | `failed to load configuration: <file>:7:1: …` |
//! | the thread's provider is not configured | -32600 | `This chat uses model provider “m”, which is no longer configured. …` with `data.type: "modelProviderNotConfigured"`; 0.131.0: `failed to load configuration: Model provider …` |
//! | a required MCP server does not start | -32603 | `error resuming thread: Fatal error: Failed to initialize session: required MCP servers failed to initialize: …` |
//! | the rollout cannot be read | -32603 | `failed to read thread: thread-store internal error: …` |
//! | another process has the thread (not in 0.131.0, which loads it) | -32600 | `thread … already has an active writer` |
//! | the thread is being unloaded | -32600 | `thread … is closing; …` |
//! | no rollout, ephemeral, deleted | -32600 | `no rollout found for thread id …` |
//! | archived (0.131.0 loads it) | -32600 | `session … is archived. …` |
//! | the id is malformed | -32600 | `invalid session id: …`; 0.131.0: `invalid thread id: …` |
//! | too many requests wait | -32001 | |
//! | the app-server drains | -32600 | any, with `data.reason: "serverShuttingDown"` |

use codexd_core::foreign_text;
use codexd_protocol::envelope::OVERLOADED;

use crate::hub::text;

/// Why an app-server did not load a thread.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refusal {
    /// The app-server is draining: its successor loads the thread.
    Draining,
    /// Another process still has the thread, or the app-server is overloaded: retry soon.
    RetrySoon,
    /// The configuration is the cause, or the cause is unknown. The thread is on disk and loads once the cause is
    /// gone: retry with backoff, never treat the thread as ended.
    Recoverable,
    /// The thread has ended: no app-server can load it.
    Gone,
}

/// The reason with which a draining app-server refuses new work (0.169.0).
const DRAINING: &str = "serverShuttingDown";

/// Message parts that mean that the thread has ended.
const ENDS: [&str; 4] = ["no rollout found", "is archived", "invalid session id", "invalid thread id"];

impl Refusal {
    /// Classifies the error object of a `thread/resume`.
    pub fn of(error: &str) -> Self {
        let message = text::string(error, "message").unwrap_or_default();
        let is_request_error = text::member(error, "code").is_some_and(|code| code.get() == "-32600");
        if is_draining(error) {
            Refusal::Draining
        } else if message.contains("active writer") || message.contains("is closing") || is_overload(error) {
            Refusal::RetrySoon
        } else if is_request_error
            && !message.starts_with("failed to load configuration")
            && ENDS.iter().any(|end| message.contains(end))
        {
            Refusal::Gone
        } else {
            Refusal::Recoverable
        }
    }
}

/// Whether an error is transient: overload or an internal failure. Not for loads, where the same code means a dead
/// MCP server or an unreadable file.
pub fn is_transient(error: &str) -> bool {
    let code = text::member(error, "code").map(|code| code.get());
    code == Some("-32603") || Refusal::of(error) == Refusal::RetrySoon
}

/// Whether the app-server does not know the method or rejects the parameters.
pub fn is_unknown_method(error: &str) -> bool {
    let message = text::string(error, "message").unwrap_or_default();
    text::member(error, "code").is_some_and(|code| code.get() == "-32601")
        || message.starts_with("Invalid request")
}

/// Whether an error comes from a draining app-server.
pub fn is_draining(error: &str) -> bool {
    let reason = text::member(error, "data").and_then(|data| text::string(data.get(), "reason"));
    reason.is_some_and(|reason| reason == DRAINING)
}

fn is_overload(error: &str) -> bool {
    text::member(error, "code").is_some_and(|code| code.get().parse() == Ok(OVERLOADED))
}

/// An error's message as one short line for people.
pub fn message_of(error: &str) -> Box<str> {
    let message = text::string(error, "message").unwrap_or_default();
    let line = message.trim().lines().next().unwrap_or_default();
    foreign_text::quote(line).into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Refusal, message_of};

    fn of(code: i64, message: &str) -> Refusal {
        Refusal::of(&json!({"code": code, "message": message}).to_string())
    }

    #[test]
    fn a_refusal_that_the_configuration_causes_may_heal() {
        let causes = [
            (-32600, "failed to load configuration: /h/config.toml:7:1: invalid transport"),
            (-32600, "failed to load configuration: Model provider `m` not found"),
            (-32600, "failed to load configuration: /h/no rollout found/config.toml:1:1: invalid key"),
            (-32600, "This chat uses model provider “m”, which is no longer configured. Restore it."),
            (
                -32603,
                "error resuming thread: Fatal error: Failed to initialize session: required MCP servers failed",
            ),
            (-32603, "failed to read thread: thread-store internal error: rollout at /h/x.jsonl is empty"),
            (-32600, "something that no release has said so far"),
        ];
        for (code, message) in causes {
            assert_eq!(of(code, message), Refusal::Recoverable, "{message}");
        }
        assert_eq!(Refusal::of("{}"), Refusal::Recoverable);
    }

    #[test]
    fn only_a_thread_without_a_rollout_or_in_the_archive_has_ended() {
        let ends = [
            "no rollout found for thread id 019a0000-0000-7000-8000-000000000000",
            "session 019a is archived. Run `codex unarchive 019a` to unarchive it first.",
            "invalid session id: invalid length: expected length 32 for simple format, found 3",
            "invalid thread id: invalid length: expected length 32 for simple format, found 3",
        ];
        for message in ends {
            assert_eq!(of(-32600, message), Refusal::Gone, "{message}");
        }
    }

    #[test]
    fn what_another_process_or_the_moment_causes_is_tried_again_soon() {
        assert_eq!(of(-32600, "thread 019a already has an active writer"), Refusal::RetrySoon);
        assert_eq!(of(-32600, "thread 019a is closing; retry"), Refusal::RetrySoon);
        assert_eq!(of(-32001, "Server overloaded; retry later."), Refusal::RetrySoon);
        let drains = json!({"code": -32600, "message": "x", "data": {"reason": "serverShuttingDown"}});
        assert_eq!(Refusal::of(&drains.to_string()), Refusal::Draining);
    }

    #[test]
    fn a_message_for_people_is_one_short_line() {
        let error = json!({"code": 1, "message": format!("cause\nmore {}", "x".repeat(9_999))}).to_string();
        assert_eq!(&*message_of(&error), "cause");
        let error = json!({"message": "é".repeat(9_999)}).to_string();
        assert!(message_of(&error).chars().count() <= codexd_core::limits::QUOTED_CHARS_MAX);
    }
}
