//! Several generations at a time, ordered as the commands and the gateway do it: a JSON object a line on the supervisor's socket.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use codexd_protocol::{probe, unix};
use codexd_testkit::{Codexd, Home, Process, codexd, until};
use serde_json::{Value, json};

use super::{A_WHILE, answered, gateway, kill, started};

use crate::lifecycle::{SOON, recorded, supervisor};

/// A line to the supervisor.
struct Line {
    reader: BufReader<UnixStream>,
}

impl Line {
    fn to_the_supervisor(home: &Home) -> anyhow::Result<Line> {
        let stream = UnixStream::connect(home.state("supervisor.sock"))?;
        stream.set_read_timeout(Some(SOON))?;
        let mut line = Line { reader: BufReader::new(stream) };
        // From here on it hears everything.
        line.report("generations", |_| true)?;
        Ok(line)
    }

    fn order(&mut self, order: &Value) -> anyhow::Result<()> {
        Ok(writeln!(self.reader.get_mut(), "{order}")?)
    }

    /// The next report of a kind.
    fn report(&mut self, kind: &str, is_it: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        loop {
            let mut line = String::new();
            ensure!(self.reader.read_line(&mut line)? > 0, "the supervisor has left before it said {kind}");
            let report: Value = serde_json::from_str(&line)?;
            if report["report"] == kind && is_it(&report) {
                return Ok(report);
            }
        }
    }

    /// Waits for the process with this role.
    fn with_role(&mut self, role: &str) -> anyhow::Result<Value> {
        let one = |report: &Value| {
            let mut all = report["generations"].as_array().into_iter().flatten();
            all.find(|generation| generation["role"] == role).cloned()
        };
        one(&self.report("generations", |report| one(report).is_some())?).context("found a moment ago")
    }
}

fn socket(home: &Home, nth: u32) -> PathBuf {
    home.path().join(format!("app-server-control/app-server-{nth}.sock"))
}

/// Another app-server for this home, as a program.
fn program(home: &Home, nth: u32) -> anyhow::Result<Value> {
    let socket = socket(home, nth);
    let listen = format!("unix://{}", socket.display());
    Ok(json!({
        "executable": codexd::binary()?, "args": ["embedded-app-server", "--listen", listen],
        "env": [["CODEX_HOME", home.path()], ["HOME", home.profile()]], "cwd": home.work(), "embedded": true,
        "socket": socket, "version": "2"
    }))
}

fn process(generation: &Value) -> anyhow::Result<Process> {
    let pid = generation["pid"].as_u64().context("a pid")?;
    Process::of(u32::try_from(pid)?).context("it lives")
}

fn answers(home: &Home, nth: u32) -> anyhow::Result<()> {
    until(SOON, "the answer of a generation", || probe::ask(&socket(home, nth), "1", SOON).ok()).map(drop)
}

/// Starts a successor beside the server of a home and promotes it.
fn succeed(home: &Home, nth: u32) -> anyhow::Result<(Process, Process)> {
    let before = recorded(home)?;
    let mut line = Line::to_the_supervisor(home)?;
    line.order(&json!({"order": "succeed", "program": program(home, nth)?}))?;
    let successor = line.with_role("successor")?;
    ensure!(recorded(home)?.pid == before.pid, "it is not promoted yet");
    answers(home, nth)?;
    line.order(&json!({"order": "promote", "generation": successor["mark"]}))?;
    line.report("state", |state| state["pid"] == successor["pid"])?;
    let after = recorded(home)?;
    ensure!(
        successor["pid"] == after.pid && before.is_alive(),
        "the record names the new one; the old one goes on"
    );
    Ok((before, after))
}

fn roles(home: &Home) -> anyhow::Result<Vec<(u64, String)>> {
    let status = Codexd::new(home)?.json(&["status"])?;
    let generations = status["generations"].as_array().context("a list")?.clone();
    let role = |one: &Value| Some((one["pid"].as_u64()?, one["role"].as_str()?.to_owned()));
    Ok(generations.iter().filter_map(role).collect())
}

