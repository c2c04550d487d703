//! Snapshots of the text that people read: help, status, version, and errors with their hints. After an intended change,
//! `INSTA_UPDATE=always cargo test -p codexd --test it user_text` writes the new text, for review in the diff.

use anyhow::Context;
use codexd_testkit::{Codexd, Fake, Home, Layout, Run, until};
use regex_lite::Regex;

use crate::lifecycle::SOON;

const COMMANDS: [&str; 26] = [
    "up",
    "start",
    "run",
    "stop",
    "restart",
    "reload",
    "install",
    "releases",
    "status",
    "version",
    "enable-remote-control",
    "disable-remote-control",
    "bootstrap",
    "remote-control",
    "remote-control pair",
    "uninstall",
    "service",
    "service print",
    "logs",
    "config",
    "config set",
    "config unset",
    "debug",
    "completions",
    "proxy",
    "self-update",
];

/// The text without what differs from run to run: paths, pids, times, durations, version numbers.
fn normalized(home: &Home, text: &str) -> String {
    let mut text = text.replace(&home.path().display().to_string(), "HOME");
    text = text.replace(&home.root().display().to_string(), "ROOT");
    for (pattern, name) in [
        (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:?\d\d)?", "TIME"),
        (r"\b\d\d:\d\d:\d\d\b", "TIME"),
        (r"\d+\.\d+\.\d+", "VERSION"),
        (r"\b(pid|uid) \d+", "$1 N"),
        (r"\b\d+(\.\d+)? ?(ms|s|min|seconds?)\b", "DURATION"),
        (r"\b\d+(\.\d+)? ?(KiB|MiB)\b", "SIZE"),
        (r"corrupt-\d+", "corrupt-N"),
        // Several processes write events at the same time: see `sentences_of_events`.
        (r"(?m)^event .*\n", ""),
        (r"(?m) +$", ""),
    ] {
        text = Regex::new(pattern).expect("a valid pattern").replace_all(&text, name).into_owned();
    }
    text
}

/// The help of one command without the options that every command has.
fn without_global_options(help: &str) -> String {
    const GLOBAL: [&str; 8] = [
        "--codex-home",
        "--codex-bin",
        "--json",
        "--text",
        "--allow-foreign-owner",
        "--lock-timeout",
        "--help",
        "--version",
    ];
    let (mut text, mut is_global) = (String::new(), false);
    for line in help.lines() {
        if line.trim_start().starts_with('-') {
            let option = line.split_whitespace().find(|word| word.starts_with("--")).unwrap_or_default();
            is_global = GLOBAL.contains(&option);
        }
        if !is_global {
            text += &format!("{}\n", line.trim_end());
        }
    }
    text
}

fn shown(home: &Home, run: &Run) -> String {
    let code = run.code().map_or("a signal".to_owned(), |code| code.to_string());
    let text = format!("exit code {code}\n-- stdout\n{}-- stderr\n{}", run.stdout, run.stderr);
    normalized(home, &text)
}

#[test]
fn help_of_every_command() -> anyhow::Result<()> {
    let home = Home::new()?;
    let codexd = Codexd::new(&home)?;
    let mut text = codexd.run(&["--help"])?.stdout;
    for command in COMMANDS {
        let words: Vec<&str> = command.split(' ').chain(["--help"]).collect();
        let help = codexd.run(&words)?.stdout;
        text += &format!("\n== {command}\n{}", without_global_options(&help));
    }
    insta::assert_snapshot!("help", text);
    Ok(())
}

