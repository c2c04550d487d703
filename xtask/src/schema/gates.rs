//! The gates beside what `--experimental` adds to the schema of the newest release.

use std::collections::{BTreeMap, BTreeSet};

use codexd_gateway::routes::gates::{server_request_fields, server_request_needs_experimental};
use codexd_gateway::routes::methods::{self, Gate, GatedValue};
use serde_json::Value;

use super::release::{Params, Release};

const TABLE: &str = "crates/codexd-protocol/src/methods/table.rs";
const MEMBERS: &str = "crates/codexd-protocol/src/methods/experimental.rs";
const GATES: &str = "crates/codexd-gateway/src/routes/gates.rs";

/// Refused by a rule of its own, which the schema does not tell.
const POLICY: &str = "approvalPolicy";

/// Members of server requests that the full schema has more, but that need no gate: the first is told to everybody all the
/// same, the others belong to a mode of their own (`elicitation_needs_experimental`).
const FREE_ALL_THE_SAME: &[(&str, &str)] = &[
    ("item/commandExecution/requestApproval", "availableDecisions"),
    ("mcpServer/elicitation/request", "challenge"),
    ("mcpServer/elicitation/request", "description"),
    ("mcpServer/elicitation/request", "title"),
];

/// Everything about the gates that is not in order, a sentence each.
pub fn check(newest: &Release) -> Vec<String> {
    let mut complaints = check_methods(newest);
    complaints.extend(check_fields(newest));
    complaints.extend(check_server_requests(newest));
    complaints
}

fn check_methods(newest: &Release) -> Vec<String> {
    let version = newest.version();
    let required_of = |row: &methods::Method| match row.gate {
        Gate::Method(required) => Some((row.name, required)),
        _ => None,
    };
    let table: BTreeMap<_, _> = methods::all().filter_map(required_of).collect();
    let (stable, full) = (&newest.stable.requests, &newest.full.requests);
    let mut complaints = Vec::new();
    for (name, params) in full.iter().filter(|(name, _)| !stable.contains_key(*name)) {
        let Some(required) = table.get(name.as_str()) else {
            complaints.push(format!("{name} of {version} needs experimentalApi; gate it in {TABLE}"));
            continue;
        };
        let wanted = (!params.optional).then(|| params.required.clone());
        let listed = required.map(|required| required.iter().map(|&name| name.to_owned()).collect());
        if listed != wanted {
            complaints.push(format!("{name} of {version} requires {wanted:?}, but {TABLE} says {listed:?}"));
        }
    }
    let free = |name: &&&str| stable.contains_key(**name) || !full.contains_key(**name);
    complaints.extend(table.keys().filter(free).map(|name| {
        format!("{name} is gated in {TABLE}, but needs no experimentalApi in {version}, or is gone")
    }));
    complaints
}

fn check_fields(newest: &Release) -> Vec<String> {
    let version = newest.version();
    let members_of = |row: &methods::Method| match row.gate {
        Gate::Members(members) => Some((row.name, members)),
        _ => None,
    };
    let table: BTreeMap<_, _> = methods::all().filter_map(members_of).collect();
    let mut complaints = Vec::new();
    for (method, stable) in &newest.stable.requests {
        let full = newest.full.requests.get(method).unwrap_or(stable);
        let wanted = experimental(stable, full);
        let listed: BTreeMap<_, _> =
            table.get(method.as_str()).into_iter().flat_map(|fields| fields.iter().copied()).collect();
        let names: BTreeSet<_> = listed.keys().map(|&name| name.to_owned()).collect();
        complaints.extend(wanted.difference(&names).map(|field| {
            format!("{method}.{field} of {version} needs experimentalApi; add it to {MEMBERS}")
        }));
        complaints.extend(names.difference(&wanted).map(|field| {
            format!("{method}.{field} is in {MEMBERS}, but needs no experimentalApi in {version}, or is gone")
        }));
        complaints.extend(listed.iter().filter(|(field, _)| wanted.contains(**field)).filter_map(
            |(field, gated)| {
                let schema = &full.members[*field];
                (!fits(*gated, field, schema))
                    .then(|| format!("{method}.{field} of {version} is {schema}, but {gated:?} in {MEMBERS}"))
            },
        ));
    }
    let gone = |method: &&&str| !newest.stable.requests.contains_key(**method);
    complaints.extend(table.keys().filter(gone).map(|method| {
        format!("{method} is in {MEMBERS}, but {version} has no such method without experimentalApi")
    }));
    complaints
}

/// The members that the full schema has more, and the approval policy.
fn experimental(stable: &Params, full: &Params) -> BTreeSet<String> {
    let gated = |name: &&String| !stable.has(name) || *name == POLICY;
    full.members.keys().filter(gated).cloned().collect()
}

/// Whether the values that are gated can be told of a member with this schema.
fn fits(gated: GatedValue, field: &str, schema: &Value) -> bool {
    let kind = |name: &str| schema["type"] == name;
    let or_null = |name: &str| schema["type"] == serde_json::json!([name, "null"]);
    match gated {
        GatedValue::Flag => kind("boolean"),
        GatedValue::Bool => or_null("boolean"),
        // An enumeration, or null.
        GatedValue::Text => or_null("string") || schema["anyOf"][1]["type"] == "null",
        GatedValue::TextOrNull | GatedValue::Path => or_null("string"),
        GatedValue::List => or_null("array"),
        GatedValue::Map => or_null("object") || schema["anyOf"][1]["type"] == "null",
        GatedValue::Granular => field == POLICY,
    }
}

fn check_server_requests(newest: &Release) -> Vec<String> {
    let version = newest.version();
    let mut complaints = Vec::new();
    for (name, full) in &newest.full.server_requests {
        let stable = newest.stable.server_requests.get(name);
        if stable.is_none() != server_request_needs_experimental(name) {
            complaints.push(format!(
                "server request {name} of {version} and server_request_needs_experimental in {GATES} differ"
            ));
        }
        let Some(stable) = stable else { continue };
        let gated = |member: &&str| !stable.has(member) && !FREE_ALL_THE_SAME.contains(&(name, member));
        let wanted: BTreeSet<_> = full.members.keys().map(String::as_str).filter(gated).collect();
        if wanted != server_request_fields(name).iter().copied().collect() {
            complaints.push(format!(
                "the experimental members of server request {name} of {version} are {wanted:?}; \
                 server_request_fields in {GATES} differs"
            ));
        }
    }
    complaints
}
