//! A home that a host shares with a container: a command in another pid namespace than the supervisor changes nothing.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, ensure};
use codexd_testkit::{Codexd, Home, Layout, Process, Run, Version, codex, codexd, limits, run, skip, until};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::lifecycle::{SOON, recorded, supervisor};

mod hidden;

/// Every command that changes something.
const CHANGING: [&[&str]; 10] = [
    &["start", "--embedded"],
    &["start", "--adopt"],
    &["up"],
    &["restart"],
    &["restart", "--now", "--grace", "0"],
    &["reload"],
    &["enable-remote-control"],
    &["disable-remote-control"],
    &["stop"],
    &["stop", "--grace", "0"],
];

/// What a writer that is still at work in the other namespace has under a pid that no process has in this one.
const UNFINISHED: &str = "supervisor.json.4194000.tmp";

/// A pid namespace with a `/proc` of its own. It ends with everything in it when this is dropped.
struct Container {
    child: Child,
    /// Process 1 in there, by its number here.
    init: Process,
    kinds: Vec<&'static str>,
}

impl Container {
    /// One with these further kinds of namespaces of its own; the reason where that is not allowed.
    fn new(home: &Home, kinds: &[&'static str]) -> anyhow::Result<Result<Container, String>> {
        let mut command = home.command("unshare");
        command.args(kinds).args(["--pid", "--fork", "--mount-proc", "--kill-child"]);
        // It reaps what becomes its own.
        command.args(["sh", "-c", "while :; do sleep 0.2; done"]).stderr(Stdio::piped());
        let mut child = command.spawn().context("unshare is not there")?;
        let init = until(SOON, "process 1", || match child.try_wait().ok()? {
            Some(_) => Some(None),
            None => child_of(child.id()).filter(|init| init.command.starts_with("sh ")).map(Some),
        })?;
        match init {
            Some(init) => Ok(Ok(Container { child, init, kinds: kinds.to_vec() })),
            None => Ok(Err("unshare may not make a pid namespace here".to_owned())),
        }
    }

    /// A command that runs in there.
    fn command(&self, home: &Home, program: &std::path::Path) -> Command {
        let mut command = home.command("nsenter");
        command.args(["--target", &self.init.pid.to_string(), "--pid", "--mount"]);
        command.args(self.kinds.iter().filter(|kind| **kind != "--map-root-user"));
        command.arg(program);
        command
    }

    fn codexd(&self, home: &Home, arguments: &[&str]) -> anyhow::Result<Run> {
        let mut command = self.command(home, &codexd::binary()?);
        command.args(arguments);
        run::run(command, limits::RUN)
    }

    /// Ends it, and waits until nothing of it lives.
    fn end(mut self) -> anyhow::Result<()> {
        self.init.signal(Signal::KILL)?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _gone_already = self.init.signal(Signal::KILL);
        let _reaped = self.child.wait();
    }
}

fn child_of(parent: u32) -> Option<Process> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    Process::of(children.split_ascii_whitespace().next()?.parse().ok()?)
}

/// A container for this home, or a skip.
macro_rules! container {
    ($home:expr, $kinds:expr) => {
        match Container::new($home, $kinds)? {
            Ok(container) => container,
            Err(reason) => skip!("{reason}"),
        }
    };
}

/// Everything that a refused command must leave as it is: the state files and the sockets, by inode and text, and the processes.
#[derive(Debug, PartialEq)]
struct Everything {
    processes: Vec<(u32, u64)>,
    files: Vec<(PathBuf, u64, Vec<u8>)>,
}

fn everything(home: &Home) -> anyhow::Result<Everything> {
    let mut processes = home.processes();
    // What lives by itself: not the shell of the container's process 1 and what that waits with.
    processes
        .retain(|process| process.command.contains("--codex-home") || process.command.contains("app-server"));
    let mut files = Vec::new();
    for name in
        ["server.json", "supervisor.json", "settings.json", "supervisor.sock", "control.sock", UNFINISHED]
    {
        files.push(home.state(name));
    }
    files.push(home.control_socket());
    let kept = files.into_iter().filter_map(|file| {
        let found = fs::symlink_metadata(&file).ok()?;
        let text = if found.is_file() { fs::read(&file).ok()? } else { Vec::new() };
        // A supervisor may rewrite the same contents at any time; a socket that is bound again is another one.
        let inode = if found.is_file() { 0 } else { found.ino() };
        Some((file, inode, text))
    });
    let mut pids: Vec<_> = processes.iter().map(|process| (process.pid, process.start_ticks)).collect();
    pids.sort_unstable();
    Ok(Everything { processes: pids, files: kept.collect() })
}

