//! `memoryCeiling`: a server that holds too much memory is replaced.

use std::fs;

use anyhow::ensure;
use codexd_testkit::{Codexd, Home, until};
use rustix::process::Signal;

use super::fixture::{Foreground, events, next_server};
use crate::lifecycle::{SOON, recorded, supervisor};

#[test]
fn a_server_above_its_ceiling_is_replaced_with_its_environment() -> anyhow::Result<()> {
    let home = Home::new()?;
    let codexd = Codexd::new(&home)?.env("ONLY_OF_THE_CALLER", "kept");
    codexd.json(&["config", "set", "memoryCeiling", "1"])?;
    codexd.json(&["start", "--embedded"])?;
    let (before, manager) = (recorded(&home)?, supervisor(&home)?);
    let after = next_server(&home, &before)?;
    let found = events(&home, "server.memoryCeiling");
    ensure!(found.len() == 1, "{found:?}");
    let detail = &found[0]["detail"];
    ensure!(detail["pid"] == before.pid && detail["memoryCeiling"] == 1, "{detail}");
    ensure!(detail["residentMib"].as_u64() > Some(1), "{detail}");
    let environment = fs::read(format!("/proc/{}/environ", after.pid))?;
    ensure!(String::from_utf8_lossy(&environment).contains("ONLY_OF_THE_CALLER=kept"), "its environment");
    before.wait_gone(SOON)?;
    ensure!(supervisor(&home)?.pid == manager.pid, "the supervisor stays");
    codexd.json(&["stop"])?;
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn run_replaces_a_server_above_its_ceiling_too() -> anyhow::Result<()> {
    let home = Home::new()?;
    let codexd = Codexd::new(&home)?.env("CODEXD_MEMORY_CEILING", "1");
    let mut run = Foreground::spawn(&home, codexd.command(&["run", "--embedded"]))?;
    run.answer(0)?;
    let before = recorded(&home)?;
    next_server(&home, &before)?;
    until(SOON, "the event", || run.stderr().contains("server.memoryCeiling: ").then_some(()))?;
    run.process.signal(Signal::TERM)?;
    ensure!(run.exit_code()? == Some(0), "{}", run.stderr());
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn a_server_below_its_ceiling_stays() -> anyhow::Result<()> {
    let home = Home::new()?;
    let codexd = Codexd::new(&home)?.env("CODEXD_MEMORY_CEILING", "100000");
    let arguments = ["run", "--embedded", "--run-once", "--smoke-lifetime-ms", "6000"];
    let run = codexd.run(&arguments)?;
    ensure!(run.success() && events(&home, "server.memoryCeiling").is_empty(), "{run}");
    Ok(())
}
