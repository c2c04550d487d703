//! A script between the supervisor and the app-server: the server is the process that listens, not the one that was started.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use codexd_testkit::fakes::SERVE;
use codexd_testkit::{
    Client, Codexd, Fake, Home, Layout, MockModel, Place, Process, Version, block_on, codex, limits, skip,
    until,
};
use rustix::process::Signal;
use serde_json::Value;

use crate::lifecycle::{recorded, supervisor};

/// Scripts around a Codex whose path they get as `CODEX`.
const SHELL: &str = "#!/bin/sh\nSITE=1; export SITE\n\"CODEX\" \"$@\"\nexit $?\n";
const TRAPS: &str = "#!/bin/bash\ntrap 'kill -TERM $server' TERM\ntrap 'kill -HUP $server' HUP\n\
    \"CODEX\" \"$@\" &\nserver=$!\nuntil wait $server; do kill -0 $server 2>/dev/null || break; done\n";
const NODE: &str = "#!/usr/bin/env node\nconst child = require('child_process').spawn('CODEX', process.argv.slice(2), \
    {stdio: 'inherit'});\nfor (const name of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(name, () => child.kill(name));\n\
    child.on('exit', (code, signal) => signal ? process.kill(process.pid, signal) : process.exit(code));\n";

fn wrap(home: &Home, script: &str, codex: &Path) -> anyhow::Result<PathBuf> {
    let path = home.write("wrapper", script.replace("CODEX", &codex.to_string_lossy()))?;
    fs::set_permissions(&path, Permissions::from_mode(0o755))?;
    Ok(path)
}

fn parent(pid: u32) -> anyhow::Result<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).context("a parent")?;
    Ok(parent.trim().parse()?)
}

/// The answers and the record name the process that listens.
fn assert_named(home: &Home, codexd: &Codexd<'_>, executable: &Path) -> anyhow::Result<Process> {
    let server = recorded(home)?;
    ensure!(server.executable().as_deref() == Some(executable), "{server:?} is not {executable:?}");
    let status = codexd.json(&["status"])?;
    ensure!(status["pid"] == server.pid && status["state"] == "running", "{status}");
    ensure!(status["runningIsInstalled"] == true, "{status}");
    Ok(server)
}

/// A turn has its grace; nothing is left behind.
fn a_turn_has_its_grace(version: Version, script: &str, supervisor_dies: bool) -> anyhow::Result<()> {
    let model = MockModel::start()?;
    let home = Home::with_model(&model)?;
    let codex = fs::canonicalize(codex::binary(version)?)?;
    let wrapper = wrap(&home, script, &codex)?;
    home.write("app-server-daemon/settings.json", serde_json::json!({"codexBin": wrapper}).to_string())?;
    let codexd = Codexd::new(&home)?;
    let started = codexd.json(&["start"])?;
    let server = assert_named(&home, &codexd, &codex)?;
    ensure!(started["pid"] == server.pid, "{started}");
    let script = Process::of(parent(server.pid)?).context("the wrapper lives")?;
    if supervisor_dies {
        supervisor(&home)?.signal(Signal::KILL)?;
        ensure!(codexd.json(&["start"])?["status"] == "alreadyRunning");
        ensure!(assert_named(&home, &codexd, &codex)?.pid == server.pid);
    }
    let thread = block_on(async {
        let client = Client::connect(&Place::Socket(home.control_socket()), "turns").await?;
        let thread = client.start_thread(&home.work()).await?;
        client.start_turn(&thread, "[[deltas=4 hold=turn]]").await?;
        client.wait_method("item/agentMessage/delta").await?;
        anyhow::Ok(thread)
    })?;
    let stop = codexd.spawn(&["stop", "--grace", "60"])?;
    until(limits::SERVER_READY, "the draining", || {
        codexd.json(&["status"]).ok().filter(|status| status["state"] == "draining").map(drop)
    })?;
    ensure!(server.is_alive() && script.is_alive(), "the turn still runs");
    model.release("turn");
    ensure!(stop.finish(limits::RUN)?.success_json()?["status"] == "stopped");
    home.assert_no_process_left();
    ensure!(turn_status(&home, &codexd, &thread)? == "completed", "the turn was cut");
    home.assert_no_process_left();
    Ok(())
}

fn turn_status(home: &Home, codexd: &Codexd<'_>, thread: &str) -> anyhow::Result<Value> {
    codexd.json(&["start"])?;
    let read = block_on(async {
        let client = Client::connect(&Place::Socket(home.control_socket()), "turns").await?;
        client.call("thread/read", serde_json::json!({"threadId": thread, "includeTurns": true})).await
    })?;
    codexd.json(&["stop"])?;
    Ok(read["thread"]["turns"][0]["status"].clone())
}

