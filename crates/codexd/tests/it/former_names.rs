//! A home of codexd 0.1.0, whose supervisor ran as `codexd keeper` with files of that name.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, ensure};
use codexd_testkit::{Codexd, Home, Process, limits};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::lifecycle::{recorded, supervisor};

const FORMER: [&str; 4] = ["keeper.json", "keeper.lock", "keeper.sock", "keeper.log"];

/// A home with an embedded server and a gateway whose supervisor was killed, with the supervisor's files as 0.1.0 named them.
fn former_home() -> anyhow::Result<Home> {
    let home = Home::new()?;
    Codexd::new(&home)?.json(&["start", "--embedded"])?;
    let killed = supervisor(&home)?;
    killed.signal(Signal::KILL)?;
    killed.wait_gone(limits::PROCESS_GONE)?;
    let mut state: Value = serde_json::from_slice(&fs::read(home.state("supervisor.json"))?)?;
    let fields = state.as_object_mut().context("an object")?;
    let process = fields.remove("supervisor").context("a supervisor")?;
    fields.insert("keeper".to_owned(), process);
    fs::write(home.state("keeper.json"), state.to_string())?;
    fs::remove_file(home.state("supervisor.json"))?;
    for (from, to) in [("supervisor.lock", "keeper.lock"), ("supervisor.sock", "keeper.sock")] {
        fs::rename(home.state(from), home.state(to))?;
    }
    fs::write(home.state("keeper.log"), "a line of the former supervisor\n")?;
    fs::remove_file(home.state("supervisor.log"))?;
    Ok(home)
}

/// A process with the arguments of a supervisor of 0.1.0 that holds its lock and ends at SIGTERM; `keeper.json` names it.
fn former_supervisor(home: &Home, of: &Home) -> anyhow::Result<Child> {
    let folder = home.root().join("former");
    fs::create_dir(&folder)?;
    // `sh` runs the script that its first argument names, so the arguments are those of `codexd keeper --codex-home PATH`.
    fs::write(folder.join("keeper"), "exec 9>>\"$LOCK\"\nflock 9\necho locked\nread line\n")?;
    let mut child = Command::new("sh")
        .arg0("codexd")
        .args(["keeper", "--codex-home"])
        .arg(of.path())
        .env("LOCK", home.state("keeper.lock"))
        .current_dir(&folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("piped")?).read_line(&mut line)?;
    ensure!(line == "locked\n", "{line}");
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id()))?;
    let ticks: u64 =
        stat.rsplit(')').next().context("fields")?.split_whitespace().nth(19).context("ticks")?.parse()?;
    let mut state: Value = serde_json::from_slice(&fs::read(home.state("keeper.json"))?)?;
    state["keeper"]["pid"] = child.id().into();
    state["keeper"]["startTicks"] = ticks.into();
    fs::write(home.state("keeper.json"), state.to_string())?;
    Ok(child)
}

/// Only the files of this version are left, and the server, its gateway and their supervisor work together.
fn assert_upgraded(home: &Home, codexd: &Codexd, server: &Process, gateway: &Value) -> anyhow::Result<()> {
    for name in FORMER {
        ensure!(home.state(name).symlink_metadata().is_err(), "{name} is still there");
    }
    let log = fs::read_to_string(home.state("supervisor.log"))?;
    ensure!(log.contains("a line of the former supervisor"), "{log}");
    let status = codexd.json(&["status"])?;
    ensure!(status["problems"] == json!([]), "{status:#}");
    ensure!(status["gateway"]["pid"] == *gateway && recorded(home)?.pid == server.pid, "{status:#}");
    // The gateway takes part in a handover, so it is connected.
    let restarted = codexd.json(&["restart"])?;
    ensure!(restarted["status"] == "restarted" && restarted["handover"].is_object(), "{restarted:#}");
    ensure!(codexd.json(&["status"])?["gateway"]["pid"] == *gateway);
    codexd.json(&["stop"])?;
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn files_with_former_names_are_read_by_status_and_renamed_by_start() -> anyhow::Result<()> {
    let home = former_home()?;
    let (codexd, server) = (Codexd::new(&home)?, recorded(&home)?);
    let before = fs::read(home.state("keeper.json"))?;
    let status = codexd.json(&["status"])?;
    ensure!(status["problems"][0]["found"] == "lost-supervisor", "{status:#}");
    ensure!(status["gateway"]["pid"].is_number() && status["pid"] == server.pid, "{status:#}");
    codexd.json(&["version"])?;
    ensure!(fs::read(home.state("keeper.json"))? == before && !home.state("supervisor.json").exists());
    let started = codexd.json(&["start"])?;
    ensure!(started["status"] == "alreadyRunning" && recorded(&home)?.pid == server.pid, "{started:#}");
    let repairs: Vec<&str> = started["repairs"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|repair| repair["found"].as_str())
        .collect();
    ensure!(repairs == ["former-file-names", "lost-supervisor"], "{started:#}");
    // A gateway of 0.1.0 would find the supervisor by this link.
    ensure!(fs::read_link(home.state("keeper.sock"))? == std::path::Path::new("supervisor.sock"));
    fs::remove_file(home.state("keeper.sock"))?;
    assert_upgraded(&home, &codexd, &server, &status["gateway"]["pid"])
}

#[test]
fn a_supervisor_under_its_former_name_is_ended_and_its_server_adopted() -> anyhow::Result<()> {
    let home = former_home()?;
    let (codexd, server) = (Codexd::new(&home)?, recorded(&home)?);
    let mut former = former_supervisor(&home, &home)?;
    let status = codexd.json(&["status"])?;
    ensure!(status["problems"][0]["found"] == "outdated-supervisor", "{status:#}");
    let message = status["problems"][0]["message"].as_str().unwrap_or_default();
    ensure!(message.contains("`codexd start` replaces it"), "{message}");
    ensure!(status["supervisorPid"] == former.id() && status["pid"] == server.pid, "{status:#}");
    ensure!(
        former.try_wait()?.is_none() && !home.state("supervisor.json").exists(),
        "status changes nothing"
    );
    let started = codexd.json(&["start"])?;
    ensure!(started["status"] == "alreadyRunning" && recorded(&home)?.pid == server.pid, "{started:#}");
    ensure!(started["repairs"][0]["found"] == "outdated-supervisor", "{started:#}");
    former.wait()?;
    fs::remove_file(home.state("keeper.sock"))?;
    assert_upgraded(&home, &codexd, &server, &status["gateway"]["pid"])
}

#[test]
fn a_process_that_holds_the_former_lock_for_another_home_is_not_signalled() -> anyhow::Result<()> {
    let (home, other) = (former_home()?, Home::new()?);
    let (codexd, server) = (Codexd::new(&home)?, recorded(&home)?);
    let mut unidentified = former_supervisor(&home, &other)?;
    let refused = codexd.run(&["start"])?.json()?;
    ensure!(refused["error"]["code"] == "running-elsewhere", "{refused:#}");
    ensure!(unidentified.try_wait()?.is_none() && server.is_alive() && home.state("keeper.json").exists());
    unidentified.kill()?;
    unidentified.wait()?;
    ensure!(codexd.json(&["start"])?["status"] == "alreadyRunning" && recorded(&home)?.pid == server.pid);
    codexd.json(&["stop"])?;
    home.assert_no_process_left();
    Ok(())
}
