//! Where `codexd run` does not run.

use anyhow::ensure;
use codexd_testkit::{Codexd, Fake, Home, Layout};
use rustix::process::Signal;

use super::fixture::Foreground;
use crate::lifecycle::{recorded, supervisor};

#[test]
fn a_home_that_another_supervisor_manages_is_refused() -> anyhow::Result<()> {
    let home = Home::new()?;
    let codexd = Codexd::new(&home)?;
    codexd.json(&["start", "--embedded"])?;
    let (server, supervisor) = (recorded(&home)?, supervisor(&home)?);
    let refused = codexd.run(&["run", "--embedded"])?;
    let error = &refused.json()?["error"];
    ensure!(refused.code() == Some(31) && error["code"] == "already-managed", "{refused}");
    ensure!(error["pid"] == supervisor.pid && error["retryable"] == false, "{error}");
    ensure!(server.is_alive() && supervisor.is_alive(), "they were ended");
    codexd.json(&["stop"])?;
    // Nor where another `codexd run` is that supervisor.
    let mut run = Foreground::spawn(&home, codexd.command(&["run", "--embedded"]))?;
    run.answer(0)?;
    let refused = codexd.run(&["run", "--embedded"])?;
    ensure!(refused.json()?["error"]["pid"] == run.process.pid, "{refused}");
    run.process.signal(Signal::TERM)?;
    ensure!(run.exit_code()? == Some(0), "{}", run.stderr());
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn a_home_that_systemd_manages_is_refused() -> anyhow::Result<()> {
    let home = Home::new()?;
    home.write("app-server-daemon/backend.json", r#"{"backend":"systemd"}"#)?;
    let refused = Codexd::new(&home)?.run(&["run", "--embedded"])?;
    ensure!(refused.code() == Some(31) && refused.stderr.contains("systemd, as codexd-"), "{refused}");
    Ok(())
}

#[test]
fn the_strategy_external_is_accepted_and_said_to_be_missing() -> anyhow::Result<()> {
    let home = Home::new()?;
    let refused = Codexd::new(&home)?.run(&["run", "--server-strategy", "external"])?;
    ensure!(refused.code() == Some(32), "{refused}");
    ensure!(refused.json()?["error"]["code"] == "unsupported-strategy", "{refused}");
    Ok(())
}

#[test]
fn a_start_that_fails_ends_run_with_its_failure() -> anyhow::Result<()> {
    let home = Home::new()?;
    let codexd = Codexd::new(&home)?;
    let missing = codexd.run(&["run", "--server-command", "/nonexistent/codex"])?;
    ensure!(missing.code() == Some(3) && missing.json()?["error"]["code"] == "codex-not-found", "{missing}");
    Fake::ExitsAtOnce("no such luck", 7).install(&home, Layout::Standalone)?;
    let exited = codexd.run(&["run"])?;
    let error = &exited.json()?["error"];
    ensure!(exited.code() == Some(6) && error["code"] == "server-exited", "{exited}");
    ensure!(error["exitCode"] == 7 && error["errorLine"] == "no such luck", "{error}");
    ensure!(!exited.output_leaked, "{exited}");
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn a_configuration_that_is_refused_starts_nothing() -> anyhow::Result<()> {
    let home = Home::new()?;
    let codexd = Codexd::new(&home)?;
    let bad = codexd.run(&["run", "--mode", "exce"])?;
    ensure!(bad.code() == Some(2) && bad.stderr.contains("`exec`"), "{bad}");
    for number in ["05", "+5", " 5", "5x", "1e3", "-1", "0", "100001", ""] {
        let bad = codexd.run(&["run", &format!("--event-cache-size={number}")])?;
        ensure!(bad.code() == Some(2) && bad.stderr.contains("--event-cache-size"), "{number:?}: {bad}");
    }
    for name in ["CODEXD_SMOKE_LIFETIME_MS", "BAA_CODEXD_SMOKE_LIFETIME_MS"] {
        let bad = codexd.clone().env(name, "1e3").run(&["run", "--run-once"])?;
        ensure!(bad.code() == Some(30) && bad.stderr.contains(name), "{bad}");
    }
    ensure!(!home.state("supervisor.lock").exists(), "no supervisor was there");
    Ok(())
}