/// What a command says that must not touch the home.
fn assert_refused(run: &Run, place: &str) -> anyhow::Result<()> {
    let error = &run.json()?["error"];
    ensure!(run.code() == Some(22) && error["code"] == "running-elsewhere", "{run}");
    ensure!(error["where"] == place, "{error}");
    Ok(())
}

/// Runs every changing command by `run`; each refuses, and changes nothing.
fn assert_untouched(home: &Home, run: impl Fn(&[&str]) -> anyhow::Result<Run>) -> anyhow::Result<()> {
    fs::write(home.state(UNFINISHED), "half")?;
    let before = everything(home)?;
    for command in CHANGING {
        assert_refused(&run(command)?, "pid-namespace").with_context(|| format!("{command:?}"))?;
        ensure!(everything(home)? == before, "{command:?} changed something: {:#?}", everything(home)?);
    }
    let version = run(&["version"])?.success_json()?;
    ensure!(version["status"] == "running" && version["appServerVersion"].is_string(), "{version}");
    let status = run(&["status"])?.success_json()?;
    ensure!(status["status"] == "running" && status["state"] == "running", "{status:#}");
    ensure!(
        status["backend"] == "pid" && status["pid"].is_null() && status["supervisorPid"].is_null(),
        "{status:#}"
    );
    let problems = status["problems"].as_array().context("problems")?;
    ensure!(problems.len() == 1 && problems[0]["found"] == "running-elsewhere", "{status:#}");
    ensure!(everything(home)? == before, "a look changed something");
    Ok(())
}

