//! Reading a message as the app-server does: what it drops without a reply is refused here, with a reason.
//!
//! Observed on 0.171.0 and held against it by `a_message_is_answered_refused_or_dropped_as_by_the_app_server` (crate
//! `codexd`, `tests/it/gateway/differential.rs`). The app-server drops a text
//! * that is not JSON: its reader refuses half a surrogate pair and more than 127 nested arrays and objects, but takes a number of any size;
//! * that has `id`, `method`, `params` or `trace` twice, or `trace` of a type that is no trace context;
//! * with an `id` that is neither a string nor a 64-bit integer, which makes a notification of a request;
//! * with an `error` that lacks a code or a message.
//!
//! Refused here though the app-server takes it: a message written as an array, and a `result` or `error` that stands there
//! twice in a request.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::envelope::{INVALID_REQUEST, Message, RequestId, Wire};

/// JSON-RPC's code for what is no JSON.
pub const PARSE_ERROR: i64 = -32700;
/// Arrays and objects that may be nested, the message included: the limit of the app-server's JSON reader.
pub const DEPTH_MAX: usize = 127;

/// Why an app-server would drop a text.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal<'a> {
    /// The id as the sender wrote it, if the text has one that can be repeated.
    pub id: Option<&'a str>,
    /// [`PARSE_ERROR`] or [`INVALID_REQUEST`].
    pub code: i64,
    /// A sentence for the sender.
    pub reason: String,
    /// The text was meant as an answer to a server request.
    pub is_answer: bool,
}

/// A message that an app-server reads as one.
#[derive(Clone, Copy, Debug)]
pub struct Checked<'a> {
    /// The message. The method of a request is empty where [`Self::escaped_method`] has it.
    pub message: Message<'a>,
    /// The raw method, where it is written with escapes: [`parse`](crate::parse) does not read it.
    pub escaped_method: Option<&'a str>,
}

#[derive(Deserialize)]
struct TraceContext<'a> {
    #[serde(borrow, default, rename = "traceparent")]
    _parent: Option<Cow<'a, str>>,
    #[serde(borrow, default, rename = "tracestate")]
    _state: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct ErrorObject<'a> {
    #[serde(rename = "code")]
    _code: i64,
    #[serde(default, rename = "data")]
    _data: Option<IgnoredAny>,
    #[serde(borrow, rename = "message")]
    _message: Cow<'a, str>,
}

/// Reads a message that anybody may have written.
///
/// # Errors
/// If an app-server would drop it without a reply.
pub fn check(text: &str) -> Result<Checked<'_>, Refusal<'_>> {
    let wire: Wire<'_> = serde_json::from_str(text).map_err(|error| {
        let code = if error.is_data() { INVALID_REQUEST } else { PARSE_ERROR };
        let reason = match code {
            PARSE_ERROR => format!("Parse error: {error}"),
            _ => format!("Invalid request: {error}"),
        };
        Refusal { id: None, code, reason, is_answer: false }
    })?;
    let is_array = text.trim_start().starts_with('[');
    let id = wire.id.map(|id| id.get()).filter(|id| *id != "null" && !is_array && scan(id).is_ok());
    let is_answer = wire.method.is_none() && (wire.result.is_some() || wire.error.is_some());
    let refuse = |code, reason: String| Refusal { id, code, reason, is_answer };
    scan(text).map_err(|reason| refuse(PARSE_ERROR, format!("Parse error: {reason}")))?;
    let invalid = |reason: &str| refuse(INVALID_REQUEST, format!("Invalid request: {reason}"));
    if is_array {
        return Err(invalid("a message must be an object"));
    }
    if wire.id.is_some_and(|id| serde_json::from_str::<RequestId>(id.get()).is_err()) {
        return Err(invalid("the id must be a string or a 64-bit integer"));
    }
    if wire.trace.is_some_and(|trace| serde_json::from_str::<TraceContext<'_>>(trace.get()).is_err()) {
        return Err(invalid("trace must be an object with traceparent and tracestate, or null"));
    }
    let is_error = |error: &str| serde_json::from_str::<ErrorObject<'_>>(error).is_ok();
    if is_answer && wire.result.is_none() && wire.error.is_some_and(|error| !is_error(error.get())) {
        return Err(invalid("an error must have an integer code and a message"));
    }
    let method = match wire.method {
        None => None,
        Some(raw) if !raw.get().starts_with('"') => return Err(invalid("the method must be a string")),
        Some(raw) => Some(raw.get().trim_matches('"')),
    };
    let escaped_method = wire.method.map(|raw| raw.get()).filter(|raw| raw.contains('\\'));
    let message = wire
        .message(if escaped_method.is_some() { Some("") } else { method })
        .ok_or_else(|| invalid("a message is an object with a method, a result or an error"))?;
    Ok(Checked { message, escaped_method })
}

/// Looks for what the app-server's JSON reader refuses in a text that is JSON by its grammar.
fn scan(json: &str) -> Result<(), &'static str> {
    let bytes = json.as_bytes();
    let (mut at, mut depth) = (0, 0_usize);
    while let Some(byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'"' => at = string_end(bytes, at)?,
            b'{' | b'[' => {
                depth += 1;
                if depth > DEPTH_MAX {
                    return Err("more than 127 nested arrays and objects");
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// Where the string ends whose text begins at `at`.
fn string_end(bytes: &[u8], mut at: usize) -> Result<usize, &'static str> {
    const HALF: &str = "a string holds half a surrogate pair";
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        let Some(next) = rest.iter().position(|byte| matches!(byte, b'"' | b'\\')) else {
            return Ok(bytes.len());
        };
        at += next;
        if bytes[at] == b'"' {
            return Ok(at + 1);
        }
        at += match escaped_unit(bytes, at) {
            Some(0xdc00..=0xdfff) => return Err(HALF),
            Some(0xd800..=0xdbff) => match escaped_unit(bytes, at + 6) {
                Some(0xdc00..=0xdfff) => 12,
                _ => return Err(HALF),
            },
            Some(_) => 6,
            None => 2,
        };
    }
}

/// The UTF-16 unit of the `\uXXXX` at `at`, if there is one.
fn escaped_unit(bytes: &[u8], at: usize) -> Option<u16> {
    let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests;
