//! What a client without the capability `experimentalApi` may not do.
//!
//! The shared connection has the capability, so the gateway refuses requests of other clients itself, in upstream's words. The
//! rows are the difference of the two schemas of the newest reference release (0.171.0), without and with `--experimental`.
//! The same tables serve older releases: what is free since then is accepted, and what no longer exists is passed on.
//!
//! Observed on 0.171.0, 0.169.0 and 0.131.0:
//! * Params are validated first: `thread/settings/update {}` gets ``Invalid request: missing field `threadId` ``, not the
//!   message of the gate. So [`check`] accepts what upstream will refuse anyway, as far as the members of `params` show it: a
//!   missing one, or one of another JSON type. What they do not show (a nested member, a relative path, an unknown word) gets
//!   the message of the gate, where upstream reports invalid params.
//! * The message names one field, the first in upstream's order, which the rows keep.
//! * A field that is null counts as missing. Empty lists, maps and strings, and a `false` where null was possible,
//!   are gated; a `false` where it was not is the default and free. An empty `path` is free. 0.169.0 gates
//!   `thread/list {"projectId":null}`, where null has a meaning.
//! * `approvalPolicy: {"granular": …}` is gated in every request, with a message of its own; the schema does not show it.
//! * Unknown members are ignored: `persistExtendedHistory`, which 0.131.0 gates, is accepted by 0.169.0 from every client.
//! * Results and notifications are not stripped: a `thread` has its experimental members for every client.

use std::borrow::Cow;
use std::fmt;

use serde::Deserializer as _;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use codexd_protocol::methods::{self, Gate, GatedValue};

#[cfg(test)]
mod tests;

/// The error code of a refusal.
pub const CODE: i64 = -32600;

/// Checks a request that goes through the hub. Upstream itself checks those on a dedicated connection, which has the client's own
/// capabilities.
///
/// # Errors
/// Upstream's message, for an error with the code [`CODE`]: `experimental` is false, and the method or a member of its params needs
/// `experimentalApi`.
pub fn check(method: &str, params: Option<&RawValue>, experimental: bool) -> Result<(), String> {
    if experimental {
        return Ok(());
    }
    let fields = match methods::find(method).map_or(Gate::Free, |row| row.gate) {
        Gate::Free => return Ok(()),
        Gate::Method(required) if is_complete(params, required) => return Err(refusal(method)),
        Gate::Method(_) => return Ok(()),
        Gate::Members(fields) => fields,
    };
    let mut present = 0_u32;
    members(params, |name, value| {
        if let Some(at) = fields.iter().position(|(field, _)| *field == name) {
            // Of a repeated member the last one counts, as upstream reads it.
            present = present & !(1 << at) | u32::from(holds(fields[at].1, value)) << at;
        }
    });
    if present == 0 {
        return Ok(());
    }
    let (field, gated) = fields[present.trailing_zeros() as usize];
    Err(match gated {
        GatedValue::Granular => refusal("askForApproval.granular"),
        _ => refusal(&format!("{method}.{field}")),
    })
}

/// Whether a notification is sent only to clients with `experimentalApi`.
///
/// Observed on 0.169.0 for this one; the schema has the same notifications with and without the capability.
pub fn notification_needs_experimental(notification: &str) -> bool {
    notification == "thread/readState/changed"
}

/// Whether the schema has this server request only for clients with `experimentalApi`. 0.169.0 sends it to other clients too, and
/// so does the hub: a turn waits for the answer.
pub fn server_request_needs_experimental(method: &str) -> bool {
    method == "currentTime/read"
}

/// The params members of a server request that are omitted for clients without `experimentalApi` (from the schema; not
/// observed). `availableDecisions` is not among them: 0.131.0 and 0.169.0 send it to every client, in spite of the schema.
pub fn server_request_fields(method: &str) -> &'static [&'static str] {
    match method {
        "item/commandExecution/requestApproval" => &["additionalPermissions"],
        _ => &[],
    }
}

/// Whether only clients with `experimentalApi` know this `mode` of `mcpServer/elicitation/request` (from the schema; not observed).
pub fn elicitation_needs_experimental(mode: &str) -> bool {
    mode == "openai/userVerification"
}

fn refusal(what: &str) -> String {
    format!("{what} requires experimentalApi capability")
}

/// Whether the params have every member that upstream requires; `None` is a method that also works without params.
///
/// Upstream accepts an array in place of an object, with the members in its own order: one that is too short lacks some.
fn is_complete(params: Option<&RawValue>, required: Option<&[&str]>) -> bool {
    let Some(required) = required else { return true };
    if let Some(array) = params.filter(|params| params.get().starts_with('[')) {
        // The order of the members is not known here, but each takes one place.
        return serde_json::from_str::<Vec<IgnoredAny>>(array.get())
            .is_ok_and(|all| all.len() >= required.len());
    }
    let mut seen = 0_u32;
    let is_object = members(params, |name, _| {
        if let Some(at) = required.iter().position(|field| *field == name) {
            seen |= 1 << at;
        }
    });
    is_object && seen.count_ones() as usize == required.len()
}

/// Whether this value of a member is gated.
fn holds(gated: GatedValue, value: &RawValue) -> bool {
    let text = value.get();
    match gated {
        GatedValue::Flag => text == "true",
        GatedValue::Bool => text == "true" || text == "false",
        // An enum variant may be written as the only member of an object.
        GatedValue::Text => text.starts_with(['"', '{']),
        GatedValue::TextOrNull => text.starts_with(['"', '{']) || text == "null",
        GatedValue::Path => text.starts_with('"') && text != r#""""#,
        GatedValue::List => text.starts_with('['),
        // Upstream accepts an array as an object with the members in its own order.
        GatedValue::Map => text.starts_with(['{', '[']),
        GatedValue::Granular => {
            let mut granular = false;
            members(Some(value), |name, value| {
                granular |= name == "granular" && value.get().starts_with(['{', '[']);
            });
            granular
        }
    }
}

/// Calls `each` with the members of an object. Returns whether it is one.
fn members(object: Option<&RawValue>, each: impl FnMut(&str, &RawValue)) -> bool {
    let Some(object) = object.filter(|object| object.get().starts_with('{')) else { return false };
    serde_json::Deserializer::from_str(object.get()).deserialize_map(Members(each)).is_ok()
}

struct Members<F>(F);

impl<'de, F: FnMut(&str, &RawValue)> Visitor<'de> for Members<F> {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(Name(name)) = map.next_key()? {
            self.0(&name, map.next_value()?);
        }
        Ok(())
    }
}

/// The name of a member, borrowed unless it is written with escapes.
#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);