#[test]
fn errors_and_their_hints() -> anyhow::Result<()> {
    let home = Home::new()?;
    let codexd = Codexd::new(&home)?;
    std::fs::write(home.root().join("a-file"), "")?;
    let file = home.root().join("a-file").display().to_string();
    let odd = home.root().join("odd-codex");
    std::fs::write(&odd, "#!/bin/sh\necho this is not Codex\nexit 1\n")?;
    std::fs::set_permissions(&odd, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let odd = odd.display().to_string();
    let mut text = String::new();
    for arguments in [
        &["--text", "start", "--bogus"][..],
        &["--text", "stop", "--grace", "soon"],
        &["--text", "start", "--codex-bin", "/no/such/codex"],
        &["--text", "start", "--codex-bin", &odd],
        &["--text", "version"],
        &["--text", "start", "--codex-home", "/no/such/home"],
        &["--text", "start", "--codex-home", &file],
        &["--text", "proxy"],
        &["--text", "status", "--wait", "running", "--timeout", "0"],
        &["--text", "install", "newest"],
        &["--text", "install", "--source", "ftp:x"],
        &["--text", "install", "--source", "file:/no/such/package.tgz"],
    ] {
        text += &format!("== codexd {}\n{}\n", arguments.join(" "), shown(&home, &codexd.run(arguments)?));
    }
    insta::assert_snapshot!("errors", normalized(&home, &text));
    Ok(())
}

#[test]
fn text_of_commands_that_succeed() -> anyhow::Result<()> {
    let home = Home::new()?;
    Fake::Healthy.install(&home, Layout::Standalone)?;
    let codexd = Codexd::new(&home)?;
    let mut text = String::new();
    for arguments in [
        &["--text", "stop"][..],
        &["--text", "start"],
        &["--text", "start"],
        &["--text", "version"],
        &["--text", "status"],
        &["--text", "restart"],
        &["--text", "enable-remote-control"],
        &["--text", "disable-remote-control"],
        &["--text", "logs", "--list"],
        &["--text", "stop"],
        &["--text", "up"],
        &["--text", "stop"],
        &["--text", "status"],
    ] {
        text += &format!("== codexd {}\n{}\n", arguments.join(" "), shown(&home, &codexd.run(arguments)?));
    }
    insta::assert_snapshot!("success", text);
    Ok(())
}

#[test]
fn text_of_an_install() -> anyhow::Result<()> {
    let home = Home::new()?;
    let codexd = Codexd::new(&home)?;
    let (_, target) = codexd_testkit::codex::platform().map_err(anyhow::Error::msg)?;
    let mut text = String::new();
    let broken = Fake::ExitsAtOnce("Error: no", 1);
    for (version, fake) in [("0.171.0", Fake::Healthy), ("0.171.0", Fake::Healthy), ("0.172.0", broken)] {
        let release = home.root().join(version);
        codexd_testkit::package::release(&release, version, &fake)?;
        let source = format!("directory:{}", release.display());
        let run = codexd.run(&["--text", "install", "--source", &source])?;
        text += &format!("== codexd --text install --source {source}\n{}\n", shown(&home, &run));
    }
    text += &format!("== codexd --text releases\n{}\n", shown(&home, &codexd.run(&["--text", "releases"])?));
    insta::assert_snapshot!("install", normalized(&home, &text).replace(target, "TARGET"));
    Ok(())
}

/// Damages a home in several ways, and repairs it.
#[test]
fn problems_and_repairs() -> anyhow::Result<()> {
    let home = Home::new()?;
    Fake::Healthy.install(&home, Layout::Standalone)?;
    let codexd = Codexd::new(&home)?;
    codexd.json(&["start"])?;
    codexd.json(&["stop"])?;
    std::fs::write(home.state("settings.json"), r#"{"shutdownGraceSeconds": 600, "gateway": "on"}"#)?;
    std::fs::write(home.state("server.json"), "{")?;
    std::fs::set_permissions(home.state(""), std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
    drop(std::os::unix::net::UnixListener::bind(home.control_socket())?);
    let mut text = String::new();
    for arguments in
        [&["--text", "status"][..], &["--text", "start"], &["--text", "status"], &["--text", "stop"]]
    {
        text += &format!("== codexd {}\n{}\n", arguments.join(" "), shown(&home, &codexd.run(arguments)?));
    }
    insta::assert_snapshot!("problems", text);
    Ok(())
}

/// The sentences of the event log after a crash and a stop.
#[test]
fn sentences_of_events() -> anyhow::Result<()> {
    let home = Home::new()?;
    Fake::Healthy.install(&home, Layout::Standalone)?;
    let codexd = Codexd::new(&home)?;
    let started = codexd.json(&["start"])?;
    let server = started["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).context("a pid")?;
    let server = rustix::process::Pid::from_raw(server).context("a pid")?;
    rustix::process::kill_process(server, rustix::process::Signal::KILL)?;
    until(SOON, "the restart", || {
        let status = codexd.json(&["status"]).ok()?;
        (status["state"] == "running" && status["restarts"] == 1).then_some(())
    })?;
    codexd.json(&["restart", "--now"])?;
    codexd.json(&["stop"])?;
    let events = std::fs::read_to_string(home.state("events.jsonl"))?;
    let mut sentences: Vec<String> = Vec::new();
    for line in events.lines() {
        let event: serde_json::Value = serde_json::from_str(line)?;
        let sentence = format!(
            "{}: {}",
            event["type"].as_str().unwrap_or_default(),
            event["message"].as_str().unwrap_or_default()
        );
        sentences.push(normalized(&home, &sentence));
    }
    // The processes write at the same time, so the order differs from run to run.
    sentences.sort();
    sentences.dedup();
    insta::assert_snapshot!("events", sentences.join("\n"));
    Ok(())
}
