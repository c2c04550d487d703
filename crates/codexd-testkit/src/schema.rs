//! The JSON schema that a real Codex prints, and whether messages fit it.
//!
//! A schema is printed once (`codex app-server generate-json-schema --experimental`) and kept beside the releases, in
//! `schema-<version>` of the cache. [`Schema::check`] takes every message that a client may receive.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use rustix::fs::{FlockOperation, flock};
use serde_json::Value;

use crate::client::{Direction, Entry};
use crate::{Version, codex, limits, run};

mod validate;

/// The files with the messages that name their method.
const MESSAGES: [&str; 2] = ["ServerNotification.json", "ServerRequest.json"];

/// What one release says of what its clients receive.
#[derive(Debug)]
pub struct Schema {
    version: Version,
    folder: PathBuf,
    /// The parameters of notifications and server requests by their method, with the definitions that they need.
    params: HashMap<String, (usize, Value)>,
    /// The documents of [`MESSAGES`].
    documents: Vec<Value>,
    error: Value,
}

/// Notifications that a release sends although its schema leaves them out (0.171.0, to a client that asks for raw events).
const UNLISTED: [&str; 2] = ["rawResponse/completed", "rawResponseItem/completed"];

impl Schema {
    /// The schema of a release that is in the cache; `None` if it is not, so that a test can skip.
    ///
    /// # Errors
    /// The release prints none, or it cannot be kept.
    pub fn of(version: Version) -> anyhow::Result<Option<Schema>> {
        let Some(binary) = codex::cached(version)? else { return Ok(None) };
        let folder = codex::cache_folder()?.join(format!("schema-{version}"));
        print_once(&binary, &folder)?;
        let mut documents = Vec::new();
        let mut params = HashMap::new();
        for (at, file) in MESSAGES.iter().enumerate() {
            let document = load(&folder.join(file))?;
            for variant in document["oneOf"].as_array().into_iter().flatten() {
                let method = variant["properties"]["method"]["enum"][0].as_str();
                let method = method.with_context(|| format!("{file} has a variant without a method"))?;
                params.insert(method.to_owned(), (at, variant["properties"]["params"].clone()));
            }
            documents.push(document);
        }
        let error = load(&folder.join("JSONRPCError.json"))?;
        Ok(Some(Schema { version, folder, params, documents, error }))
    }

    /// Whether the release has a notification or a server request.
    pub fn has(&self, method: &str) -> bool {
        self.params.contains_key(method)
    }

    /// Whether a notification, a server request or an error answer fits; `Err` says where it does not. Results are taken
    /// for good: they do not name their method ([`Schema::check_result`]). So are answers to what had no id of the protocol.
    ///
    /// # Errors
    /// A sentence with the release, the message and the place in it.
    pub fn check(&self, message: &Value) -> Result<(), String> {
        let fits = match message["method"].as_str() {
            Some(method) => match self.params.get(method) {
                Some((at, params)) => validate::check(&self.documents[*at], params, &message["params"]),
                None if UNLISTED.contains(&method) => Ok(()),
                None => Err(format!("it has no {method}")),
            },
            None if message.get("error").is_some() && is_id(&message["id"]) => {
                validate::check(&self.error, &self.error, message)
            }
            None => Ok(()),
        };
        fits.map_err(|why| format!("{message} does not fit the schema of {}: {why}", self.version))
    }

    /// Whether everything fits that a client received, results too; gives what does not.
    pub fn misfits(&self, entries: &[Entry]) -> Vec<String> {
        // `None` where an id was given to several methods: which of them is answered cannot be told.
        let mut methods: HashMap<String, Option<String>> = HashMap::new();
        let mut misfits = Vec::new();
        for Entry { direction, message, .. } in entries {
            let (id, method) = (message["id"].to_string(), message["method"].as_str());
            let fits = match (direction, method) {
                (Direction::Sent, Some(method)) => {
                    let known = methods.entry(id).or_insert_with(|| Some(method.to_owned()));
                    if known.as_deref() != Some(method) {
                        *known = None;
                    }
                    continue;
                }
                (Direction::Sent, None) => continue,
                (Direction::Received, None) if message.get("result").is_some() => match methods.get(&id) {
                    Some(Some(method)) => self.check_result(method, &message["result"]),
                    _ => Ok(()),
                },
                (Direction::Received, _) => self.check(message),
            };
            misfits.extend(fits.err());
        }
        misfits
    }

