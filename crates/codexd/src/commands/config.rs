//! `codexd config`: every value with its origin; `config set` and `config unset` edit `codexd.toml`.

use codexd_core::config::{self, Config, Entry, Origin, Setting, SettingFile, Value};
use codexd_core::contract::{ErrorCode, EventLevel, Failure};
use codexd_host::config_file;
use codexd_host::events::Event;
use serde::Serialize;
use serde_json::{Map, Value as Json, json};

use crate::config::{ConfigArgs, Found, invalid, load, resolve_with, text_of};
use crate::context::Context;
use crate::failures;
use crate::output::Answer;
use crate::style::{self, Color, Text};

/// The answer of `config`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    status: &'static str,
    /// The configuration object of the scaffold.
    config: Json,
    /// Every setting by its key: value, origin and when a change takes effect.
    settings: Map<String, Json>,
    files: Json,
    /// Whether `--run-once` was given.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    run_once: bool,
    /// What is wrong in `settings.json`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems: Vec<String>,
    #[serde(skip)]
    entries: Vec<Entry>,
}

/// The answer of `config set` and `config unset`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// `set`, `unset` or `unchanged`.
    status: &'static str,
    key: String,
    /// The value that is in force now.
    value: Json,
    /// Where that comes from.
    origin: Json,
    file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    takes_effect: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

/// Shows the configuration.
///
/// # Errors
/// What is refused, and where.
pub fn show(context: &Context, args: &ConfigArgs) -> Result<Report, Failure> {
    let Found { config, shared, .. } = load(&context.home, &args.values).usable()?;
    let settings = config.entries().iter().map(|entry| (entry.setting.key.to_owned(), setting_json(entry)));
    let path = context.home.settings();
    Ok(Report {
        status: "ok",
        run_once: args.run_once,
        config: config.scaffold(),
        settings: settings.collect(),
        files: json!({
            "codexdToml": context.home.config().to_string_lossy(),
            "settingsJson": path.to_string_lossy(),
        }),
        problems: shared.defects.iter().map(|defect| format!("{}: {defect}", path.display())).collect(),
        entries: config.entries().to_vec(),
    })
}

fn setting_json(entry: &Entry) -> Json {
    let value = entry.value.as_ref().map(Value::to_json);
    json!({
        "value": value,
        "origin": origin_json(&entry.origin),
        "takesEffect": entry.setting.effect.as_str().replace('`', ""),
    })
}

fn origin_json(origin: &Origin) -> Json {
    let level = origin.level();
    match origin {
        Origin::Default => json!({"level": level}),
        Origin::SettingsJson(path) => json!({"level": level, "file": path.to_string_lossy()}),
        Origin::CodexdToml(path, line) => {
            json!({"level": level, "file": path.to_string_lossy(), "line": line})
        }
        Origin::Variable(name) => json!({"level": level, "variable": name}),
        Origin::Flag(name) => json!({"level": level, "option": format!("--{name}")}),
    }
}

/// Sets a value in `codexd.toml`.
///
/// # Errors
/// `bad-arguments` for an unknown key or a bad value; `settings-invalid` if the file cannot be edited or the value does not fit the
/// others.
pub fn set(context: &Context, key: &str, text: &str) -> Result<Change, Failure> {
    let setting = config::find(key).ok_or_else(|| unknown_key(key))?;
    if setting.file == SettingFile::SettingsJson {
        return Err(shared_key(context, setting));
    }
    let value = config::from_text(setting.kind, text, &config_file::facts(&context.home)).map_err(|bad| {
        let failure = Failure::new(
            ErrorCode::BadArguments,
            format!("`{key}` cannot be {}, expected {}", bad.found, bad.expected),
        );
        match bad.nearest {
            Some(nearest) => failure.hint(format!("the nearest valid value is `{nearest}`")),
            None => failure,
        }
    })?;
    edit(context, "set", key, |before| config::set(before, setting, &value))
}

/// Removes a key from `codexd.toml`, also one that codexd does not know.
///
/// # Errors
/// `bad-arguments` for a key that is neither in the file nor known; `settings-invalid` if the file cannot be edited.
pub fn unset(context: &Context, key: &str) -> Result<Change, Failure> {
    let known = config::find(key);
    if let Some(setting) = known.filter(|setting| setting.file == SettingFile::SettingsJson) {
        return Err(shared_key(context, setting));
    }
    let mut is_there = true;
    let change = edit(context, "unset", key, |before| {
        let after = config::unset(before, key)?;
        is_there = after.is_some();
        Ok(after.unwrap_or_else(|| before.to_owned()))
    })?;
    if known.is_none() && !is_there { Err(unknown_key(key)) } else { Ok(change) }
}

