//! What servers, tools, users and files say is printed, and controls neither the terminal nor the length of what codexd says.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use anyhow::{Context, ensure};
use codexd_testkit::{Codexd, Fake, Home, Layout, until};
use serde_json::{Value, json};

use super::SOON;

/// Title, clipboard, clear screen, C1, right-to-left.
const ESCAPES: &str = "\u{1b}]0;PWN\u{7}\u{1b}]52;c;cm0=\u{7}\u{1b}[2J\u{9b}2J\u{202e}";
/// As a person sees them.
const SHOWN: &str = r"\x1b]0;PWN\x07\x1b]52;c;cm0=\x07\x1b[2J\u{9b}2J\u{202e}";

/// Whether a terminal would obey something in it.
fn is_harmless(text: &str) -> bool {
    let layout = |character: char| matches!(character, '\n' | '\t');
    !text.chars().any(|it| (it.is_control() && !layout(it)) || ('\u{2028}'..='\u{202e}').contains(&it))
}

fn assert_harmless(home: &Home, arguments: &[&str]) -> anyhow::Result<String> {
    let run = Codexd::new(home)?.run(arguments)?;
    let said = format!("{}{}", run.stdout, run.stderr);
    ensure!(is_harmless(&said), "{arguments:?}: {said:?}");
    Ok(said)
}

/// A Codex that is this script.
fn install(home: &Home, script: &str) -> anyhow::Result<()> {
    let place = home.managed_codex(Layout::Standalone);
    fs::create_dir_all(place.parent().context("a folder")?)?;
    fs::write(&place, format!("#!/bin/sh\n{script}\n"))?;
    Ok(fs::set_permissions(&place, Permissions::from_mode(0o755))?)
}

/// A home whose server has written escape sequences and ended.
fn with_dead_server() -> anyhow::Result<Home> {
    let home = Home::new()?;
    let said = home.write("said", format!("first\n{ESCAPES} last words \u{1b}[31mred\u{1b}[0m\n"))?;
    let serve = format!("cat '{}' >&2; exit 3", said.display());
    install(
        &home,
        &format!(
            "[ \"$1\" = --version ] && {{ echo codex-cli 0.171.0; exit 0; }}\n[ \"$1\" = features ] && exit 0\n{serve}"
        ),
    )?;
    Ok(home)
}

#[test]
fn escape_sequences_of_a_server_are_printed_and_not_obeyed() -> anyhow::Result<()> {
    let home = with_dead_server()?;
    let said = assert_harmless(&home, &["start"])?;
    ensure!(said.contains(&format!("{SHOWN} last words red").replace('\\', r"\\")), "{said}");
    for arguments in [
        vec!["start", "--text"],
        vec!["status", "--text"],
        vec!["status"],
        vec!["logs", "--text"],
        vec!["logs", "--json"],
    ] {
        assert_harmless(&home, &arguments)?;
    }
    let events = fs::read_to_string(home.state("events.jsonl"))?;
    ensure!(is_harmless(&events), "{events:?}");
    let text = Codexd::new(&home)?.run(&["logs", "--text", "-n", "2"])?.stdout;
    assert_eq!(text, format!("first\n{SHOWN} last words red\n"));
    Ok(())
}

#[test]
fn logs_as_json_and_as_raw_bytes_lose_nothing() -> anyhow::Result<()> {
    let home = with_dead_server()?;
    let codexd = Codexd::new(&home)?;
    codexd.run(&["start"])?;
    let lines = codexd.json(&["logs", "--json", "-n", "1"])?;
    assert_eq!(lines["lines"], json!([format!("{ESCAPES} last words \u{1b}[31mred\u{1b}[0m")]));
    fs::write(home.state("server.stderr.log"), b"a\xff\x1b[2J")?;
    let raw = codexd.command(&["logs", "--raw"]).output()?;
    assert_eq!(raw.stdout, b"a\xff\x1b[2J");
    assert_eq!(codexd.run(&["logs", "--text"])?.stdout, "a\\xff\\x1b[2J\n");
    Ok(())
}

#[test]
fn a_followed_log_is_visible_text_and_raw_only_if_asked_for() -> anyhow::Result<()> {
    let home = with_dead_server()?;
    let codexd = Codexd::new(&home)?;
    codexd.run(&["start"])?;
    let log = home.state("server.stderr.log");
    for (arguments, shown) in [(vec!["logs", "-f"], SHOWN), (vec!["logs", "-f", "--raw"], ESCAPES)] {
        fs::write(&log, "begin\n")?;
        let output = home.root().join("output");
        let mut command = codexd.command(&arguments);
        command.stdout(fs::File::create(&output)?).stderr(Stdio::null());
        let mut following = command.spawn()?;
        let said = || fs::read_to_string(&output).unwrap_or_default();
        until(SOON, "the first line", || said().contains("begin\n").then_some(()))?;
        let mut append = fs::File::options().append(true).open(&log)?;
        std::io::Write::write_all(&mut append, format!("{ESCAPES} end\n").as_bytes())?;
        let seen = until(SOON, "the next line", || said().contains("end\n").then(said));
        following.kill()?;
        following.wait()?;
        ensure!(seen?.contains(&format!("{shown} end\n")), "{arguments:?}: {:?}", said());
    }
    Ok(())
}

