//! `codexd config`, and what commands make of `codexd.toml`, the environment and `settings.json`.

mod edit;
mod levels;
mod moved;

use anyhow::ensure;
use codexd_testkit::{Codexd, Fake, Home, Layout};
use serde_json::{Value, json};

/// The entry of one setting in the answer of `codexd config`.
fn entry(codexd: &Codexd<'_>, key: &str) -> anyhow::Result<Value> {
    Ok(codexd.json(&["config"])?["settings"][key].clone())
}

#[test]
fn config_shows_every_value_with_its_origin_as_text_and_as_json() -> anyhow::Result<()> {
    let home = Home::new()?;
    home.write("codexd.toml", "# mine\numask = \"027\"\n")?;
    home.write("app-server-daemon/settings.json", r#"{"remoteControlEnabled": true}"#)?;
    let codexd = Codexd::new(&home)?.env("BAA_NODE_ID", "mini main");
    let answer = codexd.json(&["config", "--event-cache-size", "7"])?;
    let settings = &answer["settings"];
    let file = home.path().join("codexd.toml");
    ensure!(settings["umask"]["value"] == "027", "{settings}");
    ensure!(settings["umask"]["origin"] == json!({"level": "file", "file": file, "line": 2}), "{settings}");
    ensure!(settings["nodeId"]["value"] == "mini main", "{settings}");
    ensure!(settings["nodeId"]["origin"] == json!({"level": "environment", "variable": "BAA_NODE_ID"}));
    let flag = json!({"level": "flag", "option": "--event-cache-size"});
    ensure!(settings["eventCacheSize"]["origin"] == flag && settings["eventCacheSize"]["value"] == 7);
    ensure!(settings["remoteControlEnabled"]["origin"]["level"] == "settings", "{settings}");
    ensure!(settings["gateway.enabled"]["origin"] == json!({"level": "default"}), "{settings}");
    for setting in codexd_core::config::SETTINGS {
        let entry = &settings[setting.key];
        ensure!(entry["origin"]["level"].is_string() && entry["takesEffect"].is_string(), "{}", setting.key);
    }
    let text = codexd.run(&["config", "--text"])?.stdout;
    ensure!(text.contains("codexd.toml:2)") && text.contains("(environment variable BAA_NODE_ID)"), "{text}");
    ensure!(text.lines().count() == codexd_core::config::SETTINGS.len(), "{text}");
    Ok(())
}

#[test]
fn a_setting_that_nothing_uses_yet_is_stored_and_said_to_have_no_effect() -> anyhow::Result<()> {
    let home = Home::new()?;
    let codexd = Codexd::new(&home)?;
    let answer = codexd.json(&["config", "set", "server.endpoint", "stdio://x"])?;
    ensure!(answer["takesEffect"] == "not yet: no command of this version uses it", "{answer}");
    ensure!(codexd.json(&["config"])?["settings"]["server.endpoint"]["value"] == "stdio://x");
    let answer = codexd.json(&["config", "set", "server.mode", "exec"])?;
    ensure!(answer["takesEffect"] == "next `codexd run`", "{answer}");
    Ok(())
}

#[test]
fn the_object_of_the_scaffold_is_part_of_the_answer() -> anyhow::Result<()> {
    let home = Home::new()?;
    let codexd = Codexd::new(&home)?.env("BAA_LOGS_DIR", "/var/log");
    let answer = codexd.json(&[
        "config",
        "--json",
        "--repo-root",
        "/repo",
        "--node-id",
        "mini-main",
        "--mode",
        "exec",
        "--server-strategy",
        "external",
        "--server-command",
        "node",
        "--server-arg",
        "stub.js",
        "--server-arg",
        "--flag",
        "--server-cwd",
        "/work",
        "--server-endpoint",
        "stdio://x",
        "--version-label",
        "1.2",
        "--run-once",
        "--smoke-lifetime-ms",
        "5",
        "--event-cache-size",
        "9",
    ])?;
    let config = &answer["config"];
    ensure!(config["nodeId"] == "mini-main" && config["version"] == "1.2", "{config}");
    ensure!(config["paths"]["logsDir"] == "/var/log/codexd", "{config}");
    ensure!(config["paths"]["stateDir"] == "/repo/state/codexd", "{config}");
    ensure!(config["paths"]["repoRoot"] == "/repo", "{config}");
    let server = json!({
        "mode": "exec", "childStrategy": "external", "childCommand": "node", "childArgs": ["stub.js", "--flag"],
        "childCwd": "/work", "endpoint": "stdio://x",
    });
    ensure!(config["server"] == server, "{config}");
    ensure!(config["eventCacheSize"] == 9 && config["smokeLifetimeMs"] == 5, "{config}");
    Ok(())
}

#[test]
fn commands_that_start_something_refuse_a_bad_file_and_stop_does_not() -> anyhow::Result<()> {
    let home = Home::new()?;
    Fake::Healthy.install(&home, Layout::Standalone)?;
    let codexd = Codexd::new(&home)?;
    codexd.json(&["start"])?;
    home.write("codexd.toml", "umask = \"022\"\n\n[gateway]\nlisten_on = 1\n")?;
    for command in ["config", "start", "restart", "reload", "up", "enable-remote-control"] {
        let run = codexd.run(&[command])?;
        let error = run.json()?["error"].clone();
        ensure!(run.code() == Some(30) && error["code"] == "settings-invalid", "{command}: {run}");
        let message = error["message"].as_str().unwrap_or_default();
        ensure!(message.contains("codexd.toml:4: unknown key `gateway.listen_on`"), "{message}");
        ensure!(message.contains("`gateway.listen`") && error["hint"].is_string(), "{error}");
    }
    let status = codexd.json(&["status"])?;
    ensure!(status["problems"][0]["found"] == "settings-invalid" && status["state"] == "running", "{status}");
    ensure!(codexd.json(&["version"])?["status"] == "running");
    let stopped = codexd.run(&["stop"])?;
    ensure!(stopped.json()?["status"] == "stopped" && stopped.stderr.contains("listen_on"), "{stopped}");
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn what_stands_in_the_place_of_the_file_is_named() -> anyhow::Result<()> {
    let home = Home::new()?;
    std::fs::create_dir(home.path().join("codexd.toml"))?;
    let error = Codexd::new(&home)?.run(&["start", "--embedded"])?.json()?["error"].clone();
    ensure!(error["message"].to_string().contains("codexd.toml is not a regular file"), "{error}");
    home.assert_no_process_left();
    Ok(())
}