fn edit(
    context: &Context,
    what: &'static str,
    key: &str,
    edited: impl FnOnce(&str) -> Result<String, String>,
) -> Result<Change, Failure> {
    let command = if what == "set" { "config set" } else { "config unset" };
    let _lock = context.lock(command)?;
    let found = context.config_to_edit()?;
    let path = context.home.config();
    let not_edited = |why: String| {
        Failure::new(ErrorCode::SettingsInvalid, format!("failed to edit {}: {why}", path.display()))
            .hint("correct the file with an editor, then run the command again")
    };
    let before = text_of(found.file.as_deref()).map_err(not_edited)?;
    let after = edited(before).map_err(not_edited)?;
    let is_changed = after != before;
    let (config, problems) = resolve_with(&context.home, &found.shared, Some(after.as_bytes()), &[]);
    let is_new = |problem: &config::Problem| {
        let known =
            found.problems.iter().any(|before| (&before.key, &before.what) == (&problem.key, &problem.what));
        matches!(problem.origin, Origin::CodexdToml(..)) && !known
    };
    let new: Vec<config::Problem> = problems.into_iter().filter(is_new).collect();
    if let Some(failure) = invalid(&new) {
        return Err(failure);
    }
    if is_changed {
        config_file::write(&context.home, &after)
            .map_err(|error| failures::state("write the configuration", &path, &error))?;
        let event =
            Event::new(EventLevel::Info, "config.changed", format!("{what} {key} in {}", path.display()));
        context.log_event(event.with("key", key));
    }
    Ok(change(&config, if is_changed { what } else { "unchanged" }, key, &path.to_string_lossy()))
}

fn change(config: &Config, status: &'static str, key: &str, file: &str) -> Change {
    let entry = config.entries().iter().find(|entry| entry.setting.key == key);
    let overridden = entry.filter(|entry| matches!(entry.origin, Origin::Variable(_)));
    let hint = overridden.map(|entry| format!("the {} overrides the file", entry.origin));
    Change {
        status,
        key: key.to_owned(),
        value: entry.and_then(|entry| entry.value.as_ref()).map_or(Json::Null, Value::to_json),
        origin: entry.map_or(Json::Null, |entry| origin_json(&entry.origin)),
        file: file.to_owned(),
        takes_effect: entry.map(|entry| entry.setting.effect.as_str()),
        hint,
    }
}

fn unknown_key(key: &str) -> Failure {
    let failure = Failure::new(ErrorCode::BadArguments, format!("unknown key `{key}`"));
    match config::nearest_key(key) {
        Some(nearest) => failure.hint(format!("the nearest valid one is `{nearest}`")),
        None => failure.hint("`codexd config` lists the keys"),
    }
}

fn shared_key(context: &Context, setting: &Setting) -> Failure {
    let path = context.home.settings();
    let message = format!(
        "`{}` is not in codexd.toml but in {}, which upstream's daemon shares",
        setting.key,
        path.display()
    );
    let hint = if setting.key == "remoteControlEnabled" {
        "`codexd enable-remote-control` and `codexd disable-remote-control` change it"
    } else {
        "edit that file"
    };
    Failure::new(ErrorCode::BadArguments, message).hint(hint)
}

impl Answer for Report {
    fn text(&self) -> Text {
        let rows: Vec<(&str, Text)> = self
            .entries
            .iter()
            .map(|entry| {
                let value = entry.value.as_ref().map_or_else(|| "not set".to_owned(), value_text);
                let origin = match &entry.origin {
                    Origin::Default => style::paint("  (default)", Color::Dim),
                    origin => style::paint(format!("  ({origin})"), Color::Green),
                };
                (entry.setting.key, Text::from(value).then(origin))
            })
            .collect();
        let mut text = style::table(&rows);
        for problem in &self.problems {
            text.push_line(format!("problem: {problem}"));
        }
        text
    }
}

impl Answer for Change {
    fn text(&self) -> Text {
        let value = match &self.value {
            Json::String(text) => text.clone(),
            Json::Null => "not set".to_owned(),
            value => value.to_string(),
        };
        let word = if self.status == "unchanged" { "unchanged: " } else { "" };
        let mut text = Text::from(format!("{word}{} is {value}", self.key));
        if let Some(effect) = self.takes_effect.filter(|_| self.status != "unchanged") {
            text.push_line(format!("takes effect: {effect}"));
        }
        if let Some(hint) = &self.hint {
            text.push_line(hint);
        }
        text
    }
}

fn value_text(value: &Value) -> String {
    match value {
        Value::Text(text) => text.clone(),
        value => value.to_json().to_string(),
    }
}