fn on_real_servers(script: &str, supervisor_dies: bool) -> anyhow::Result<()> {
    if let Err(reason) = codex::platform() {
        skip!("{reason}");
    }
    for version in [Version::V0_131_0, Version::V0_169_0, Version::V0_171_0] {
        a_turn_has_its_grace(version, script, supervisor_dies).with_context(|| format!("{version:?}"))?;
    }
    Ok(())
}

#[test]
fn a_turn_of_a_server_in_a_shell_script_without_exec_has_its_grace() -> anyhow::Result<()> {
    on_real_servers(SHELL, false)
}

#[test]
fn a_turn_of_a_server_in_a_script_that_traps_signals_has_its_grace() -> anyhow::Result<()> {
    on_real_servers(TRAPS, false)
}

#[test]
fn a_turn_of_a_server_in_a_script_has_its_grace_after_the_supervisor_was_killed() -> anyhow::Result<()> {
    on_real_servers(SHELL, true)
}

#[test]
fn a_turn_of_a_server_below_node_has_its_grace_period() -> anyhow::Result<()> {
    if std::process::Command::new("node").arg("--version").output().is_err() {
        skip!("no node on PATH");
    }
    on_real_servers(NODE, false)
}

fn home_with(fake: &Fake) -> anyhow::Result<Home> {
    let home = Home::new()?;
    fake.install(&home, Layout::Standalone)?;
    Ok(home)
}

fn another(home: &Home, before: &Process) -> anyhow::Result<Process> {
    until(limits::SERVER_READY, "another server", || {
        let status = Codexd::new(home).ok()?.json(&["status"]).ok()?;
        let now = recorded(home).ok().filter(|now| now.pid != before.pid)?;
        (status["state"] == "running" && status["pid"] == now.pid).then_some(now)
    })
}

#[test]
fn a_wrapper_that_stays_after_its_server_is_ended_with_it() -> anyhow::Result<()> {
    let home = home_with(&Fake::WrappedForEver)?;
    let codexd = Codexd::new(&home)?;
    codexd.json(&["start"])?;
    let server = recorded(&home)?;
    let wrapper = Process::of(parent(server.pid)?).context("the wrapper lives")?;
    server.signal(Signal::KILL)?;
    wrapper.wait_gone(limits::PROCESS_GONE)?;
    let next = another(&home, &server)?;
    let wrapper = Process::of(parent(next.pid)?).context("the next wrapper lives")?;
    ensure!(codexd.json(&["stop"])?["status"] == "stopped");
    ensure!(!wrapper.is_alive() && !next.is_alive());
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn a_server_whose_wrapper_ends_or_is_killed_goes_on_and_leaves_nothing_when_it_is_stopped()
-> anyhow::Result<()> {
    for is_killed in [false, true] {
        let home = home_with(if is_killed { &Fake::Wrapped } else { &Fake::WrapperEnds })?;
        let codexd = Codexd::new(&home)?;
        codexd.json(&["start"])?;
        let server = recorded(&home)?;
        let wrapper = Process::of(parent(server.pid)?).context("the wrapper lives")?;
        match is_killed {
            true => wrapper.signal(Signal::KILL)?,
            false => drop(home.write(SERVE, "")?),
        }
        wrapper.wait_reaped(limits::PROCESS_GONE)?;
        until(limits::SERVER_READY, "the event", || {
            let events = fs::read_to_string(home.state("events.jsonl")).ok()?;
            events.contains("child.wrapper.exited").then_some(())
        })?;
        let status = codexd.json(&["status"])?;
        ensure!(
            status["pid"] == server.pid && status["state"] == "running" && status["restarts"] == 0,
            "{status}"
        );
        // It is a child of the supervisor now: how it ends is told. The next wrapper stays.
        let _not_there = fs::remove_file(home.path().join(SERVE));
        server.signal(Signal::KILL)?;
        let next = another(&home, &server)?;
        let exit = codexd.json(&["status"])?["lastExit"].clone();
        ensure!(exit["pid"] == server.pid && exit["signal"] == 9, "{exit}");
        ensure!(codexd.json(&["stop"])?["status"] == "stopped");
        ensure!(!next.is_alive());
        home.assert_no_process_left();
    }
    Ok(())
}

#[test]
fn the_exit_code_of_a_wrapper_is_that_of_its_server() -> anyhow::Result<()> {
    let home = home_with(&Fake::Wrapped)?;
    let codexd = Codexd::new(&home)?;
    codexd.json(&["start"])?;
    let server = recorded(&home)?;
    server.signal(Signal::KILL)?;
    another(&home, &server)?;
    let exit = codexd.json(&["status"])?["lastExit"].clone();
    // A shell answers 128 and the number of the signal.
    ensure!(exit["pid"] == server.pid && exit["code"] == 137, "{exit}");
    codexd.json(&["stop"])?;
    home.assert_no_process_left();
    Ok(())
}
