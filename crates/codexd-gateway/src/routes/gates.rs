//! What a client that did not ask for `experimentalApi` may not do.
//!
//! The hub asks for it, so what it is given by such a client has to be refused here, in upstream's words. The rows are
//! the difference of the two schemas of the newest reference release (0.171.0), without and with `--experimental`. Older
//! releases are served by the same tables: what became free since is let through, and what no longer exists is passed on.
//!
//! Observed on 0.171.0, 0.169.0 and 0.131.0:
//! * Params are validated first: `thread/settings/update {}` gets ``Invalid request: missing field `threadId` ``, not the
//!   sentence of the gate. So [`check`] lets through what upstream will refuse anyway, as far as that can be told by looking
//!   at the members of `params`: a missing one, or one of another JSON type. What it cannot tell (a member deep inside, a
//!   relative path, an unknown word) gets the sentence of the gate, where upstream complains about the params.
//! * One field is named, the first in upstream's own order, which the rows below keep.
//! * A field that is null is as one that is not there. Empty lists, maps and strings, and a `false` where null was possible,
//!   are gated; a `false` where it was not is the default and free. An empty `path` is free. 0.169.0 gates
//!   `thread/list {"projectId":null}`, where null has a meaning.
//! * `approvalPolicy: {"granular": …}` is gated in every request, with words of its own; the schema does not tell.
//! * Unknown members are ignored: `persistExtendedHistory`, which 0.131.0 gates, is accepted by 0.169.0 from anybody.
//! * Results and notifications are not stripped: a `thread` has its experimental members for every client.

use std::borrow::Cow;
use std::fmt;

use serde::Deserializer as _;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use codexd_protocol::methods::{self, Gate, GatedValue};

#[cfg(test)]
mod tests;

/// The code of the refusal.
pub const CODE: i64 = -32600;

/// Whether a client may send this request; else upstream's sentence, for an error with the code [`CODE`].
///
/// Needed for what goes through the hub. What goes over the client's own connection is judged there by upstream itself,
/// for that connection has the client's own capabilities.
///
/// # Errors
/// `experimental` is false, and the method or a member of its params needs `experimentalApi`.
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
            // A member that is there twice counts as upstream reads it: the last one.
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

/// Whether a notification is told only to clients that asked for `experimentalApi`.
///
/// Observed on 0.169.0 for this one; the schema has the same notifications with and without.
pub fn notification_needs_experimental(notification: &str) -> bool {
    notification == "thread/readState/changed"
}

/// Whether the schema has this question for clients with `experimentalApi` alone. 0.169.0 asks the others all the same, and
/// so does the hub: a turn waits for the answer.
pub fn server_request_needs_experimental(method: &str) -> bool {
    method == "currentTime/read"
}

/// The members of the params of a server request that are left out for clients without `experimentalApi`. (By the schema;
/// not run.) `availableDecisions` is not among them: 0.131.0 and 0.169.0 tell it to everybody, whatever the schema says.
pub fn server_request_fields(method: &str) -> &'static [&'static str] {
    match method {
        "item/commandExecution/requestApproval" => &["additionalPermissions"],
        _ => &[],
    }
}

/// Whether only clients that asked for `experimentalApi` know this `mode` of `mcpServer/elicitation/request`. (By the
/// schema; not run.)
pub fn elicitation_needs_experimental(mode: &str) -> bool {
    mode == "openai/userVerification"
}

fn refusal(what: &str) -> String {
    format!("{what} requires experimentalApi capability")
}

/// Whether upstream would find every member that it requires; `None` stands for a method that takes no params as well.
///
/// Upstream takes an array for an object, with the members in its own order: one that is too short lacks some.
fn is_complete(params: Option<&RawValue>, required: Option<&[&str]>) -> bool {
    let Some(required) = required else { return true };
    if let Some(array) = params.filter(|params| params.get().starts_with('[')) {
        // Where the members stand is not known here, but each takes a place.
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
        // A word of a list may be written as the only member of an object.
        GatedValue::Text => text.starts_with(['"', '{']),
        GatedValue::TextOrNull => text.starts_with(['"', '{']) || text == "null",
        GatedValue::Path => text.starts_with('"') && text != r#""""#,
        GatedValue::List => text.starts_with('['),
        // An array is taken for an object with the members in upstream's order.
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

/// Calls `each` with the members of an object, and says whether it is one.
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
