//! Homes and files of other users: codexd neither reads, writes nor executes them.

mod planted;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use codexd_testkit::{Codexd, Home, Run, codexd, limits, run, skip};
use serde_json::Value;

/// The user whose home it is, or who plants files. `/etc/passwd` names it `nobody`.
pub(super) const OTHER: u32 = 65_534;

/// Why no test with a second user can run here.
pub(super) const NEEDS_ROOT: &str = "only root can own files as another user";

/// Every command that works on a home.
pub(super) const COMMANDS: [&[&str]; 10] = [
    &["start"],
    &["stop"],
    &["restart"],
    &["reload"],
    &["up"],
    &["status"],
    &["version"],
    &["logs"],
    &["enable-remote-control"],
    &["proxy"],
];

pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Makes a folder with everything in it that of [`OTHER`].
pub(super) fn give_away(path: &Path) -> anyhow::Result<()> {
    let owner = format!("{OTHER}:{OTHER}");
    ensure!(Command::new("chown").args(["-hR", &owner]).arg(path).status()?.success(), "chown {path:?}");
    Ok(())
}

pub(super) fn set_mode(path: &Path, mode: u32) -> anyhow::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode)).with_context(|| format!("chmod {path:?}"))
}

/// A Codex that writes down as whom it was run, and tells a version.
pub(super) fn recording_codex(folder: &Path) -> anyhow::Result<(PathBuf, PathBuf)> {
    let (codex, ran) = (folder.join("codex"), folder.join("ran"));
    fs::write(&codex, format!("#!/bin/sh\nid -u >> '{}'\necho 'codex-cli 9.9.9'\n", ran.display()))?;
    set_mode(&codex, 0o755)?;
    Ok((codex, ran))
}

/// The error of a run that refused because of another user.
pub(super) fn refused(run: &Run) -> anyhow::Result<Value> {
    ensure!(run.code() == Some(28), "{run}");
    // `proxy` keeps stdout for the server.
    if run.stdout.is_empty() {
        return Ok(Value::Null);
    }
    let error = run.json()?["error"].clone();
    ensure!(error["code"] == "foreign-owner" && error["retryable"] == false, "{error}");
    ensure!(error["uid"] == OTHER && error["hint"].is_string(), "{error}");
    Ok(error)
}

/// A home of [`OTHER`] whose settings name a Codex that records who runs it.
fn home_of_other() -> anyhow::Result<(Home, PathBuf)> {
    let home = Home::new()?;
    fs::create_dir_all(home.state(""))?;
    let (codex, ran) = recording_codex(&home.work())?;
    fs::write(home.state("settings.json"), serde_json::json!({ "codexBin": codex }).to_string())?;
    give_away(home.root())?;
    set_mode(home.root(), 0o755)?;
    Ok((home, ran))
}

/// Names and contents of everything in a folder.
fn everything(folder: &Path) -> anyhow::Result<Vec<(PathBuf, u64, Vec<u8>)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let metadata = path.symlink_metadata()?;
        let text = if metadata.is_file() { fs::read(&path)? } else { Vec::new() };
        if metadata.is_dir() {
            found.extend(everything(&path)?);
        }
        found.push((path, metadata.ino(), text));
    }
    found.sort();
    Ok(found)
}

#[test]
fn root_neither_executes_nor_writes_in_the_home_of_another_user() -> anyhow::Result<()> {
    if !is_root() {
        skip!("{NEEDS_ROOT}");
    }
    let (home, ran) = home_of_other()?;
    let victim = home.root().join("roots-file");
    fs::write(&victim, "precious")?;
    std::os::unix::fs::symlink(&victim, home.state("daemon.lock"))?;
    give_away(&home.state(""))?;
    let link = home.root().join("link");
    std::os::unix::fs::symlink(home.path(), &link)?;
    let before = everything(home.path())?;
    for command in COMMANDS {
        let error = refused(&Codexd::new(&home)?.run(command)?)?;
        ensure!(error.is_null() || error["path"] == home.path().to_str().context("text")?, "{error}");
        let hint = error["hint"].as_str().unwrap_or("--allow-foreign-owner");
        ensure!(hint.contains("--allow-foreign-owner"), "{command:?}: {hint}");
        // The same home, reached by a link of root's.
        let mut by_link = Codexd::new(&home)?.command(command);
        by_link.env("CODEX_HOME", &link);
        refused(&run::run(by_link, limits::RUN)?)?;
    }
    ensure!(!ran.exists(), "the Codex of another user was executed");
    ensure!(fs::read_to_string(&victim)? == "precious", "the link of another user was followed");
    ensure!(everything(home.path())? == before, "something was written");
    Ok(())
}

#[test]
fn root_creates_no_home_in_the_folder_of_another_user() -> anyhow::Result<()> {
    if !is_root() {
        skip!("{NEEDS_ROOT}");
    }
    let home = Home::new()?;
    give_away(&home.profile())?;
    let mut start = Codexd::new(&home)?.command(&["start", "--embedded"]);
    start.env_remove("CODEX_HOME");
    refused(&run::run(start, limits::RUN)?)?;
    ensure!(!home.profile().join(".codex").exists(), "a folder of root's was made");
    Ok(())
}

/// The user of a process.
fn user_of(pid: &Value) -> anyhow::Result<u32> {
    Ok(fs::metadata(format!("/proc/{pid}")).with_context(|| format!("process {pid}"))?.uid())
}

