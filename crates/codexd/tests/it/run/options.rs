//! The values of the configuration that only `codexd run` uses.

use std::fs;

use anyhow::{Context, ensure};
use codexd_core::config::{SETTINGS, Setting, find};
use codexd_testkit::{Codexd, Fake, Home, Layout};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::fixture::Foreground;
use crate::lifecycle::recorded;

/// A value of each setting that has an option, and where the configuration object of the scaffold has it.
fn samples(home: &Home) -> Vec<(&'static str, String, &'static str)> {
    let folder = |name: &str| home.root().join(name).to_string_lossy().into_owned();
    vec![
        ("codexBin", "/nonexistent/my codex".into(), "/server/childCommand"),
        ("workingDirectory", folder("work"), "/server/childCwd"),
        ("server.mode", "exec".into(), "/server/mode"),
        ("server.strategy", "spawn".into(), "/server/childStrategy"),
        ("server.endpoint", "stdio://x y".into(), "/server/endpoint"),
        ("nodeId", "node one".into(), "/nodeId"),
        ("repoRoot", folder("repo"), "/paths/repoRoot"),
        ("logsDir", folder("my logs"), "/paths/logsRootDir"),
        ("stateDir", folder("my state"), "/paths/stateRootDir"),
        ("eventCacheSize", "7".into(), "/eventCacheSize"),
        ("smokeLifetimeMs", "3".into(), "/smokeLifetimeMs"),
        ("versionLabel", "v 1".into(), "/version"),
    ]
}

/// What `codexd run` made of its options and variables: both of its answers and `codexd config` say the same.
fn configuration(codexd: &Codexd<'_>, options: &[&str]) -> anyhow::Result<Value> {
    let run = codexd.run(&[&["run", "--run-once", "--json"], options].concat())?;
    ensure!(run.success() && !run.output_leaked, "{run}");
    let answers = run.stdout.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    let config = codexd.json(&[&["config", "--json"], options].concat())?["config"].clone();
    ensure!(answers.len() == 2 && answers.iter().all(|answer| answer["config"] == config), "{answers:?}");
    Ok(config)
}

fn check_samples(home: &Home, config: &Value) -> anyhow::Result<()> {
    for (key, text, pointer) in samples(home) {
        let expected = find(key).context(key)?.kind.from_text(&text).map(|value| value.to_json());
        ensure!(config.pointer(pointer) == expected.as_ref().ok(), "{key}: {config:#}");
    }
    for (folder, name) in [("logsDir", "my logs/codexd"), ("stateDir", "my state/codexd")] {
        let expected = home.root().join(name);
        ensure!(config["paths"][folder].as_str() == expected.to_str(), "{folder}: {config:#}");
        // It was created for this run.
        fs::remove_dir_all(expected)?;
    }
    Ok(())
}

#[test]
fn every_option_reaches_run() -> anyhow::Result<()> {
    let home = Home::new()?;
    let mut options = Vec::new();
    for (key, text, _) in samples(&home) {
        options.extend([format!("--{}", find(key).context(key)?.flag.context(key)?), text]);
    }
    options.extend(["--server-arg", "app-server", "--server-arg", "two words"].map(str::to_owned));
    let known = SETTINGS.iter().filter(|setting| setting.flag.is_some()).count();
    ensure!(samples(&home).len() + 1 == known, "an option without a sample");
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let config = configuration(&Codexd::new(&home)?, &options)?;
    ensure!(config["server"]["childArgs"] == json!(["app-server", "two words"]), "{config:#}");
    check_samples(&home, &config)
}

#[test]
fn every_variable_and_its_fallbacks_reach_run() -> anyhow::Result<()> {
    let home = Home::new()?;
    // The first variables, then the fallbacks of the scaffold, then the shared ones. A setting with fewer keeps its last one.
    let words = [r#"["app-server", "two words"]"#, "app-server  two", "app-server two"];
    let expected =
        [json!(["app-server", "two words"]), json!(["app-server", "two"]), json!(["app-server", "two"])];
    for (rank, (words, expected)) in words.into_iter().zip(expected).enumerate() {
        let mut codexd = Codexd::new(&home)?;
        let name = |setting: &Setting| setting.variables.get(rank).or(setting.variables.last()).copied();
        for (key, text, _) in samples(&home) {
            codexd = codexd.env(name(find(key).context(key)?).context(key)?, &text);
        }
        codexd = codexd.env(name(find("server.args").context("server.args")?).context("server.args")?, words);
        let config = configuration(&codexd, &[])?;
        ensure!(config["server"]["childArgs"] == expected, "{config:#}");
        check_samples(&home, &config)?;
    }
    Ok(())
}

#[test]
fn options_and_variables_are_in_the_answer_and_take_effect() -> anyhow::Result<()> {
    let home = Home::new()?;
    let codex = Fake::Healthy.install(&home, Layout::Dedicated)?;
    let moved = home.root().join("my codex");
    fs::rename(codex, &moved)?;
    let (logs, state) = (home.root().join("logs"), home.root().join("state"));
    let text = |path: &std::path::Path| path.to_string_lossy().into_owned();
    let codexd = Codexd::new(&home)?.env("BAA_NODE_ID", "node one").env("CODEXD_STATE_DIR", &text(&state));
    let arguments = [
        "run",
        "--server-command",
        &text(&moved),
        "--server-cwd",
        &text(home.root()),
        "--logs-dir",
        &text(&logs),
        "--version-label",
        "v 1",
        "--server-endpoint",
        "stdio://x",
    ];
    let mut run = Foreground::spawn(&home, codexd.command(&arguments))?;
    let answer = run.answer(0)?;
    let config = &answer["config"];
    ensure!(config["nodeId"] == "node one" && config["version"] == "v 1", "{config:#}");
    ensure!(config["server"]["endpoint"] == "stdio://x", "{config:#}");
    ensure!(config["paths"]["logsDir"] == text(&logs.join("codexd")), "{config:#}");
    ensure!(answer["managedCodexPath"] == text(&moved), "{answer:#}");
    let server = recorded(&home)?;
    ensure!(fs::read_link(format!("/proc/{}/cwd", server.pid))? == home.root(), "the working directory");
    // The folders are there, and the logs can be read in them.
    ensure!(state.join("codexd").is_dir(), "the state folder");
    let events = fs::read_to_string(logs.join("codexd/events.jsonl"))?;
    ensure!(events.contains("child.started"), "{events}");
    ensure!(logs.join("codexd/stderr.log").is_file() && logs.join("codexd/stdout.log").is_file(), "logs");
    run.process.signal(Signal::TERM)?;
    ensure!(run.exit_code()? == Some(0), "{}", run.stderr());
    Ok(())
}

#[test]
fn a_log_file_of_the_user_in_the_folder_stays() -> anyhow::Result<()> {
    let home = Home::new()?;
    let log = home.write("codexd/logs/stdout.log", "mine")?;
    let codexd = Codexd::new(&home)?;
    let run = codexd.run(&["run", "--embedded", "--run-once"])?;
    ensure!(run.success() && fs::read_to_string(log)? == "mine", "{run}");
    Ok(())
}

#[test]
fn a_file_in_place_of_a_folder_is_refused_by_name() -> anyhow::Result<()> {
    let home = Home::new()?;
    let file = home.write("file", "")?;
    let option = file.to_string_lossy().into_owned();
    let refused = Codexd::new(&home)?.run(&["run", "--embedded", "--state-dir", &option])?;
    ensure!(!refused.success() && refused.stderr.contains(&option), "{refused}");
    ensure!(refused.json()?["status"] == json!("error"), "{refused}");
    Ok(())
}
