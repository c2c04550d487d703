//! The gateway as a program that the supervisor keeps: it may die, the supervisor may die, both may; who connects is served.

mod gateway_setting;
mod generations;
mod listener;
mod unauthenticated_clients;

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use codexd_protocol::{probe, unix};
use codexd_testkit::{Codexd, Fake, Home, Layout, Process, until};
use rustix::process::Signal;
use serde_json::Value;

use crate::lifecycle::{SOON, recorded, supervisor};

/// A home in which `codexd start` finds a healthy server, with that server started.
fn started() -> anyhow::Result<Home> {
    let home = Home::new()?;
    Fake::Healthy.install(&home, Layout::Standalone)?;
    Codexd::new(&home)?.json(&["start"])?;
    Ok(home)
}

/// The gateway, by what the supervisor wrote.
pub fn gateway(home: &Home) -> anyhow::Result<Process> {
    let state: Value = serde_json::from_slice(&std::fs::read(home.state("supervisor.json"))?)?;
    let pid = state["gateway"]["process"]["pid"].as_u64().context("the supervisor names a gateway")?;
    Process::of(u32::try_from(pid)?).with_context(|| format!("the gateway {pid} lives"))
}

fn kill(process: &Process) -> anyhow::Result<()> {
    process.signal(Signal::KILL)?;
    process.wait_gone(SOON)
}

/// `initialize` is answered on the control socket: by whom it is listened on.
fn answered(home: &Home) -> anyhow::Result<u32> {
    let answer = probe::ask(&home.control_socket(), "1", SOON)?;
    answer.peer.pid.context("a listener that can be seen")
}

