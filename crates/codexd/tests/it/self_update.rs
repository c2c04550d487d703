//! `codexd self-update`: the binary is the old or the new one at any time, and what is no codexd never takes its place.

mod fixture;
mod refused;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, ensure};
use codexd_testkit::killer::{self, KillPoint};
use codexd_testkit::{Fake, Layout, run, skip};
use serde_json::Value;

use crate::lifecycle::{SOON, recorded};
use fixture::{Installed, sha256_of, write_sha256};

#[test]
fn self_update_replaces_the_binary_and_keeps_the_previous_one() -> anyhow::Result<()> {
    let installed = Installed::new()?;
    fs::set_permissions(&installed.binary, fs::Permissions::from_mode(0o750))?;
    let (old, new) = (fs::read(&installed.binary)?, fs::read(installed.newer()?)?);

    let reply = installed.update(&installed.newer()?)?.success_json()?;
    ensure!(reply["status"] == "updated" && reply["checksumFile"] == Value::Null, "{reply}");
    ensure!(reply["path"] == installed.binary.display().to_string(), "{reply}");
    ensure!(reply["sha256"] == sha256_of(&installed.binary)?, "{reply}");
    ensure!(reply["hint"].as_str().is_some_and(|hint| hint.contains("codexd status")), "{reply}");
    ensure!(fs::read(&installed.binary)? == new, "the binary is not the new one");
    ensure!(fs::metadata(&installed.binary)?.permissions().mode() & 0o7777 == 0o750);
    let previous = reply["previousPath"].as_str().context("a path")?;
    ensure!(previous == format!("{}.previous", installed.binary.display()) && fs::read(previous)? == old);
    ensure!(installed.names()? == ["codexd", "codexd.previous"], "{:?}", installed.names()?);

    let again = installed.update(&installed.newer()?)?.success_json()?;
    ensure!(again["status"] == "alreadyCurrent" && again["previousPath"] == Value::Null, "{again}");
    ensure!(fs::read(previous)? == old, "an update that changes nothing keeps the previous binary");

    // And back.
    let back = installed.update(previous.as_ref())?.success_json()?;
    ensure!(back["status"] == "updated", "{back}");
    ensure!(fs::read(&installed.binary)? == old && fs::read(previous)? == new);
    ensure!(installed.names()? == ["codexd", "codexd.previous"]);
    Ok(())
}

#[test]
fn text_of_a_self_update_names_binary_and_check() -> anyhow::Result<()> {
    let installed = Installed::new()?;
    let from = installed.newer()?;
    write_sha256(&from)?;
    let arguments = ["--text", "self-update", "--from", &from.display().to_string()];
    let shown = installed.codexd().run(&arguments)?;
    ensure!(shown.success(), "{shown}");
    for text in ["codexd updated from", "binary", "previous", "the file matches", "note: a supervisor"] {
        ensure!(shown.stdout.contains(text), "no {text:?}: {shown}");
    }
    Ok(())
}

#[test]
fn processes_that_run_keep_the_previous_binary_and_status_names_them() -> anyhow::Result<()> {
    let installed = Installed::new()?;
    Fake::Healthy.install(&installed.home, Layout::Standalone)?;
    let codexd = installed.codexd();
    codexd.json(&["start"])?;
    let server = recorded(&installed.home)?;
    ensure!(installed.update(&installed.newer()?)?.success_json()?["status"] == "updated");
    let status = codexd.json(&["status"])?;
    let found: Vec<&str> = status["problems"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|problem| problem["found"].as_str())
        .collect();
    ensure!(found.contains(&"outdated-supervisor") && found.contains(&"outdated-gateway"), "{status:#}");
    ensure!(recorded(&installed.home)?.pid == server.pid, "the app-server was replaced");
    codexd.json(&["stop"])?;
    installed.home.assert_no_process_left();
    Ok(())
}

#[test]
fn the_binary_of_a_tarball_is_installed_if_its_sha256_matches() -> anyhow::Result<()> {
    let installed = Installed::new()?;
    let new = fs::read(installed.newer()?)?;
    let tarball = installed.tarball(&installed.newer()?)?;
    let checksum_file = write_sha256(&tarball)?;
    let reply = installed.update(&tarball)?.success_json()?;
    ensure!(reply["status"] == "updated", "{reply}");
    ensure!(reply["checksumFile"] == checksum_file.display().to_string(), "{reply}");
    ensure!(fs::read(&installed.binary)? == new, "the binary is not that of the tarball");
    Ok(())
}

/// The writes of a copy are many and alike: the first ones count.
const WRITES: usize = 3;

/// Calls after which the files are as before.
const WITHOUT_CHANGE: [&str; 6] = ["open", "execve", "wait", "pidfd_", "kill", "socket"];

/// Whether a kill at this call may leave other files than one at its neighbors.
fn matters(point: &KillPoint) -> bool {
    match point {
        KillPoint::Call { name, .. } if WITHOUT_CHANGE.iter().any(|call| name.starts_with(call)) => false,
        KillPoint::Call { name, nth } if name == "write" => *nth <= WRITES,
        _ => true,
    }
}

#[test]
fn a_self_update_killed_at_any_system_call_can_be_run_again() -> anyhow::Result<()> {
    if let Err(reason) = killer::strace_works() {
        skip!("{reason}");
    }
    let installed = Installed::new()?;
    let (old, from) = (fs::read(&installed.binary)?, installed.newer()?);
    let new = fs::read(&from)?;
    let command = || installed.codexd().command(&["self-update", "--from", &from.display().to_string()]);
    let points = killer::points(&installed.home, &command())?;
    let is_rename =
        |point: &&KillPoint| matches!(point, KillPoint::Call { name, .. } if name.starts_with("rename"));
    ensure!(points.iter().filter(is_rename).count() >= 2, "no renames among {points:?}");
    for point in points.into_iter().filter(matters) {
        installed.reset(&old)?;
        killer::run_and_kill(&installed.home, command(), &point)?;
        let now = fs::read(&installed.binary)?;
        ensure!(now == old || now == new, "after {point:?} the binary is neither the old nor the new one");
        let reply = run::run(command(), SOON)?.success_json().with_context(|| format!("after {point:?}"))?;
        ensure!(fs::read(&installed.binary)? == new, "after {point:?}: {reply}");
        let previous = fs::read(installed.binary.with_added_extension("previous"));
        ensure!(
            previous.is_ok_and(|previous| previous == old),
            "after {point:?} the previous binary is lost: {reply}"
        );
        ensure!(
            installed.names()? == ["codexd", "codexd.previous"],
            "after {point:?}: {:?}",
            installed.names()?
        );
    }
    Ok(())
}