#[test]
fn escape_sequences_in_files_of_a_home_are_printed_and_not_obeyed() -> anyhow::Result<()> {
    let home = Home::named(&format!("h{ESCAPES}"))?;
    let event =
        json!({"seq": 7, "createdAt": ESCAPES, "level": "error", "type": ESCAPES, "message": ESCAPES});
    let settings =
        json!({"codexBin": format!("/x{ESCAPES}"), "gateway": ESCAPES, "umask": ESCAPES, ESCAPES: 1});
    let record = json!({"pid": 1, "processStartTime": ESCAPES, "codexd": {"executable": ESCAPES}});
    home.write("app-server-daemon/events.jsonl", format!("{event}\n"))?;
    for (file, text) in [
        ("settings.json", settings.to_string()),
        ("settings.json", ESCAPES.to_owned()),
        ("server.json", record.to_string()),
        ("server.json", json!(ESCAPES).to_string()),
    ] {
        let path = home.write(&format!("app-server-daemon/{file}"), text)?;
        for arguments in
            [["status", "--text"], ["status", "--json"], ["version", "--text"], ["start", "--text"]]
        {
            assert_harmless(&home, &arguments).with_context(|| file.to_owned())?;
        }
        let _moved_aside = fs::remove_file(path);
    }
    let lock = home.write("app-server-daemon/daemon.lock", ESCAPES)?;
    let held = fs::File::open(lock)?;
    held.lock()?;
    let said = assert_harmless(&home, &["stop", "--text", "--lock-timeout", "0"])?;
    ensure!(said.contains(r"\x1b]0;PWN"), "the holder is named: {said}");
    drop(held);
    assert_harmless(&home, &["stop", "--text"])?;
    Ok(())
}

#[test]
fn escape_sequences_of_a_command_line_are_printed_and_not_obeyed() -> anyhow::Result<()> {
    let home = Home::new()?;
    for arguments in [
        vec![ESCAPES],
        vec!["status", ESCAPES],
        vec!["start", "--codex-bin", ESCAPES],
        vec!["--codex-home", ESCAPES, "status"],
    ] {
        assert_harmless(&home, &arguments)?;
        assert_harmless(&home, &[&["--text"], &arguments[..]].concat())?;
    }
    Ok(())
}

#[test]
fn output_that_is_no_version_is_rejected() -> anyhow::Result<()> {
    for version in [format!("0.171.0{ESCAPES}"), "1".repeat(3_000), "0.171.0;rm".to_owned()] {
        let home = Home::new()?;
        let printed = home.write("printed", format!("codex-cli {version}\n"))?;
        install(&home, &format!("exec cat '{}'", printed.display()))?;
        for command in ["start", "status"] {
            assert_harmless(&home, &[command, "--text"])?;
        }
        let error = Codexd::new(&home)?.run(&["start"])?.json()?["error"].clone();
        ensure!(error["code"] == "codex-broken", "{error}");
        ensure!(error["message"].as_str().is_some_and(|message| message.chars().count() < 400), "{error}");
        ensure!(
            error["printed"] == format!("codex-cli {version}"),
            "the whole is there for programs: {error}"
        );
        let status = Codexd::new(&home)?.json(&["status"])?;
        ensure!(status["managedCodexVersion"].is_null(), "{status}");
        let event = status["events"][0]["message"].as_str().context("an event")?;
        ensure!(event.contains("codex-cli") && event.chars().count() < 400, "{event}");
    }
    Ok(())
}

/// The failure of `start` with a Codex that says this and ends, and the status after it.
fn start_and_status(said: &'static str) -> anyhow::Result<(Value, Value)> {
    let home = Home::new()?;
    Fake::ExitsAtOnce(said, 1).install(&home, Layout::Standalone)?;
    let codexd = Codexd::new(&home)?;
    let error = codexd.run(&["start"])?.json()?["error"].clone();
    ensure!(error["code"] == "server-exited", "{error}");
    Ok((error, codexd.json(&["status"])?))
}

#[test]
fn a_server_that_ends_at_its_start_is_quoted_with_its_error_and_not_with_its_backtrace() -> anyhow::Result<()>
{
    let said = "Error: failed to open the database\n\nCaused by:\n    is a directory\n\nStack backtrace:\n   0: <unknown>\n   1: <unknown>";
    let (error, status) = start_and_status(said)?;
    let message = error["message"].as_str().unwrap_or_default();
    ensure!(message.ends_with("answered: Error: failed to open the database: is a directory"), "{message}");
    assert_eq!(error["errorLine"], "Error: failed to open the database: is a directory");
    assert_eq!(status["lastExit"]["errorLine"], error["errorLine"]);
    Ok(())
}

#[test]
fn the_error_is_found_before_a_backtrace_that_is_longer_than_the_tail() -> anyhow::Result<()> {
    let home = Home::new()?;
    let frames = "   7: a::very::long::frame\n             at /a/b/c.rs:1:1\n".repeat(2_000);
    let said = home.write(
        "said",
        format!("thread 'main' (1) panicked at src/main.rs:5:5:\nno database\nstack backtrace:\n{frames}"),
    )?;
    install(
        &home,
        &format!(
            "[ \"$1\" = --version ] && {{ echo codex-cli 0.171.0; exit 0; }}\n[ \"$1\" = features ] && exit 0\ncat '{}' >&2; exit 101",
            said.display()
        ),
    )?;
    let error = Codexd::new(&home)?.run(&["start"])?.json()?["error"].clone();
    let message = error["message"].as_str().unwrap_or_default();
    ensure!(message.contains("panicked at src/main.rs:5:5: no database"), "{message}");
    Ok(())
}
