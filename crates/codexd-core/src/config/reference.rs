//! The reference of all settings as Markdown: what docs/configuration.md holds.

use super::table::{DefaultValue, SETTINGS, Setting, SettingFile};
use super::value::Kind;

/// The tables of all settings, one for each file.
pub fn reference() -> String {
    let ours = SETTINGS.iter().filter(|setting| setting.file == SettingFile::CodexdToml);
    let shared = SETTINGS.iter().filter(|setting| setting.file == SettingFile::SettingsJson);
    let mut text = String::from("### codexd.toml\n\n");
    text.push_str("| key | what it is | value | default | variables | option | takes effect |\n|---|---|---|---|---|---|---|\n");
    for setting in ours {
        let variables: Vec<String> = setting.variables.iter().map(|name| format!("`{name}`")).collect();
        let flag = setting.flag.map_or_else(|| "–".to_owned(), |flag| format!("`--{flag}`"));
        text.push_str(&format!(
            "| `{}` | {} | {} | {} | {} | {flag} | {} |\n",
            setting.key,
            setting.doc,
            accepted(setting.kind),
            default(setting),
            variables.join(", "),
            setting.effect.as_str(),
        ));
    }
    text.push_str("\n### settings.json\n\n| key | what it is | value | default | takes effect |\n|---|---|---|---|---|\n");
    for setting in shared {
        let (key, effect) = (setting.key, setting.effect.as_str());
        let (kind, default) = (accepted(setting.kind), default(setting));
        text.push_str(&format!("| `{key}` | {} | {kind} | {default} | {effect} |\n", setting.doc));
    }
    text
}

fn accepted(kind: Kind) -> String {
    match kind {
        Kind::Choice(words) => {
            words.iter().map(|word| format!("`\"{word}\"`")).collect::<Vec<_>>().join(" or ")
        }
        kind => kind.expected(),
    }
}

fn default(setting: &Setting) -> String {
    match (setting.default, setting.kind) {
        (DefaultValue::Value(text), Kind::Bool | Kind::Integer { .. }) => format!("`{text}`"),
        (DefaultValue::Value(text), Kind::Words) => format!("`[\"{text}\"]`"),
        (DefaultValue::Value(text), _) => format!("`\"{text}\"`"),
        (DefaultValue::Fact(fact), _) => fact.as_str().to_owned(),
        (DefaultValue::Unset(meaning), _) => meaning.to_owned(),
    }
}
