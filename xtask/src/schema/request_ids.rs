//! Members of messages that carry the JSON-RPC id of another request: found in the schema, held against the table.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::Context;
use codexd_gateway::routes::request_id_members;
use serde_json::Value;

const TABLE: &str = "crates/codexd-protocol/src/methods/table.rs";

/// The files of a schema that have messages by their method, and what those are.
const MESSAGES: [(&str, &str); 3] = [
    ("ClientRequest.json", "request"),
    ("ServerNotification.json", "notification"),
    ("ServerRequest.json", "server request"),
];

/// Members with such a name that carry something else.
const OTHER_IDS: &[(&str, &str, &str)] =
    &[("environment/add", "websocketRequestId", "the header X-Request-ID of an HTTP request")];

/// Where a message has such a member.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct RequestIdPlace {
    /// `request`, `notification`, `server request`, or `result`.
    pub what: &'static str,
    /// The method; of a result the name of its type.
    pub message: String,
    /// The member, with those that it lies in: `data.[].requestId`.
    pub path: String,
}

/// The places in one schema.
pub fn read(folder: &Path) -> anyhow::Result<BTreeSet<RequestIdPlace>> {
    let mut places = BTreeSet::new();
    for (file, what) in MESSAGES {
        let schema = load(&folder.join(file))?;
        for variant in schema["oneOf"].as_array().into_iter().flatten() {
            let message = variant["properties"]["method"]["enum"][0].as_str().unwrap_or_default();
            collect(&schema, &variant["properties"]["params"], &mut Walk::new(what, message, &mut places));
        }
    }
    for folder in [folder.to_owned(), folder.join("v1"), folder.join("v2")] {
        for entry in fs::read_dir(&folder).with_context(|| format!("{} is missing", folder.display()))? {
            let path = entry?.path();
            let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
            if name.ends_with("Response") && name != "JSONRPCResponse" {
                let schema = load(&path)?;
                collect(&schema, &schema, &mut Walk::new("result", name, &mut places));
            }
        }
    }
    Ok(places)
}

fn load(path: &Path) -> anyhow::Result<Value> {
    let text = fs::read_to_string(path).with_context(|| format!("{} is missing", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not JSON", path.display()))
}

/// A walk through the schema of one message.
struct Walk<'a> {
    what: &'static str,
    message: &'a str,
    path: Vec<String>,
    /// The definitions that the walk is in: a type may contain itself.
    within: Vec<String>,
    places: &'a mut BTreeSet<RequestIdPlace>,
}

impl<'a> Walk<'a> {
    fn new(what: &'static str, message: &'a str, places: &'a mut BTreeSet<RequestIdPlace>) -> Self {
        Self { what, message, path: Vec::new(), within: Vec::new(), places }
    }

    fn found(&mut self) {
        let path = self.path.join(".");
        let known = |&(message, member, _): &(&str, &str, &str)| message == self.message && member == path;
        if !OTHER_IDS.iter().any(known) {
            let message = self.message.to_owned();
            self.places.insert(RequestIdPlace { what: self.what, message, path });
        }
    }
}

fn collect(schema: &Value, of: &Value, walk: &mut Walk<'_>) {
    if let Some(reference) = of["$ref"].as_str() {
        let name = reference.rsplit('/').next().unwrap_or_default();
        if name == "RequestId" {
            return walk.found();
        }
        if !walk.within.iter().any(|within| within == name) {
            walk.within.push(name.to_owned());
            collect(schema, &schema["definitions"][name], walk);
            walk.within.pop();
        }
        return;
    }
    for (name, member) in of["properties"].as_object().into_iter().flatten() {
        walk.path.push(name.clone());
        if name.replace('_', "").to_lowercase().contains("requestid") {
            walk.found();
        } else {
            collect(schema, member, walk);
        }
        walk.path.pop();
    }
    for alternative in ["oneOf", "anyOf", "allOf"].into_iter().filter_map(|key| of[key].as_array()).flatten()
    {
        collect(schema, alternative, walk);
    }
    for (key, step) in [("items", "[]"), ("additionalProperties", "{}")] {
        let inner = &of[key];
        walk.path.push(step.to_owned());
        for inner in inner.as_array().map_or(std::slice::from_ref(inner), Vec::as_slice) {
            if inner.is_object() {
                collect(schema, inner, walk);
            }
        }
        walk.path.pop();
    }
}

/// The differences between the table and the request ids in the schemas of the releases, by version, the oldest first.
pub fn check(releases: &[(String, &BTreeSet<RequestIdPlace>)]) -> Vec<String> {
    let has_row = |place: &RequestIdPlace| {
        let is_it = |row| is_row(&row, place);
        place.what != "result" && place.what != "server request" && request_id_members().any(is_it)
    };
    let mut complaints = Vec::new();
    let mut known = BTreeSet::new();
    for (version, places) in releases.iter().rev() {
        for place in *places {
            if known.insert(place) && !has_row(place) {
                let RequestIdPlace { what, message, path } = place;
                complaints.push(format!(
                    "{what} {message} of {version} carries a request id in {path}; add a row to {TABLE}"
                ));
            }
        }
    }
    let stale = request_id_members().filter(|row| !known.iter().any(|place| is_row(row, place)));
    complaints.extend(stale.map(|row| {
        format!(
            "{}.{} is in {TABLE}, but no release has a request id there; remove the row",
            row.message, row.member
        )
    }));
    complaints
}

fn is_row(row: &codexd_gateway::routes::RequestIdMember, place: &RequestIdPlace) -> bool {
    row.message == place.message && row.member == place.path
}
