//! codexd on a whole host: boot, login, logout, power cut.

use std::fs;

use anyhow::{Context, ensure};
use codexd_testkit::systemd::CODEXD;
use codexd_testkit::{BootedHost, booted_host, skip, until};
use serde_json::Value;

use super::fixture::TIMEOUT;

/// A Codex that is the server built into codexd.
const CODEX: &str = "/home/cxd/.codex/packages/standalone/current/codex";

const USER_MANAGER: &str = "user@52000.service";

fn install_codex(host: &BootedHost) -> anyhow::Result<()> {
    let script = format!(
        "#!/bin/sh\ncase $1 in --version) echo 'codex-cli 9.9.9'; exit 0 ;; features) exit 0 ;; esac\nshift\nexec {CODEXD} embedded-app-server \"$@\"\n"
    );
    let folder = CODEX.trim_end_matches("/codex");
    let made = host.as_user(&["mkdir", "-p", folder])?;
    ensure!(made.success(), "{made}");
    fs::write(host.path(CODEX), script)?;
    as_root(host, &["chmod", "755", CODEX]).map(drop)
}

fn as_root(host: &BootedHost, words: &[&str]) -> anyhow::Result<String> {
    let run = host.as_root(words)?;
    ensure!(run.success(), "{}: {run}", words.join(" "));
    Ok(run.stdout)
}

fn sessions(host: &BootedHost) -> Option<Vec<String>> {
    let listed = as_root(host, &["loginctl", "list-sessions", "--no-legend"]).ok()?;
    let of_user = listed.lines().filter(|line| line.contains(booted_host::USER));
    Some(of_user.filter_map(|line| line.split_ascii_whitespace().next()).map(str::to_owned).collect())
}

/// A login session of the user, as a display manager begins it.
fn log_in(host: &BootedHost) -> anyhow::Result<()> {
    let user = format!("User={}", booted_host::USER);
    let session = ["--quiet", "--collect", "-p", "PAMName=login", "-p", &user, "sleep", "infinity"];
    as_root(host, &[&["systemd-run"][..], &session].concat())?;
    until(TIMEOUT, "a session", || sessions(host).filter(|found| !found.is_empty()))?;
    until(TIMEOUT, "the user manager", || as_root(host, &["systemctl", "is-active", USER_MANAGER]).ok())
        .map(drop)
}

fn log_out(host: &BootedHost) -> anyhow::Result<()> {
    for session in sessions(host).context("the sessions")? {
        as_root(host, &["loginctl", "terminate-session", &session])?;
    }
    until(TIMEOUT, "the end of the session", || sessions(host).filter(Vec::is_empty)).map(drop)
}

fn status(host: &BootedHost) -> Option<Value> {
    host.as_user(&[CODEXD, "status"]).ok()?.json().ok()
}

fn await_status(host: &BootedHost, what: &str, is_so: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
    let mut last = Value::Null;
    let found = until(TIMEOUT, what, || {
        last = status(host)?;
        is_so(&last).then(|| last.clone())
    });
    found.with_context(|| format!("{last:#}"))
}

fn await_running(host: &BootedHost) -> anyhow::Result<Value> {
    await_status(host, "a server", |status| {
        status["state"] == "running" && status["problems"].as_array().is_some_and(Vec::is_empty)
    })
}

#[test]
fn a_home_is_served_from_boot_on_and_after_a_logout_where_the_user_lingers() -> anyhow::Result<()> {
    if let Err(reason) = booted_host::available() {
        skip!("{reason}");
    }
    let mut host = BootedHost::boot()?;
    install_codex(&host)?;
    log_in(&host)?;
    let bootstrapped = host.as_user(&[CODEXD, "bootstrap"])?;
    let answer = bootstrapped.success_json()?;
    ensure!(answer["backend"] == "systemd" && answer["startsAtBoot"] == false, "{answer:#}");
    ensure!(bootstrapped.stderr.contains("loginctl enable-linger"), "{bootstrapped}");
    let first = await_running(&host)?;
    // Without lingering the services end with the last session, and start with the next one.
    log_out(&host)?;
    await_status(&host, "the end of the server", |status| status["status"] == "notRunning")?;
    log_in(&host)?;
    let second = await_running(&host)?;
    ensure!(second["pid"] != first["pid"], "{second:#}");

    as_root(&host, &["loginctl", "enable-linger", booted_host::USER])?;
    let answer = host.as_user(&[CODEXD, "bootstrap"])?.success_json()?;
    ensure!(answer["startsAtBoot"] == true && answer.get("hint").is_none(), "{answer:#}");
    log_out(&host)?;
    until(TIMEOUT, "a user who lingers", || {
        let shown = as_root(&host, &["loginctl", "show-user", "--property=State", booted_host::USER]).ok()?;
        shown.contains("lingering").then_some(())
    })?;
    let third = await_running(&host)?;
    ensure!(third["pid"] == second["pid"], "{third:#}");

    host.reboot()?;
    let status = await_running(&host)?;
    ensure!(status["backend"] == "systemd", "{status:#}");
    host.cut_power()?;
    await_running(&host)?;
    let answer = host.as_user(&[CODEXD, "uninstall"])?.success_json()?;
    ensure!(answer["status"] == "uninstalled", "{answer:#}");
    host.reboot()?;
    let units =
        host.as_user(&["systemctl", "--user", "list-units", "--all", "--plain", "--no-legend", "codex*"])?;
    ensure!(units.success() && units.stdout.is_empty(), "{units}");
    let status = await_status(&host, "no server", |status| status["state"] == "stopped")?;
    ensure!(status["backend"].is_null(), "{status:#}");
    Ok(())
}