#[test]
fn a_killed_gateway_is_replaced_while_clients_wait_and_none_is_refused() -> anyhow::Result<()> {
    // Enough, and few enough for the descriptors of a process, however long the gateway takes to die.
    const WAITING_MAX: usize = 500;
    let home = started()?;
    let server = recorded(&home)?;
    for _ in 0..3 {
        let old = gateway(&home)?;
        ensure!(answered(&home)? == old.pid, "clients are told that the gateway listens");
        old.signal(Signal::KILL)?;
        // From the very moment on.
        let mut waiting = Vec::new();
        while waiting.len() < 100 || (waiting.len() < WAITING_MAX && old.is_alive()) {
            waiting.push(unix::connect(&home.control_socket()).context("a client was refused")?);
        }
        old.wait_gone(SOON)?;
        let began = Instant::now();
        for client in waiting.into_iter().take(20) {
            probe::ask_on(client, "1", SOON).context("a client that waited was not served")?;
        }
        eprintln!("20 clients that waited were served within {:?}", began.elapsed());
        let new = until(SOON, "the next gateway", || gateway(&home).ok().filter(|new| new.pid != old.pid))?;
        ensure!(new.is_alive() && recorded(&home)?.pid == server.pid, "the server is the same");
    }
    Codexd::new(&home)?.json(&["stop"])?;
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn a_killed_supervisor_costs_no_client_and_the_next_one_gets_the_socket_back() -> anyhow::Result<()> {
    let home = started()?;
    let codexd = Codexd::new(&home)?;
    let (server, gateway_process) = (recorded(&home)?, gateway(&home)?);
    kill(&supervisor(&home)?)?;
    ensure!(answered(&home)? == gateway_process.pid, "the gateway goes on");
    let adopted = codexd.json(&["start"])?;
    assert_eq!(
        (&adopted["status"], &adopted["repairs"][0]["found"]),
        (&"alreadyRunning".into(), &"lost-supervisor".into())
    );
    assert_eq!(
        (recorded(&home)?.pid, gateway(&home)?.pid),
        (server.pid, gateway_process.pid),
        "both were taken over"
    );
    // The gateway has to have noticed: it says so to the supervisor, which says so to `status`.
    let status = codexd.json(&["status"])?;
    assert_eq!(
        (&status["gateway"]["state"], &status["gateway"]["pid"]),
        (&"running".into(), &gateway_process.pid.into())
    );
    kill(&gateway_process)?;
    unix::connect(&home.control_socket()).context("the socket outlives the gateway")?;
    until(SOON, "the next gateway", || gateway(&home).ok().filter(|new| new.pid != gateway_process.pid))?;
    answered(&home)?;
    assert_eq!(codexd.json(&["stop"])?["status"], "stopped");
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn a_supervisor_and_its_gateway_killed_together_are_replaced_by_the_next_command() -> anyhow::Result<()> {
    for command in ["start", "restart", "stop"] {
        let home = started()?;
        let codexd = Codexd::new(&home)?;
        let (server, gateway_process) = (recorded(&home)?, gateway(&home)?);
        kill(&supervisor(&home)?)?;
        kill(&gateway_process)?;
        ensure!(server.is_alive(), "a gateway is no parent of the server");
        let status = codexd.json(&["status"])?;
        assert_eq!(status["gateway"]["state"], "missing", "{status}");
        let done = codexd.json(&[command])?;
        if command == "stop" {
            assert_eq!(done["status"], "stopped", "{done}");
        } else {
            assert_eq!(answered(&home)?, gateway(&home)?.pid, "{command}");
            assert_eq!(recorded(&home)?.pid == server.pid, command == "start");
            codexd.json(&["stop"])?;
        }
        home.assert_no_process_left();
    }
    Ok(())
}

#[test]
fn a_gateway_without_supervisor_and_server_is_adopted_or_ended() -> anyhow::Result<()> {
    for command in ["start", "restart", "stop"] {
        let home = started()?;
        let codexd = Codexd::new(&home)?;
        let gateway_process = gateway(&home)?;
        kill(&supervisor(&home)?)?;
        kill(&recorded(&home)?)?;
        // What the supervisor knew of it is lost, too.
        std::fs::remove_file(home.state("supervisor.json"))?;
        codexd.json(&[command])?;
        if command == "stop" {
            ensure!(!gateway_process.is_alive(), "stop left the gateway");
        } else {
            assert_eq!(answered(&home)?, gateway_process.pid, "{command} has taken it over");
            codexd.json(&["stop"])?;
        }
        home.assert_no_process_left();
    }
    Ok(())
}

#[test]
fn a_server_that_crashes_is_restarted_behind_the_same_gateway() -> anyhow::Result<()> {
    let home = started()?;
    let (server, gateway_process) = (recorded(&home)?, gateway(&home)?);
    let held = unix::connect(&home.control_socket())?;
    kill(&server)?;
    let now = until(SOON, "the successor", || recorded(&home).ok().filter(|now| now.pid != server.pid))?;
    assert_eq!(answered(&home)?, gateway_process.pid);
    probe::ask_on(held, "1", SOON).context("a client from before the crash is served")?;
    // The supervisor writes the record first and its own state right after: on a busy machine a client may be served in between.
    until(SOON, "the supervisor's word of the successor", || {
        let state: Value =
            serde_json::from_slice(&std::fs::read(home.state("supervisor.json")).ok()?).ok()?;
        (state["server"]["pid"] == now.pid).then_some(())
    })?;
    Codexd::new(&home)?.json(&["stop"])?;
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn start_creates_a_removed_control_socket_again() -> anyhow::Result<()> {
    let home = started()?;
    let codexd = Codexd::new(&home)?;
    std::fs::remove_file(home.control_socket())?;
    let server = recorded(&home)?;
    let healed = codexd.json(&["start"])?;
    assert_eq!(healed["status"], "alreadyRunning", "{healed}");
    answered(&home)?;
    assert_eq!(recorded(&home)?.pid, server.pid, "the server goes on");
    codexd.json(&["stop"])?;
    home.assert_no_process_left();
    Ok(())
}

/// What is waited for in these tests comes at once; this is for what must not come.
pub(crate) const A_WHILE: Duration = Duration::from_millis(300);
