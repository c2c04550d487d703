//! Servers that do not leave as they should, and what they leave behind.

use std::time::Duration;

use codexd_testkit::{Codexd, Fake, Home, Layout, limits, until};
use rustix::process::Signal;
use serde_json::{Value, json};

fn home_with(fake: &Fake) -> anyhow::Result<Home> {
    let home = Home::new()?;
    fake.install(&home, Layout::Standalone)?;
    Ok(home)
}

#[test]
fn stop_ends_a_server_that_ignores_sigterm() -> anyhow::Result<()> {
    let home = home_with(&Fake::IgnoresSigterm)?;
    let codexd = Codexd::new(&home)?;
    codexd.json(&["start"])?;
    let run = codexd.run(&["stop", "--grace", "1"])?;
    assert_eq!(run.success_json()?["status"], "stopped");
    assert!(run.wall >= Duration::from_secs(1), "it was not given its grace: {run}");
    // The grace and a second, and a second more for a busy machine.
    assert!(run.wall < Duration::from_secs(3), "it was given more than its grace: {run}");
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn a_busy_server_gets_more_time_to_answer() -> anyhow::Result<()> {
    // Longer than one that does nothing is waited for.
    let home = home_with(&Fake::ComputesAtStart(31))?;
    let codexd = Codexd::new(&home)?;
    let run = codexd.run(&["start"])?;
    assert_eq!(run.success_json()?["status"], "started", "{run}");
    codexd.json(&["stop"])?;
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn stop_ends_what_the_server_started() -> anyhow::Result<()> {
    let home = home_with(&Fake::LeavesGrandchildren)?;
    let codexd = Codexd::new(&home)?;
    codexd.json(&["start"])?;
    let sleepers = || home.processes().into_iter().filter(|process| process.command.starts_with("sleep"));
    until(limits::PROCESS_GONE, "both grandchildren", || (sleepers().count() == 2).then_some(()))?;
    assert_eq!(codexd.json(&["stop"])?["status"], "stopped");
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn status_is_draining_while_stop_ends_the_processes_of_the_server() -> anyhow::Result<()> {
    let home = home_with(&Fake::LeavesStubbornGrandchild)?;
    let codexd = Codexd::new(&home)?;
    codexd.json(&["start"])?;
    let stop = codexd.spawn(&["stop"])?;
    let mut seen = Vec::new();
    while !stop.ends_within(Duration::ZERO)? {
        let status = codexd.json(&["status"])?;
        seen.push((status["state"].clone(), status["problems"].clone()));
    }
    stop.finish(limits::RUN)?.success_json()?;
    seen.dedup();
    let healthy = |(state, problems): &(Value, Value)| {
        ["running", "draining", "stopped"].iter().any(|known| state == known) && *problems == json!([])
    };
    assert!(seen.iter().all(healthy), "{seen:?}");
    assert!(seen.iter().any(|(state, _)| state == "draining"), "no `status` came in time: {seen:?}");
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn a_crashed_server_leaves_nothing_beside_its_successor() -> anyhow::Result<()> {
    let home = home_with(&Fake::LeavesGrandchildren)?;
    let codexd = Codexd::new(&home)?;
    let first = codexd.json(&["start"])?["pid"].clone();
    let before = home.processes();
    let server = before.iter().find(|process| first == process.pid).expect("it runs");
    server.signal(Signal::KILL)?;
    let successor = until(limits::SERVER_READY, "the successor", || {
        let status = codexd.json(&["status"]).ok()?;
        (status["state"] == "running" && status["pid"] != first).then(|| status["pid"].clone())
    })?;
    let stays = |command: &str| command.contains(" supervisor ") || command.contains(" gateway ");
    let old: Vec<_> = before.iter().filter(|process| !stays(&process.command)).collect();
    until(limits::PROCESS_GONE, "the end of the first generation", || {
        old.iter().all(|process| !process.is_alive()).then_some(())
    })?;
    assert_ne!(successor, first);
    codexd.json(&["stop"])?;
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn start_gives_up_on_an_unresponsive_server_and_leaves_nothing() -> anyhow::Result<()> {
    let home = home_with(&Fake::Unresponsive)?;
    let run = Codexd::new(&home)?.run(&["start"])?;
    assert_eq!(run.json()?["error"]["code"], "start-timeout", "{run}");
    home.assert_no_process_left();
    Ok(())
}
