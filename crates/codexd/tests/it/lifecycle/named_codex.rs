//! The Codex that `--codex-bin` names stays in force for the commands after it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use anyhow::ensure;
use codexd_testkit::{Codexd, Fake, Home, Layout, Version, codex, skip};
use serde_json::Value;

use super::recorded;

/// A home, a Codex that nothing but its path leads to, and that path as text.
fn named() -> anyhow::Result<(Home, PathBuf, String)> {
    let home = Home::new()?;
    let path = home.root().join("named/codex");
    fs::create_dir_all(home.root().join("named"))?;
    symlink(codex::binary(Version::V0_171_0)?, &path)?;
    let text = path.to_string_lossy().into_owned();
    Ok((home, path, text))
}

/// An environment without a Codex on PATH.
const NO_CODEX: &str = "/usr/bin:/bin";

fn says(answer: &Value, path: &str, source: &str) -> anyhow::Result<()> {
    ensure!(answer["managedCodexPath"] == path, "{answer}");
    ensure!(answer["managedCodexVersion"] == "0.171.0" && answer["cliVersion"] == "0.171.0", "{answer}");
    ensure!(answer["managedCodexSource"] == source, "{answer}");
    Ok(())
}

#[test]
fn the_named_codex_is_used_by_later_commands_until_the_server_is_stopped() -> anyhow::Result<()> {
    if let Err(reason) = codex::platform() {
        skip!("{reason}");
    }
    let (home, _, path) = named()?;
    let codexd = Codexd::new(&home)?.env("PATH", NO_CODEX);
    says(&codexd.json(&["--codex-bin", &path, "start"])?, &path, "named")?;
    for command in [&["version"][..], &["start"], &["restart"], &["restart", "--now"], &["reload"]] {
        says(&codexd.json(command)?, &path, "record")?;
        let status = codexd.json(&["status"])?;
        says(&status, &path, "record")?;
        ensure!(status["runningIsInstalled"] == true, "after {command:?}: {status}");
    }
    let enabled = codexd.json(&["enable-remote-control"])?;
    ensure!(enabled["cliVersion"] == "0.171.0", "{enabled}");
    codexd.json(&["stop"])?;
    let error = codexd.run(&["start"])?.json()?["error"].clone();
    assert_eq!(error["code"], "codex-not-found", "a stop forgets it");
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn a_setting_that_is_changed_counts_before_the_named_codex() -> anyhow::Result<()> {
    let home = Home::new()?;
    let managed = Fake::Healthy.install(&home, Layout::Standalone)?;
    let [first, second] = ["first", "second"].map(|name| home.root().join(name));
    for link in [&first, &second] {
        symlink(&managed, link)?;
    }
    let set = |path: &PathBuf| -> anyhow::Result<()> {
        home.write("codexd.toml", format!("codexBin = {path:?}\n")).map(drop)
    };
    set(&first)?;
    let codexd = Codexd::new(&home)?;
    codexd.json(&["--codex-bin", &managed.to_string_lossy(), "start"])?;
    assert_eq!(codexd.json(&["restart"])?["managedCodexSource"], "record", "named after the setting");
    set(&second)?;
    let restarted = codexd.json(&["restart"])?;
    assert_eq!(restarted["managedCodexSource"], "setting");
    assert_eq!(restarted["managedCodexPath"].as_str(), second.to_str());
    assert_eq!(codexd.json(&["restart"])?["managedCodexSource"], "setting", "the named one is forgotten");
    codexd.json(&["stop"])?;
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn a_named_codex_that_is_gone_is_an_error_with_the_source_of_its_name() -> anyhow::Result<()> {
    if let Err(reason) = codex::platform() {
        skip!("{reason}");
    }
    let (home, link, path) = named()?;
    let codexd = Codexd::new(&home)?;
    codexd.json(&["--codex-bin", &path, "start"])?;
    let server = recorded(&home)?;
    fs::remove_file(&link)?;
    let error = codexd.run(&["restart"])?.json()?["error"].clone();
    let message = error["message"].as_str().unwrap_or_default();
    ensure!(error["code"] == "codex-not-found", "{error}");
    ensure!(message.contains(&path) && message.contains("--codex-bin"), "{error}");
    ensure!(server.is_alive(), "the server was ended");
    let status = codexd.json(&["status"])?;
    ensure!(status["problems"][0]["found"] == "codex-broken", "{status}");
    // Another release at the same path is taken.
    symlink(codex::binary(Version::V0_169_0)?, &link)?;
    let restarted = codexd.json(&["restart"])?;
    ensure!(restarted["managedCodexVersion"] == "0.169.0", "{restarted}");
    ensure!(restarted["appServerVersion"] == "0.169.0", "{restarted}");
    let status = codexd.json(&["status"])?;
    ensure!(status["generations"][0]["version"] == "0.169.0", "{status}");
    codexd.json(&["stop"])?;
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn a_codex_that_was_found_on_path_is_found_by_a_command_with_another_path() -> anyhow::Result<()> {
    let home = Home::new()?;
    let managed = Fake::Healthy.install(&home, Layout::Standalone)?;
    let bin = home.root().join("bin");
    fs::create_dir_all(&bin)?;
    fs::rename(&managed, bin.join("codex"))?;
    let with = format!("{}:{NO_CODEX}", bin.display());
    let started = Codexd::new(&home)?.env("PATH", &with).json(&["start"])?;
    assert_eq!(started["managedCodexSource"], "path");
    let codexd = Codexd::new(&home)?.env("PATH", NO_CODEX);
    let restarted = codexd.json(&["restart"])?;
    assert_eq!(
        (&restarted["status"], &restarted["managedCodexSource"]),
        (&"restarted".into(), &"record".into())
    );
    codexd.json(&["stop"])?;
    home.assert_no_process_left();
    Ok(())
}