fn mark(home: &Home, process: &Process) -> anyhow::Result<Value> {
    let state: Value = serde_json::from_slice(&std::fs::read(home.state("supervisor.json"))?)?;
    let others = state["others"].as_array().context("a list")?;
    let other = others.iter().find(|other| other["process"]["pid"] == process.pid);
    Ok(other.context("the supervisor has written down whom it keeps")?["generation"].clone())
}

#[test]
fn a_promoted_successor_serves_and_the_outgoing_one_leaves_when_it_is_retired() -> anyhow::Result<()> {
    let home = started()?;
    let gateway_process = gateway(&home)?;
    let paused = gateway(&home)?.pause()?;
    let (before, after) = succeed(&home, 7)?;
    assert_eq!(
        roles(&home)?,
        [(after.pid.into(), "current".to_owned()), (before.pid.into(), "outgoing".to_owned())]
    );
    let mut line = Line::to_the_supervisor(&home)?;
    line.order(&json!({"order": "retire", "generation": mark(&home, &before)?}))?;
    before.wait_gone(SOON)?;
    line.report("retired", |_| true)?;
    ensure!(!socket(&home, 1).exists(), "its socket is gone with it");
    let events = std::fs::read_to_string(home.state("events.jsonl"))?;
    ensure!(events.contains(r#""type":"generation.retired""#), "{events}");
    drop(paused);
    assert_eq!(answered(&home)?, gateway_process.pid, "the gateway is the same");
    // The new one is missed when it ends, as the old one was.
    kill(&after)?;
    until(SOON, "its successor", || recorded(&home).ok().filter(|now| now.pid != after.pid))?;
    Codexd::new(&home)?.json(&["stop"])?;
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn an_outgoing_one_that_dies_is_not_started_again() -> anyhow::Result<()> {
    let home = started()?;
    let paused = gateway(&home)?.pause()?;
    let (before, after) = succeed(&home, 7)?;
    let mut line = Line::to_the_supervisor(&home)?;
    kill(&before)?;
    line.report("retired", |_| true)?;
    drop(paused);
    assert_eq!(roles(&home)?, [(after.pid.into(), "current".to_owned())]);
    Codexd::new(&home)?.json(&["stop"])?;
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn a_successor_that_dies_or_cannot_be_started_changes_nothing() -> anyhow::Result<()> {
    let home = started()?;
    let server = recorded(&home)?;
    let mut line = Line::to_the_supervisor(&home)?;
    for (executable, told) in [("/bin/false", "successorEnded"), ("/nonexistent", "successorFailed")] {
        let mut program = program(&home, 7)?;
        program["executable"] = executable.into();
        line.order(&json!({"order": "succeed", "program": program}))?;
        line.report(told, |_| true)?;
        assert_eq!(roles(&home)?, [(server.pid.into(), "current".to_owned())]);
        answered(&home)?;
    }
    assert_eq!(recorded(&home)?.pid, server.pid);
    Codexd::new(&home)?.json(&["stop"])?;
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn a_successor_whose_command_is_gone_or_that_is_withdrawn_leaves_nothing() -> anyhow::Result<()> {
    let home = started()?;
    let server = recorded(&home)?;
    for withdrawn in [true, false] {
        let mut line = Line::to_the_supervisor(&home)?;
        line.order(&json!({"order": "succeed", "program": program(&home, 7)?}))?;
        let successor = line.with_role("successor")?;
        let process = process(&successor)?;
        if withdrawn {
            line.order(&json!({"order": "withdraw", "generation": successor["mark"]}))?;
        }
        drop(line);
        process.wait_gone(SOON)?;
        until(SOON, "the supervisor to know", || {
            (roles(&home).ok()? == [(server.pid.into(), "current".to_owned())]).then_some(())
        })?;
    }
    assert_eq!(recorded(&home)?.pid, server.pid);
    Codexd::new(&home)?.json(&["stop"])?;
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn a_restart_waits_for_the_successor_that_a_killed_command_has_left() -> anyhow::Result<()> {
    let home = started()?;
    let server = recorded(&home)?;
    let mut line = Line::to_the_supervisor(&home)?;
    let mut stubborn = program(&home, 7)?;
    stubborn["executable"] = "/bin/sh".into();
    stubborn["args"] = json!(["-c", "trap '' TERM; while :; do sleep 0.1; done"]);
    line.order(&json!({"order": "succeed", "program": stubborn}))?;
    let successor = process(&line.with_role("successor")?)?;
    drop(line);
    assert_eq!(Codexd::new(&home)?.json(&["restart"])?["status"], "restarted");
    ensure!(!successor.is_alive() && recorded(&home)?.pid != server.pid);
    Codexd::new(&home)?.json(&["stop"])?;
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn a_killed_supervisor_leaves_every_generation_to_the_next_one() -> anyhow::Result<()> {
    for command in ["start", "restart", "stop"] {
        let home = started()?;
        let codexd = Codexd::new(&home)?;
        let gateway_process = gateway(&home)?;
        let paused = gateway(&home)?.pause()?;
        let (before, after) = succeed(&home, 7)?;
        kill(&supervisor(&home)?)?;
        ensure!(before.is_alive() && after.is_alive() && gateway_process.is_alive());
        drop(paused);
        let done = codexd.json(&[command, if command == "restart" { "--now" } else { "--json" }])?;
        match command {
            "start" => {
                assert_eq!(done["status"], "alreadyRunning", "{done}");
                assert_eq!(recorded(&home)?.pid, after.pid, "the promoted one is the current one");
                assert_eq!(
                    (answered(&home)?, gateway(&home)?.pid),
                    (gateway_process.pid, gateway_process.pid)
                );
                // The gateway finds that it holds nothing, and the next supervisor knows it well enough to end it.
                before.wait_gone(SOON)?;
                codexd.json(&["stop"])?;
            }
            "restart" => {
                ensure!(!before.is_alive() && !after.is_alive(), "restart --now leaves no old server");
                answered(&home)?;
                codexd.json(&["stop"])?;
            }
            _ => assert_eq!(done["status"], "stopped", "{done}"),
        }
        home.assert_no_process_left();
    }
    Ok(())
}

#[test]
fn a_successor_that_a_killed_supervisor_has_started_is_ended_by_the_next_one() -> anyhow::Result<()> {
    let home = started()?;
    let server = recorded(&home)?;
    let mut line = Line::to_the_supervisor(&home)?;
    line.order(&json!({"order": "succeed", "program": program(&home, 7)?}))?;
    let successor = process(&line.with_role("successor")?)?;
    kill(&supervisor(&home)?)?;
    assert_eq!(Codexd::new(&home)?.json(&["start"])?["status"], "alreadyRunning");
    successor.wait_gone(SOON)?;
    assert_eq!(recorded(&home)?.pid, server.pid);
    Codexd::new(&home)?.json(&["stop"])?;
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn relayed_reports_of_the_gateway_reach_all_other_clients() -> anyhow::Result<()> {
    let home = started()?;
    let (mut teller, mut listener) = (Line::to_the_supervisor(&home)?, Line::to_the_supervisor(&home)?);
    let value = json!({"handover": {"state": "completed", "anything": [1, null]}});
    teller.order(&json!({"order": "relay", "value": value}))?;
    assert_eq!(listener.report("relayed", |_| true)?["value"], value);
    teller.reader.get_ref().set_read_timeout(Some(A_WHILE))?;
    ensure!(teller.report("relayed", |_| true).is_err(), "it hears nothing of its own");
    unix::connect(&home.control_socket())?;
    Codexd::new(&home)?.json(&["stop"])?;
    home.assert_no_process_left();
    Ok(())
}
