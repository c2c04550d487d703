//! `codexd run` in a terminal and in a container.

mod fixture;
mod init;
mod memory;
mod options;
mod refused;
mod signals;
mod terminal;
mod turns;

use anyhow::ensure;
use codexd_testkit::{Codexd, Home};
use rustix::process::Signal;

use crate::lifecycle::recorded;
use fixture::Foreground;

#[test]
fn run_prints_the_snapshot_serves_and_prints_the_end_state() -> anyhow::Result<()> {
    for signal in [Signal::TERM, Signal::INT, Signal::QUIT] {
        let home = Home::new()?;
        let codexd = Codexd::new(&home)?;
        let mut run = Foreground::spawn(&home, codexd.command(&["run", "--embedded"]))?;
        let first = run.answer(0)?;
        ensure!(first["status"] == "running" && first["state"] == "running", "{first:#}");
        ensure!(first["supervisorPid"] == run.process.pid && first["backend"] == "pid", "{first:#}");
        let server = recorded(&home)?;
        ensure!(first["pid"] == server.pid, "{first:#}");
        // Other commands work on it as on any other supervisor.
        ensure!(codexd.json(&["start"])?["status"] == "alreadyRunning", "started twice");
        ensure!(codexd.json(&["status"])?["problems"] == serde_json::json!([]), "problems");
        run.process.signal(signal)?;
        ensure!(run.exit_code()? == Some(0), "{}", run.stderr());
        let last = run.answer(1)?;
        ensure!(last["status"] == "notRunning" && last["state"] == "stopped", "{last:#}");
        ensure!(last["supervisorPid"].is_null() && run.answers()?.len() == 2, "{last:#}");
        ensure!(!server.is_alive(), "the server ended with it");
        home.assert_no_process_left();
    }
    Ok(())
}

#[test]
fn run_once_ends_after_its_lifetime() -> anyhow::Result<()> {
    let home = Home::new()?;
    let codexd = Codexd::new(&home)?;
    let arguments = ["run", "--embedded", "--run-once", "--smoke-lifetime-ms", "700"];
    let mut run = Foreground::spawn(&home, codexd.command(&arguments))?;
    let printed = std::time::Instant::now();
    ensure!(run.answer(0)?["state"] == "running", "{}", run.stderr());
    ensure!(run.exit_code()? == Some(0), "{}", run.stderr());
    ensure!(run.answer(1)?["state"] == "stopped", "{}", run.stderr());
    ensure!(printed.elapsed().as_millis() >= 700, "it ended after {:?}", printed.elapsed());
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn a_stop_from_elsewhere_ends_run() -> anyhow::Result<()> {
    let home = Home::new()?;
    let codexd = Codexd::new(&home)?;
    let mut run = Foreground::spawn(&home, codexd.command(&["run", "--embedded"]))?;
    run.answer(0)?;
    ensure!(codexd.json(&["stop"])?["status"] == "stopped", "stopped");
    ensure!(run.exit_code()? == Some(0) && run.answer(1)?["state"] == "stopped", "{}", run.stderr());
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn a_crash_is_answered_as_by_any_supervisor() -> anyhow::Result<()> {
    let home = Home::new()?;
    let codexd = Codexd::new(&home)?;
    let mut run = Foreground::spawn(&home, codexd.command(&["run", "--embedded"]))?;
    run.answer(0)?;
    let server = recorded(&home)?;
    server.signal(Signal::KILL)?;
    let next = fixture::next_server(&home, &server)?;
    ensure!(next.parent == run.process.pid, "{next:?}");
    run.process.signal(Signal::TERM)?;
    ensure!(run.exit_code()? == Some(0), "{}", run.stderr());
    ensure!(run.stderr().contains("child.exited: "), "events are on stderr: {}", run.stderr());
    Ok(())
}

#[test]
fn mode_exec_starts_no_server() -> anyhow::Result<()> {
    let home = Home::new()?;
    let codexd = Codexd::new(&home)?;
    let mut run = Foreground::spawn(&home, codexd.command(&["run", "--mode", "exec"]))?;
    ensure!(run.answer(0)?["state"] == "stopped", "{}", run.stderr());
    let mut processes = home.processes();
    processes.retain(|process| process.command.contains("app-server"));
    ensure!(processes.is_empty() && run.process.is_alive(), "{processes:?}");
    // SIGHUP replaces a server, and starts none. Both signals may arrive before the supervisor looks.
    run.process.signal(Signal::HUP)?;
    run.process.signal(Signal::TERM)?;
    ensure!(run.exit_code()? == Some(0) && run.answers()?.len() == 2, "{}", run.stderr());
    ensure!(fixture::events(&home, "child.started").is_empty(), "{}", run.stderr());
    ensure!(run.stderr().contains("received a signal: no app-server runs"), "{}", run.stderr());
    home.assert_no_process_left();
    Ok(())
}