    /// Whether the result of a request fits; one without a type of its own in the schema does.
    ///
    /// # Errors
    /// As [`Schema::check`].
    pub fn check_result(&self, method: &str, result: &Value) -> Result<(), String> {
        let capital = |segment: &str| {
            let mut letters = segment.chars();
            letters.next().map(|first| first.to_ascii_uppercase().to_string() + letters.as_str())
        };
        let name: String = method.split('/').filter_map(capital).collect();
        let file = format!("{name}Response.json");
        let places =
            [self.folder.join(&file), self.folder.join("v1").join(&file), self.folder.join("v2").join(&file)];
        let Some(place) = places.iter().find(|place| place.is_file()) else { return Ok(()) };
        let schema = load(place).map_err(|error| format!("{error:#}"))?;
        validate::check(&schema, &schema, result).map_err(|why| {
            format!("{method} → {result} does not fit {name}Response of {}: {why}", self.version)
        })
    }
}

fn is_id(id: &Value) -> bool {
    id.is_string() || id.is_i64()
}

fn load(path: &Path) -> anyhow::Result<Value> {
    let text = fs::read_to_string(path).with_context(|| format!("{} is missing", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not JSON", path.display()))
}

/// Prints the schema into `folder` unless it is there.
fn print_once(binary: &Path, folder: &Path) -> anyhow::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let cache = folder.parent().context("the cache has a folder")?;
    let lock = File::create(folder.with_extension("schema-lock"))?;
    flock(&lock, FlockOperation::LockExclusive)?;
    if folder.is_dir() {
        return Ok(());
    }
    let staging = tempfile::Builder::new().prefix(".schema-").tempdir_in(cache)?;
    let printed = staging.path().join("printed");
    let mut command = Command::new(binary);
    command.args(["app-server", "generate-json-schema", "--experimental", "--out"]).arg(&printed);
    // Nothing of this machine's own settings, and nothing left behind in them.
    command.env("HOME", staging.path()).env("CODEX_HOME", staging.path());
    let done = run::run(command, limits::INSTALL)?;
    ensure!(done.success(), "{} prints no schema: {done}", binary.display());
    fs::rename(&printed, folder).with_context(|| format!("failed to move the schema to {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::Schema;
    use crate::{Version, skip};

    #[test]
    fn a_message_that_lacks_what_is_required_does_not_fit_any_reference_release() {
        for version in Version::ALL {
            let Some(schema) = Schema::of(version).expect("a schema") else {
                skip!("Codex {version} is not in the cache");
            };
            let item = json!({"type": "agentMessage", "id": "i", "text": "x"});
            let mut message = json!({"method": "item/completed",
                "params": {"threadId": "t", "turnId": "u", "item": item, "completedAtMs": 1}});
            schema.check(&message).expect("it is whole");
            message["params"]["item"]["text"] = json!(1);
            let why = schema.check(&message).expect_err("a text that is a number");
            assert!(why.contains(version.as_str()), "{why}");
            message["params"]["item"]["text"] = json!("x");
            message["params"].as_object_mut().expect("params").remove("completedAtMs");
            let why = schema.check(&message).expect_err("no time");
            assert!(why.contains("completedAtMs"), "{why}");
            assert!(schema.check(&json!({"method": "no/such", "params": {}})).is_err());
            schema.check_result("thread/loaded/list", &json!({"data": ["t"]})).expect("a list");
            schema.check_result("thread/loaded/list", &json!({"data": [1]})).expect_err("a number");
            let error = json!({"id": 1, "error": {"code": -1, "message": "m"}});
            schema.check(&error).expect("an error");
            schema.check(&json!({"id": 1, "error": {"code": -1}})).expect_err("no sentence");
        }
    }
}
