//! The gates beside what `--experimental` adds to the schema of the newest release.

use std::collections::{BTreeMap, BTreeSet};

use codexd_gateway::routes::gates::{
    FIELDS, Gated, METHODS, server_request_fields, server_request_needs_experimental,
};
use serde_json::Value;

use super::release::{Params, Release};

const TABLE: &str = "crates/codexd-gateway/src/routes/gates/table.rs";
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
    let table: BTreeMap<_, _> = METHODS.iter().copied().collect();
    let (stable, full) = (&newest.stable.requests, &newest.full.requests);
    let mut complaints = Vec::new();
    for (name, params) in full.iter().filter(|(name, _)| !stable.contains_key(*name)) {
        let Some(required) = table.get(name.as_str()) else {
            complaints
                .push(format!("{name} of {version} needs experimentalApi; add it to METHODS in {TABLE}"));
            continue;
        };
        let wanted = (!params.optional).then(|| params.required.clone());
        let listed = required.map(|required| required.iter().map(|&name| name.to_owned()).collect());
        if listed != wanted {
            complaints.push(format!(
                "{name} of {version} requires {wanted:?}, but METHODS in {TABLE} says {listed:?}"
            ));
        }
    }
    let free = |name: &&&str| stable.contains_key(**name) || !full.contains_key(**name);
    complaints.extend(table.keys().filter(free).map(|name| {
        format!("{name} is in METHODS of {TABLE}, but needs no experimentalApi in {version}, or is gone")
    }));
    complaints
}

fn check_fields(newest: &Release) -> Vec<String> {
    let version = newest.version();
    let table: BTreeMap<_, _> = FIELDS.iter().copied().collect();
    let mut complaints = Vec::new();
    for (method, stable) in &newest.stable.requests {
        let full = newest.full.requests.get(method).unwrap_or(stable);
        let wanted = experimental(stable, full);
        let listed: BTreeMap<_, _> =
            table.get(method.as_str()).into_iter().flat_map(|fields| fields.iter().copied()).collect();
        let names: BTreeSet<_> = listed.keys().map(|&name| name.to_owned()).collect();
        complaints.extend(wanted.difference(&names).map(|field| {
            format!("{method}.{field} of {version} needs experimentalApi; add it to FIELDS in {TABLE}")
        }));
        complaints.extend(names.difference(&wanted).map(|field| {
            format!("{method}.{field} is in FIELDS of {TABLE}, but needs no experimentalApi in {version}, or is gone")
        }));
        complaints.extend(listed.iter().filter(|(field, _)| wanted.contains(**field)).filter_map(
            |(field, gated)| {
                let schema = &full.members[*field];
                (!fits(*gated, field, schema)).then(|| {
                    format!("{method}.{field} of {version} is {schema}, but {gated:?} in FIELDS of {TABLE}")
                })
            },
        ));
    }
    let gone = |method: &&&str| !newest.stable.requests.contains_key(**method);
    complaints.extend(table.keys().filter(gone).map(|method| {
        format!("{method} is in FIELDS of {TABLE}, but {version} has no such method without experimentalApi")
    }));
    complaints
}

/// The members that the full schema has more, and the approval policy.
fn experimental(stable: &Params, full: &Params) -> BTreeSet<String> {
    let gated = |name: &&String| !stable.has(name) || *name == POLICY;
    full.members.keys().filter(gated).cloned().collect()
}

/// Whether the values that are gated can be told of a member with this schema.
fn fits(gated: Gated, field: &str, schema: &Value) -> bool {
    let kind = |name: &str| schema["type"] == name;
    let or_null = |name: &str| schema["type"] == serde_json::json!([name, "null"]);
    match gated {
        Gated::Flag => kind("boolean"),
        Gated::Bool => or_null("boolean"),
        // An enumeration, or null.
        Gated::Text => or_null("string") || schema["anyOf"][1]["type"] == "null",
        Gated::TextOrNull | Gated::Path => or_null("string"),
        Gated::List => or_null("array"),
        Gated::Map => or_null("object") || schema["anyOf"][1]["type"] == "null",
        Gated::Granular => field == POLICY,
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