fn served_inside(kinds: &[&'static str], gateway: bool) -> anyhow::Result<()> {
    let home = Home::new()?;
    home.write("app-server-daemon/settings.json", json!({"gateway": gateway}).to_string())?;
    let container = container!(&home, kinds);
    let codexd = Codexd::new(&home)?;
    let inside = |arguments: &[&str]| container.codexd(&home, arguments);
    ensure!(inside(&["start", "--embedded"])?.success_json()?["status"] == "started", "inside");
    assert_untouched(&home, |arguments| codexd.run(arguments))?;
    // Where it runs everything works.
    ensure!(inside(&["start"])?.success_json()?["status"] == "alreadyRunning", "inside");
    ensure!(inside(&["restart"])?.success_json()?["status"] == "restarted", "inside");
    ensure!(inside(&["status"])?.success_json()?["problems"] == json!([]), "inside");
    // The other side takes over when the container is gone.
    container.end()?;
    let started = codexd.json(&["start", "--embedded"])?;
    ensure!(started["status"] == "started", "{started}");
    ensure!(codexd.json(&["status"])?["problems"] == json!([]), "healed");
    ensure!(codexd.json(&["stop"])?["status"] == "stopped", "stopped");
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn a_command_outside_of_the_container_that_serves_the_home_changes_nothing() -> anyhow::Result<()> {
    served_inside(&[], true)
}

#[test]
fn nor_where_the_container_has_its_own_network_and_host_name() -> anyhow::Result<()> {
    served_inside(&["--net", "--uts"], true)
}

#[test]
fn nor_where_the_container_has_its_own_users() -> anyhow::Result<()> {
    served_inside(&["--user", "--map-root-user"], true)
}

#[test]
fn nor_where_there_is_no_gateway() -> anyhow::Result<()> {
    served_inside(&[], false)
}

fn served_outside(kinds: &[&'static str]) -> anyhow::Result<()> {
    let home = Home::new()?;
    let container = container!(&home, kinds);
    let codexd = Codexd::new(&home)?;
    codexd.json(&["start", "--embedded"])?;
    assert_untouched(&home, |arguments| container.codexd(&home, arguments))?;
    ensure!(codexd.json(&["restart"])?["status"] == "restarted", "outside");
    ensure!(codexd.json(&["stop"])?["status"] == "stopped", "outside");
    // Now the home is free for the container.
    let started = container.codexd(&home, &["start", "--embedded"])?.success_json()?;
    ensure!(started["status"] == "started", "{started}");
    ensure!(container.codexd(&home, &["stop"])?.success_json()?["status"] == "stopped", "inside");
    Ok(())
}

#[test]
fn a_command_inside_a_container_of_the_host_that_serves_the_home_changes_nothing() -> anyhow::Result<()> {
    served_outside(&[])
}

#[test]
fn nor_inside_a_container_with_its_own_users_and_network() -> anyhow::Result<()> {
    served_outside(&["--user", "--map-root-user", "--net"])
}

#[test]
fn two_containers_that_share_a_home_leave_each_other_alone() -> anyhow::Result<()> {
    let home = Home::new()?;
    let (one, other) = (container!(&home, &[]), container!(&home, &[]));
    one.codexd(&home, &["start", "--embedded"])?.success_json()?;
    assert_untouched(&home, |arguments| other.codexd(&home, arguments))?;
    one.end()?;
    let started = other.codexd(&home, &["start", "--embedded"])?.success_json()?;
    ensure!(started["status"] == "started", "{started}");
    other.codexd(&home, &["stop"])?.success_json()?;
    Ok(())
}

#[test]
fn the_real_0_171_0_in_a_container_is_left_alone() -> anyhow::Result<()> {
    if let Err(reason) = codex::platform() {
        skip!("{reason}");
    }
    let home = Home::new()?;
    home.install(Layout::Standalone, &codex::binary(Version::V0_171_0)?)?;
    let container = container!(&home, &[]);
    container.codexd(&home, &["start"])?.success_json()?;
    let codexd = Codexd::new(&home)?;
    assert_untouched(&home, |arguments| codexd.run(arguments))?;
    ensure!(container.codexd(&home, &["restart"])?.success_json()?["status"] == "restarted", "inside");
    ensure!(container.codexd(&home, &["stop"])?.success_json()?["status"] == "stopped", "inside");
    ensure!(codexd.json(&["start"])?["status"] == "started", "outside");
    codexd.json(&["stop"])?;
    Ok(())
}

#[test]
fn files_without_a_namespace_are_treated_the_same() -> anyhow::Result<()> {
    let home = Home::new()?;
    let container = container!(&home, &[]);
    container.codexd(&home, &["start", "--embedded"])?.success_json()?;
    // As an older codexd wrote them, and with the numbers of an innocent process of this namespace.
    let mut innocent = Command::new("cat").stdin(Stdio::piped()).spawn()?;
    let known = Process::of(innocent.id()).context("cat runs")?;
    for name in ["server.json", "supervisor.json"] {
        let mut file: Value = serde_json::from_slice(&fs::read(home.state(name))?)?;
        let members = file.as_object_mut().context("an object")?;
        members.remove("pidNamespace");
        members.remove("hostName");
        let mine = json!({"pid": known.pid, "bootId": boot_id()?, "startTicks": known.start_ticks});
        if name == "supervisor.json" {
            members.insert("supervisor".into(), mine.clone());
            members.insert("server".into(), mine);
        } else {
            members.insert("pid".into(), known.pid.into());
            members.insert("processIdentity".into(), mine);
        }
        fs::write(home.state(name), file.to_string())?;
    }
    let codexd = Codexd::new(&home)?;
    assert_untouched(&home, |arguments| codexd.run(arguments))?;
    ensure!(innocent.try_wait()?.is_none(), "the innocent process was ended");
    innocent.kill()?;
    innocent.wait()?;
    Ok(())
}

fn boot_id() -> anyhow::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// The supervisor in a container, by its number here.
fn supervisor_inside(home: &Home) -> anyhow::Result<Process> {
    let mut supervisors = home.processes();
    supervisors.retain(|process| process.command.contains("codexd supervisor "));
    supervisors.pop().context("a supervisor")
}

#[test]
fn a_suspended_supervisor_in_a_container_is_not_ended_from_outside() -> anyhow::Result<()> {
    let home = Home::new()?;
    let container = container!(&home, &[]);
    container.codexd(&home, &["start", "--embedded"])?.success_json()?;
    let supervisor = supervisor_inside(&home)?;
    let paused = supervisor.clone().pause()?;
    let codexd = Codexd::new(&home)?;
    assert_untouched(&home, |arguments| codexd.run(arguments))?;
    drop(paused);
    ensure!(supervisor.is_alive(), "it was ended");
    ensure!(container.codexd(&home, &["stop"])?.success_json()?["status"] == "stopped", "inside");
    Ok(())
}

#[test]
fn a_server_in_a_container_whose_supervisor_was_killed_is_left_alone() -> anyhow::Result<()> {
    let home = Home::new()?;
    let container = container!(&home, &[]);
    container.codexd(&home, &["start", "--embedded"])?.success_json()?;
    let supervisor = supervisor_inside(&home)?;
    supervisor.signal(Signal::KILL)?;
    supervisor.wait_gone(SOON)?;
    let codexd = Codexd::new(&home)?;
    let before = everything(&home)?;
    for command in CHANGING {
        assert_refused(&codexd.run(command)?, "pid-namespace")?;
        ensure!(everything(&home)? == before, "{command:?} changed something");
    }
    // A supervisor in the container takes it over.
    let repaired = container.codexd(&home, &["start"])?.success_json()?;
    ensure!(repaired["repairs"][0]["found"] == "lost-supervisor", "{repaired}");
    container.codexd(&home, &["stop"])?.success_json()?;
    Ok(())
}

#[test]
fn a_lock_that_another_host_holds_is_respected() -> anyhow::Result<()> {
    let home = Home::new()?;
    let codexd = Codexd::new(&home)?;
    codexd.json(&["start", "--embedded"])?;
    let state = fs::read_to_string(home.state("supervisor.json"))?;
    codexd.json(&["stop"])?;
    // As a network file system shows it: the files and the lock, and no listener on the sockets.
    let other = state.replace(&boot_id()?, "11111111-2222-3333-4444-555555555555");
    fs::write(home.state("supervisor.json"), other)?;
    let lock = fs::File::open(home.state("supervisor.lock"))?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)?;
    for command in CHANGING {
        assert_refused(&codexd.run(command)?, "host")?;
    }
    drop(lock);
    let started = codexd.json(&["start", "--embedded"])?;
    ensure!(started["status"] == "started", "{started}");
    codexd.json(&["stop"])?;
    Ok(())
}

#[test]
fn a_process_on_the_supervisors_socket_that_is_no_supervisor_is_not_ended() -> anyhow::Result<()> {
    let home = Home::new()?;
    fs::create_dir_all(home.state(""))?;
    let _listener = std::os::unix::net::UnixListener::bind(home.state("supervisor.sock"))?;
    let error = Codexd::new(&home)?.run(&["start", "--embedded"])?.json()?["error"].clone();
    // That this test still runs is what it is about.
    ensure!(error["code"] == "supervisor-failed" && error["pid"] == std::process::id(), "{error}");
    Ok(())
}

#[test]
fn without_a_proc_of_its_own_namespace_no_command_changes_anything() -> anyhow::Result<()> {
    let home = Home::new()?;
    drop(container!(&home, &[]));
    let codexd = Codexd::new(&home)?;
    codexd.json(&["start", "--embedded"])?;
    let (server, supervisor) = (recorded(&home)?, supervisor(&home)?);
    for arguments in CHANGING {
        let mut command = home.command("unshare");
        command.args(["--pid", "--fork"]).arg(codexd::binary()?).args(arguments);
        let run = run::run(command, limits::RUN)?;
        ensure!(run.json()?["error"]["code"] == "unsupported-platform", "{run}");
    }
    ensure!(server.is_alive() && supervisor.is_alive(), "they were ended");
    codexd.json(&["stop"])?;
    Ok(())
}
