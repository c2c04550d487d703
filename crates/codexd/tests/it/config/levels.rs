//! Every variable and option of the table reaches its setting, and bad ones are refused by name.

use anyhow::{Context, ensure};
use codexd_core::config::{Kind, SETTINGS, Setting, SettingFile};
use codexd_testkit::{Codexd, Home};
use serde_json::json;

use super::entry;

/// Valid values of a setting, in the form of the environment.
fn samples(setting: &Setting) -> [String; 2] {
    let [one, other] = match setting.kind {
        Kind::Bool => ["true", "false"],
        Kind::Integer { .. } => ["8", "9"],
        Kind::Text => ["one", "two words"],
        Kind::Choice(words) => [words[0], words[1]],
        Kind::Path => ["/one", "/two"],
        Kind::Program => ["one", "/two"],
        Kind::Umask => ["027", "077"],
        Kind::ReleaseSource => ["npm", "directory:/two"],
        Kind::WebSocketUrl => ["ws://127.0.0.1:1", "ws://127.0.0.1:2"],
        Kind::Words => ["[\"one\"]", "[\"two\"]"],
    };
    [one.to_owned(), other.to_owned()]
}

#[test]
fn every_key_variable_and_option_of_the_table_is_seen_to_win() -> anyhow::Result<()> {
    let home = Home::new()?;
    for setting in SETTINGS.iter().filter(|setting| setting.file == SettingFile::CodexdToml) {
        let [one, other] = samples(setting);
        let value = |text: &str| setting.kind.from_text(text).map(|value| value.to_json());
        let codexd = Codexd::new(&home)?;
        codexd.json(&["config", "set", setting.key, &one])?;
        let found = entry(&codexd, setting.key)?;
        ensure!(Ok(&found["value"]) == value(&one).as_ref() && found["origin"]["level"] == "file", "{found}");
        for name in setting.variables {
            let found = entry(&codexd.clone().env(name, &other), setting.key)?;
            ensure!(Ok(&found["value"]) == value(&other).as_ref(), "{name}: {found}");
            ensure!(found["origin"]["variable"] == *name, "{name}: {found}");
        }
        if let Some(flag) = setting.flag {
            let variable = setting.variables.first().context("a variable")?;
            let codexd = codexd.clone().env(variable, &other);
            let word = if setting.kind == Kind::Words { "one" } else { &one };
            let answer = codexd.json(&["config", &format!("--{flag}"), word])?;
            let found = &answer["settings"][setting.key];
            ensure!(Ok(&found["value"]) == value(&one).as_ref(), "--{flag}: {found}");
            ensure!(found["origin"]["option"] == format!("--{flag}"), "{found}");
        }
        let unset = codexd.json(&["config", "unset", setting.key])?;
        ensure!(unset["status"] == "unset" && unset["origin"] == json!({"level": "default"}), "{unset}");
    }
    Ok(())
}

#[test]
fn bad_variables_and_options_are_refused_by_name() -> anyhow::Result<()> {
    let home = Home::new()?;
    let codexd = Codexd::new(&home)?.env("BAA_CODEXD_SERVER_STRATEGY", "spwan");
    let run = codexd.run(&["config"])?;
    let error = run.json()?["error"].clone();
    let expected = "environment variable BAA_CODEXD_SERVER_STRATEGY: `server.strategy` is \"spwan\", expected \"spawn\" or \
                    \"external\"; the nearest valid one is `spawn`";
    ensure!(run.code() == Some(30) && error["message"] == expected, "{error}");
    let codexd = Codexd::new(&home)?;
    for (arguments, named) in [
        (&["--event-cache-size", "5x"][..], "option --event-cache-size"),
        (&["--mode", "appserver"], "`app-server`"),
        (&["--node-ids", "x"], "--node-id"),
        (&["--event-cache-size"], "--event-cache-size"),
        (&["set", "umsk", "022"], "`umsk`"),
        (&["set", "umask", "22x"], "\"000\" to \"077\""),
        (&["set", "remoteControlEnabled", "true"], "settings.json"),
        (&["unset", "nonsense"], "`nonsense`"),
    ] {
        let run = codexd.run(&[&["config"], arguments].concat())?;
        let error = run.json()?["error"].clone();
        ensure!(run.code() == Some(2) && error["code"] == "bad-arguments", "{arguments:?}: {run}");
        ensure!(run.stderr.contains(named), "{arguments:?} names {named}: {}", run.stderr);
    }
    ensure!(!home.path().join("codexd.toml").exists(), "nothing was written");
    Ok(())
}
