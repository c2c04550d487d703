//! From the levels to one value for each setting: default < settings.json < codexd.toml < environment < command line.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::codexd_toml;
use super::facts::Facts;
use super::gateway::{self, Gateway, SubagentApprovals};
use super::origin::{Origin, Problem};
use super::settings_json::SharedSettings;
use super::table::{DefaultValue, SETTINGS, Setting};
use super::value::{BadValue, Kind, Value};
use super::{Config, Entry};
use crate::foreign_text::quote;

/// The values of an option of the command line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FlagValues {
    /// The setting.
    pub setting: &'static Setting,
    /// The values, in their order; more than one only for [`Kind::Words`].
    pub values: Vec<String>,
}

/// Everything that a configuration is resolved from.
pub struct Levels<'a> {
    /// The machine, the user and the home.
    pub facts: &'a Facts,
    /// `settings.json`, and where it is.
    pub shared: (&'a SharedSettings, &'a Path),
    /// `codexd.toml`, and where it is; `None` if there is none.
    pub file: Option<(&'a [u8], &'a Path)>,
    /// The environment.
    pub environment: &'a dyn Fn(&str) -> Option<OsString>,
    /// The command line.
    pub flags: &'a [FlagValues],
}

/// Resolves the configuration. Where a value is refused, the level below counts, and the problems name it.
pub fn resolve(levels: &Levels<'_>) -> (Config, Vec<Problem>) {
    let (file, mut problems) =
        levels.file.map(|(contents, path)| codexd_toml::parse(path, contents)).unwrap_or_default();
    let mut entries: Vec<Entry> = SETTINGS.iter().map(|setting| default_of(setting, levels.facts)).collect();
    let mut put = |setting: &'static Setting, value: Value, origin: Origin| {
        if let Some(entry) = entries.iter_mut().find(|entry| entry.setting.key == setting.key) {
            (entry.value, entry.origin) = (Some(value), origin);
        }
    };
    let (shared, shared_path) = levels.shared;
    for (setting, value) in shared.values() {
        put(setting, value.clone(), Origin::SettingsJson(shared_path.to_owned()));
    }
    let path = levels.file.map(|(_, path)| path.to_owned()).unwrap_or_default();
    for found in file {
        put(found.setting, found.value, Origin::CodexdToml(path.clone(), found.line));
    }
    for setting in SETTINGS {
        match from_environment(setting, levels) {
            Some(Ok((value, origin))) => put(setting, value, origin),
            Some(Err(problem)) => problems.push(problem),
            None => {}
        }
    }
    for given in levels.flags {
        match from_flag(given, levels.facts) {
            Ok((value, origin)) => put(given.setting, value, origin),
            Err(problem) => problems.push(problem),
        }
    }
    let gateway = gateway_of(&mut entries, &mut problems);
    (Config::new(entries, gateway, shared.clone(), levels.facts), problems)
}

fn default_of(setting: &'static Setting, facts: &Facts) -> Entry {
    let value = match setting.default {
        // A test checks that every one is valid.
        DefaultValue::Value(text) => setting.kind.from_text(text).ok(),
        DefaultValue::Fact(fact) => facts.value(fact).map(Value::Text),
        DefaultValue::Unset(_) => None,
    };
    Entry { setting, value, origin: Origin::Default }
}

fn from_environment(
    setting: &'static Setting,
    levels: &Levels<'_>,
) -> Option<Result<(Value, Origin), Problem>> {
    let (name, text) = setting.variables.iter().find_map(|&name| {
        let text = (levels.environment)(name)?;
        (!text.is_empty()).then_some((name, text))
    })?;
    let origin = Origin::Variable(name);
    let read = match text.to_str() {
        Some(text) => from_text(setting.kind, text, levels.facts),
        None => Err(BadValue {
            found: quote(&text.to_string_lossy()),
            expected: "UTF-8 text".to_owned(),
            nearest: None,
        }),
    };
    Some(read.map(|value| (value, origin.clone())).map_err(|bad| refuse(setting, origin, bad)))
}

fn from_flag(given: &FlagValues, facts: &Facts) -> Result<(Value, Origin), Problem> {
    let setting = given.setting;
    let origin = Origin::Flag(setting.flag.unwrap_or(setting.key));
    let read = match (setting.kind, &given.values[..]) {
        (Kind::Words, words) => Ok(Value::Words(words.to_vec())),
        (kind, [.., text]) => from_text(kind, text, facts),
        (kind, []) => kind.from_text(""),
    };
    read.map(|value| (value, origin.clone())).map_err(|bad| refuse(setting, origin, bad))
}

/// Reads a value of the environment or the command line. A relative path counts from the current folder.
///
/// # Errors
/// [`BadValue`].
pub fn from_text(kind: Kind, text: &str, facts: &Facts) -> Result<Value, BadValue> {
    let is_relative = match kind {
        Kind::Path => !text.is_empty() && !text.starts_with('/'),
        Kind::Program => text.contains('/') && !text.starts_with('/'),
        _ => false,
    };
    if is_relative {
        return kind.from_text(&facts.current_dir.join(text).to_string_lossy());
    }
    kind.from_text(text)
}

fn refuse(setting: &Setting, origin: Origin, bad: BadValue) -> Problem {
    let what = format!("`{}` is {}, expected {}", setting.key, bad.found, bad.expected);
    Problem { origin, key: setting.key.to_owned(), what, nearest: bad.nearest }
}

/// The gateway that the settings ask for. An address that may not be listened on is refused, and taken out of the entries.
fn gateway_of(entries: &mut [Entry], problems: &mut Vec<Problem>) -> Gateway {
    let value = |key: &str| {
        entries.iter().find(|entry| entry.setting.key == key).and_then(|entry| entry.value.as_ref())
    };
    let is_true = |key: &str| value(key) == Some(&Value::Bool(true));
    let text = |key: &str| match value(key) {
        Some(Value::Text(text)) => Some(text.clone()),
        _ => None,
    };
    let is_on = is_true("gateway.enabled");
    let anywhere = is_true("gateway.allowNonLoopback");
    let approvals = text("gateway.subagentApprovals").and_then(|word| SubagentApprovals::from_word(&word));
    let mut listen = text("gateway.listen").and_then(|url| gateway::address(&url));
    if let Some(address) = listen.filter(|&address| !gateway::may_listen(address, anywhere)) {
        listen = None;
        if let Some(entry) = entries.iter_mut().find(|entry| entry.setting.key == "gateway.listen") {
            let what = format!(
                "`gateway.listen` is ws://{address}, expected a loopback address, or `gateway.allowNonLoopback` to be true"
            );
            let origin = std::mem::replace(&mut entry.origin, Origin::Default);
            entry.value = None;
            problems.push(Problem { origin, key: entry.setting.key.to_owned(), what, nearest: None });
        }
    }
    if is_on {
        Gateway::On { listen, subagent_approvals: approvals.unwrap_or_default() }
    } else {
        Gateway::Off
    }
}

/// Adds `codexd/` to a folder that was named. `root` is `None` for one that was not.
pub(super) fn record_folder(
    root: Option<&Path>,
    repo: Option<&Path>,
    home: &Path,
    name: &str,
) -> (PathBuf, PathBuf) {
    match (root, repo) {
        (Some(root), _) => (root.to_owned(), root.join("codexd")),
        (None, Some(repo)) => (repo.join(name), repo.join(name).join("codexd")),
        (None, None) => {
            let folder = home.join("codexd").join(name);
            (folder.clone(), folder)
        }
    }
}
