//! What one Codex says of its protocol.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use codexd_testkit::run::run;
use serde_json::Value;

use super::request_ids::{self, RequestIdPlace};

/// One release of Codex; its version is a triple, so that the newest can be told.
#[derive(Clone, Debug)]
pub struct Release {
    pub number: (u64, u64, u64),
    /// What a client sees that did not ask for `experimentalApi`.
    pub stable: Protocol,
    /// Everything.
    pub full: Protocol,
}

/// Names with the params that they have.
pub type Names = BTreeMap<String, Params>;

/// One schema.
#[derive(Clone, Debug, Default)]
pub struct Protocol {
    pub requests: Names,
    pub notifications: Names,
    pub server_requests: Names,
    /// The members of these, and of results, that carry the id of another request.
    pub request_ids: BTreeSet<RequestIdPlace>,
}

/// The params of one message.
#[derive(Clone, Debug, Default)]
pub struct Params {
    /// Its members with their schema.
    pub members: BTreeMap<String, Value>,
    /// The members that must be there.
    pub required: BTreeSet<String>,
    /// Whether the message may have no params at all.
    pub optional: bool,
}

impl Params {
    /// Whether there is such a member.
    pub fn has(&self, member: &str) -> bool {
        self.members.contains_key(member)
    }
}

/// A schema of this size takes half a second to print.
const PRINTING: Duration = Duration::from_secs(60);

impl Release {
    /// Asks each Codex for its schema; oldest first.
    ///
    /// # Errors
    /// One does not run, or prints what we cannot read.
    pub fn print_all(binaries: &[PathBuf]) -> anyhow::Result<Vec<Release>> {
        let print = |codex: &PathBuf| {
            Release::print(codex)
                .with_context(|| format!("{} prints no schema that we can read", codex.display()))
        };
        let mut releases = binaries.iter().map(print).collect::<anyhow::Result<Vec<_>>>()?;
        releases.sort_by_key(|release| release.number);
        Ok(releases)
    }

    fn print(codex: &Path) -> anyhow::Result<Release> {
        let folder = tempfile::Builder::new().prefix("codexd-schema-").tempdir()?;
        let ask = |arguments: &[&str]| -> anyhow::Result<String> {
            let mut command = Command::new(codex);
            command.args(arguments).current_dir(folder.path());
            // Nothing of this machine's own settings, and nothing left behind in them.
            command.env("HOME", folder.path()).env("CODEX_HOME", folder.path());
            let done = run(command, PRINTING)?;
            ensure!(done.success(), "{} {}: {done}", codex.display(), arguments.join(" "));
            Ok(done.stdout)
        };
        let number = number(&ask(&["--version"])?)?;
        let (stable, full) = (folder.path().join("stable"), folder.path().join("full"));
        ask(&["app-server", "generate-json-schema", "--out", text(&stable)?])?;
        ask(&["app-server", "generate-json-schema", "--experimental", "--out", text(&full)?])?;
        Ok(Release { number, stable: Protocol::read(&stable)?, full: Protocol::read(&full)? })
    }

    /// Its version, as `codex --version` writes it.
    pub fn version(&self) -> String {
        let (major, minor, patch) = self.number;
        format!("{major}.{minor}.{patch}")
    }
}

impl Protocol {
    fn read(folder: &Path) -> anyhow::Result<Protocol> {
        let names = |file: &str| -> anyhow::Result<Names> {
            let text = fs::read_to_string(folder.join(file)).with_context(|| format!("{file} is missing"))?;
            names(&serde_json::from_str(&text)?).with_context(|| format!("{file} is not as it was"))
        };
        Ok(Protocol {
            request_ids: request_ids::read(folder)?,
            requests: names("ClientRequest.json")?,
            notifications: names("ServerNotification.json")?,
            server_requests: names("ServerRequest.json")?,
        })
    }
}

/// The messages of one file: `oneOf`, each with the one value of its `method`.
fn names(schema: &Value) -> anyhow::Result<Names> {
    let variants = schema["oneOf"].as_array().context("it has no `oneOf`")?;
    ensure!(!variants.is_empty(), "its `oneOf` is empty");
    let read = |variant: &Value| {
        let method =
            variant["properties"]["method"]["enum"][0].as_str().context("a variant has no method")?;
        let params = &variant["properties"]["params"];
        let needed = strings(&variant["required"]).contains("params");
        let mut read = shape(schema, params);
        read.optional = read.optional || !needed;
        Ok((method.to_owned(), read))
    };
    variants.iter().map(read).collect()
}

/// The members of an object, behind references, "or null", and alternatives: of these every member, and as required what
/// each requires.
fn shape(schema: &Value, of: &Value) -> Params {
    if let Some(reference) = of["$ref"].as_str() {
        let name = reference.rsplit('/').next().unwrap_or_default();
        return shape(schema, &schema["definitions"][name]);
    }
    let members = of["properties"].as_object().into_iter().flatten();
    let mut read = Params {
        members: members.map(|(name, member)| (name.clone(), member.clone())).collect(),
        required: strings(&of["required"]),
        optional: of.is_null() || of["type"] == "null",
    };
    let mut common: Option<BTreeSet<String>> = None;
    for alternative in ["oneOf", "anyOf"].into_iter().filter_map(|key| of[key].as_array()).flatten() {
        let other = shape(schema, alternative);
        read.optional |= other.optional;
        read.members.extend(other.members);
        common = Some(match common {
            Some(common) => &common & &other.required,
            None => other.required,
        });
    }
    read.required.extend(common.into_iter().flatten());
    read
}

fn strings(list: &Value) -> BTreeSet<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("the folder for temporary files has a name that is not text")
}

/// The triple in `codex-cli 0.171.0`.
fn number(line: &str) -> anyhow::Result<(u64, u64, u64)> {
    let version = line.split_whitespace().last().unwrap_or_default();
    let version = version.split(['-', '+']).next().unwrap_or_default();
    let parts: Result<Vec<u64>, _> = version.split('.').map(str::parse).collect();
    match parts.as_deref() {
        Ok(&[major, minor, patch]) => Ok((major, minor, patch)),
        _ => bail!("`--version` says {line:?}, which names no version"),
    }
}
