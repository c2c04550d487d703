//! What signals do to `codexd run`.

use anyhow::ensure;
use codexd_testkit::{Codexd, Fake, Home, Layout, until};
use rustix::process::Signal;

use super::fixture::{Foreground, events, next_server};
use crate::lifecycle::{SOON, recorded};

#[test]
fn the_first_signal_drains_and_the_second_forces() -> anyhow::Result<()> {
    let home = Home::new()?;
    Fake::IgnoresSigterm.install(&home, Layout::Standalone)?;
    let codexd = Codexd::new(&home)?;
    let mut run = Foreground::spawn(&home, codexd.command(&["run"]))?;
    run.answer(0)?;
    let server = recorded(&home)?;
    run.process.signal(Signal::TERM)?;
    until(SOON, "the drain", || (codexd.json(&["status"]).ok()?["state"] == "draining").then_some(()))?;
    ensure!(events(&home, "daemon.stopping").len() == 1, "{}", run.stderr());
    ensure!(server.is_alive(), "the grace period of 60 s is not over");
    let refused = codexd.run(&["start"])?;
    ensure!(!refused.success() && refused.stderr.contains("`codexd run` is ending"), "{refused}");
    run.process.signal(Signal::INT)?;
    // Long before the end of the grace period.
    ensure!(run.exit_code()? == Some(0) && run.answer(1)?["state"] == "stopped", "{}", run.stderr());
    ensure!(events(&home, "daemon.stopping").len() == 2, "{}", run.stderr());
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn a_grace_period_of_the_environment_counts() -> anyhow::Result<()> {
    let home = Home::new()?;
    Fake::IgnoresSigterm.install(&home, Layout::Standalone)?;
    let codexd = Codexd::new(&home)?.env("CODEXD_STOP_GRACE_SECONDS", "0");
    let mut run = Foreground::spawn(&home, codexd.command(&["run"]))?;
    run.answer(0)?;
    run.process.signal(Signal::TERM)?;
    ensure!(run.exit_code()? == Some(0), "{}", run.stderr());
    ensure!(run.stderr().contains("have 0 s to finish"), "{}", run.stderr());
    Ok(())
}

#[test]
fn sighup_replaces_the_server_and_keeps_its_options() -> anyhow::Result<()> {
    let home = Home::new()?;
    Fake::Healthy.install(&home, Layout::Standalone)?;
    let codexd = Codexd::new(&home)?;
    let arguments = ["run", "--server-arg", "app-server", "--server-arg", "-c", "--server-arg", "marked=1"];
    let mut run = Foreground::spawn(&home, codexd.command(&arguments))?;
    run.answer(0)?;
    let before = recorded(&home)?;
    ensure!(before.command.contains("-c marked=1"), "{before:?}");
    run.process.signal(Signal::HUP)?;
    let after = next_server(&home, &before)?;
    ensure!(after.command.contains("-c marked=1") && run.process.is_alive(), "{after:?}");
    before.wait_gone(SOON)?;
    run.process.signal(Signal::TERM)?;
    ensure!(run.exit_code()? == Some(0) && run.answers()?.len() == 2, "{}", run.stderr());
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn a_signal_during_the_start_leaves_no_process() -> anyhow::Result<()> {
    let home = Home::new()?;
    Fake::NeverListens.install(&home, Layout::Standalone)?;
    let codexd = Codexd::new(&home)?;
    let mut run = Foreground::spawn(&home, codexd.command(&["run"]))?;
    until(SOON, "the server", || (!events(&home, "child.started").is_empty()).then_some(()))?;
    run.process.signal(Signal::TERM)?;
    ensure!(run.exit_code()? == Some(0), "{}", run.stderr());
    ensure!(run.answers()?.len() == 1 && run.answer(0)?["state"] == "stopped", "{:?}", run.answers());
    home.assert_no_process_left();
    Ok(())
}