#[test]
fn a_foreign_home_that_is_allowed_is_served_with_the_rights_of_its_owner() -> anyhow::Result<()> {
    if !is_root() {
        skip!("{NEEDS_ROOT}");
    }
    let (home, ran) = home_of_other()?;
    let allowed = home.path().to_str().context("text")?;
    let by_option: (Codexd<'_>, &[&str]) = (Codexd::new(&home)?, &["--allow-foreign-owner"]);
    let by_variable: (Codexd<'_>, &[&str]) =
        (Codexd::new(&home)?.env("CODEXD_FOREIGN_HOMES", &format!("/nowhere:{allowed}")), &[]);
    for (codexd, option) in [by_option, by_variable] {
        let json = |arguments: &[&str]| codexd.json(&[option, arguments].concat());
        let status = json(&["status"])?;
        ensure!(status["managedCodexVersion"] == "9.9.9", "{status}");
        json(&["start", "--embedded"])?;
        let status = json(&["status"])?;
        for pid in [&status["pid"], &status["supervisorPid"], &status["gateway"]["pid"]] {
            ensure!(user_of(pid)? == OTHER, "{status}");
        }
        for entry in fs::read_dir(home.state(""))? {
            let entry = entry?;
            ensure!(entry.metadata()?.uid() == OTHER, "{:?}", entry.path());
        }
        ensure!(json(&["stop"])?["status"] == "stopped", "stopped");
        fs::remove_file(home.state("codex-binaries.json"))?;
    }
    let users = fs::read_to_string(&ran)?;
    ensure!(!users.is_empty() && users.lines().all(|user| user == OTHER.to_string()), "{users}");
    home.assert_no_process_left();
    Ok(())
}

/// Runs codexd as [`OTHER`].
fn run_as_other(home: &Home, arguments: &[&str]) -> anyhow::Result<Run> {
    let mut command = home.command("setpriv");
    let (user, group) = (OTHER.to_string(), OTHER.to_string());
    command.args(["--reuid", &user, "--regid", &group, "--clear-groups", "--"]);
    command.arg(codexd::binary()?).args(arguments);
    run::run(command, limits::RUN)
}

#[test]
fn a_readable_home_of_another_user_is_not_used() -> anyhow::Result<()> {
    if !is_root() {
        skip!("{NEEDS_ROOT}");
    }
    // The home is that of a third user, since root is trusted.
    let home = Home::new()?;
    let (codex, ran) = recording_codex(&home.work())?;
    home.write("app-server-daemon/settings.json", serde_json::json!({ "codexBin": codex }).to_string())?;
    ensure!(Command::new("chown").args(["-R", "65533"]).arg(home.path()).status()?.success(), "chown");
    ensure!(Command::new("chmod").args(["-R", "a+rX"]).arg(home.root()).status()?.success(), "chmod");
    for command in COMMANDS {
        let run = run_as_other(&home, command)?;
        ensure!(run.code() == Some(28), "{command:?}: {run}");
        ensure!(run.stderr.contains("uid 65533"), "{command:?}: {run}");
    }
    ensure!(!ran.exists(), "the Codex of another user was executed");
    // The same home, in a folder that only its owner may enter.
    ensure!(Command::new("chown").arg("65533").arg(home.root()).status()?.success(), "chown");
    set_mode(home.root(), 0o700)?;
    let run = run_as_other(&home, &["status"])?;
    ensure!(run.code() == Some(28) && run.json()?["error"]["uid"] == 65_533, "{run}");
    set_mode(home.root(), 0o755)?;
    // A home of root that everybody may write to, with a state folder of root's in it.
    ensure!(Command::new("chown").args(["-R", "0"]).arg(home.path()).status()?.success(), "chown");
    let run = run_as_other(&home, &["status"])?;
    ensure!(run.code() == Some(28) && run.stderr.contains("user root (uid 0)"), "{run}");
    Ok(())
}

#[test]
fn a_home_that_codexd_creates_is_private_whatever_the_umask() -> anyhow::Result<()> {
    for umask in ["000", "022", "777"] {
        let home = Home::new()?;
        let mut shell = home.command("sh");
        shell.args(["-c", &format!("umask {umask} && exec \"$@\""), "sh"]).arg(codexd::binary()?);
        shell.args(["start", "--embedded"]).env_remove("CODEX_HOME");
        run::run(shell, limits::RUN)?.success_json()?;
        let made = home.profile().join(".codex");
        for folder in [made.clone(), made.join("app-server-daemon"), made.join("app-server-control")] {
            let mode = fs::metadata(&folder)?.mode() & 0o7777;
            ensure!(mode == 0o700, "{} has {mode:o} with umask {umask}", folder.display());
        }
        let mut stop = Codexd::new(&home)?.command(&["stop"]);
        stop.env_remove("CODEX_HOME");
        run::run(stop, limits::RUN)?.success_json()?;
        home.assert_no_process_left();
    }
    Ok(())
}

#[test]
fn a_folder_that_other_users_may_write_to_is_reported_by_status_and_repaired_by_a_command()
-> anyhow::Result<()> {
    let home = Home::new()?;
    let codexd = Codexd::new(&home)?;
    codexd.json(&["start", "--embedded"])?;
    let control = home.control_socket().parent().context("a folder")?.to_owned();
    for (folder, mode) in [(home.state(""), 0o770), (control, 0o777)] {
        set_mode(&folder, mode)?;
        let status = codexd.json(&["status"])?;
        ensure!(status["problems"][0]["found"] == "writable-by-others", "{status}");
        ensure!(fs::metadata(&folder)?.mode() & 0o777 == mode, "status changes nothing");
        let started = codexd.json(&["start"])?;
        ensure!(started["repairs"][0]["found"] == "writable-by-others", "{started}");
        ensure!(fs::metadata(&folder)?.mode() & 0o777 == 0o700, "{}", folder.display());
        let status = codexd.json(&["status"])?;
        ensure!(status["problems"] == serde_json::json!([]), "{status}");
    }
    codexd.json(&["stop"])?;
    home.assert_no_process_left();
    Ok(())
}
