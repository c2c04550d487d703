//! `codexd run` in the foreground of a terminal.

use std::process::Command;

use anyhow::{Context, ensure};
use codexd_testkit::pty::{Terminal, run_on_terminal};
use codexd_testkit::{Codexd, Fake, Home, Layout, codexd, limits, until};

use super::fixture::events;
use crate::lifecycle::{SOON, recorded};

/// `codexd run` as the program that gets the signals of its terminal.
fn in_the_foreground(home: &Home, arguments: &[&str]) -> anyhow::Result<Command> {
    let mut command = home.command("setsid");
    command.arg("--ctty").arg(codexd::binary()?).arg("run").args(arguments);
    Ok(command)
}

fn await_text(terminal: &mut Terminal, text: &str) -> anyhow::Result<()> {
    let found = until(SOON, text, || terminal.text().contains(text).then_some(()));
    found.with_context(|| terminal.text())
}

fn exit_code(terminal: &mut Terminal) -> anyhow::Result<Option<i32>> {
    let status = until(SOON, "the end", || {
        let _read = terminal.text();
        terminal.status()
    });
    Ok(status.with_context(|| terminal.text())?.code())
}

#[test]
fn on_a_terminal_run_prints_text() -> anyhow::Result<()> {
    let home = Home::new()?;
    let codexd = Codexd::new(&home)?;
    let (status, text) = run_on_terminal(codexd.command(&["run", "--embedded", "--run-once"]), limits::RUN)?;
    ensure!(status.success(), "{text}");
    ensure!(text.contains("running") && text.contains("stopped") && !text.contains("{\""), "{text}");
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn the_first_ctrl_c_drains_and_the_second_forces() -> anyhow::Result<()> {
    let home = Home::new()?;
    Fake::IgnoresSigterm.install(&home, Layout::Standalone)?;
    let mut terminal = Terminal::spawn(in_the_foreground(&home, &[])?)?;
    await_text(&mut terminal, "running")?;
    let server = recorded(&home)?;
    terminal.press(b"\x03")?;
    await_text(&mut terminal, "60 s to finish; another signal ends the app-server at once")?;
    ensure!(server.is_alive() && terminal.status().is_none(), "{}", terminal.text());
    terminal.press(b"\x03")?;
    ensure!(exit_code(&mut terminal)? == Some(0), "{}", terminal.text());
    await_text(&mut terminal, "stopped")?;
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn a_terminal_that_is_closed_ends_run() -> anyhow::Result<()> {
    let home = Home::new()?;
    let mut terminal = Terminal::spawn(in_the_foreground(&home, &["--embedded"])?)?;
    await_text(&mut terminal, "running")?;
    terminal.close();
    ensure!(exit_code(&mut terminal)? == Some(0), "the exit code");
    let why = events(&home, "daemon.stopping");
    let message = why.first().and_then(|event| event["message"].as_str()).unwrap_or_default();
    ensure!(message.starts_with("the terminal was closed"), "{why:?}");
    home.assert_no_process_left();
    Ok(())
}
