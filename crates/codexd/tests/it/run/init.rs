//! `codexd run` as process 1 of a pid namespace, as in a container.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use codexd_testkit::{Home, Process, codexd, skip, until};
use rustix::process::Signal;

use super::fixture::{Foreground, events};
use crate::lifecycle::SOON;

/// `codexd run`, by its number here.
struct Container {
    run: Foreground,
    init: Process,
}

impl Container {
    /// The reason where it is not allowed.
    fn new(home: &Home) -> anyhow::Result<Result<Container, String>> {
        let mut command = home.command("unshare");
        command.args(["--pid", "--fork", "--mount-proc", "--kill-child"]);
        command.arg(codexd::binary()?).args(["run", "--embedded"]);
        let mut run = Foreground::spawn(home, command)?;
        if let Err(error) = run.answer(0) {
            let stderr = run.stderr();
            return match stderr.starts_with("unshare: ") {
                true => Ok(Err("unshare may not make a pid namespace here".to_owned())),
                false => Err(error),
            };
        }
        let init = child_of(run.process.pid)
            .with_context(|| format!("process 1: {:?} {}", run.answers(), run.stderr()))?;
        Ok(Ok(Container { run, init }))
    }

    /// A shell script in there, in a session of its own.
    fn shell(&self, home: &Home, script: &str) -> Command {
        let mut command = home.command("nsenter");
        command.args([
            "--target",
            &self.init.pid.to_string(),
            "--pid",
            "--mount",
            "setsid",
            "sh",
            "-c",
            script,
        ]);
        command
    }
}

fn child_of(parent: u32) -> Option<Process> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    Process::of(children.split_ascii_whitespace().next()?.parse().ok()?)
}

macro_rules! container {
    ($home:expr) => {
        match Container::new($home)? {
            Ok(container) => container,
            Err(reason) => skip!("{reason}"),
        }
    };
}

#[test]
fn process_1_drains_on_sigterm_and_ends_with_code_0() -> anyhow::Result<()> {
    let home = Home::new()?;
    let mut container = container!(&home);
    let first = container.run.answer(0)?;
    ensure!(first["state"] == "running" && first["supervisorPid"] == 1, "{first:#}");
    container.init.signal(Signal::TERM)?;
    ensure!(container.run.exit_code()? == Some(0), "{}", container.run.stderr());
    ensure!(container.run.answer(1)?["state"] == "stopped", "{}", container.run.stderr());
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn a_container_that_was_killed_starts_again() -> anyhow::Result<()> {
    let home = Home::new()?;
    let mut killed = container!(&home);
    // While it is open, the next namespace gets another number.
    let _namespace = fs::File::open(format!("/proc/{}/ns/pid", killed.init.pid))?;
    killed.init.signal(Signal::KILL)?;
    killed.run.exit_code()?;
    home.assert_no_process_left();
    let mut container = container!(&home);
    let first = container.run.answer(0)?;
    ensure!(first["state"] == "running" && first["problems"] == serde_json::json!([]), "{first:#}");
    container.init.signal(Signal::TERM)?;
    ensure!(container.run.exit_code()? == Some(0), "{}", container.run.stderr());
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn process_1_reaps_orphans_of_every_program() -> anyhow::Result<()> {
    let home = Home::new()?;
    let container = container!(&home);
    // The shell ends first, so the others become children of process 1.
    let script = "for n in 1 2 3; do sleep 0.0$n >/dev/null 2>&1 & echo $!; done";
    let printed = String::from_utf8(container.shell(&home, script).output()?.stdout)?;
    let pids: Vec<&str> = printed.split_ascii_whitespace().collect();
    ensure!(pids.len() == 3, "{printed}");
    // The folder of a process is there until it is reaped.
    let processes = format!("/proc/{}/root/proc", container.init.pid);
    ensure!(Path::new(&processes).join("1").is_dir(), "{processes}");
    until(SOON, "no orphan", || {
        pids.iter().all(|pid| !Path::new(&processes).join(pid).exists()).then_some(())
    })?;
    ensure!(container.init.is_alive(), "process 1 goes on");
    Ok(())
}

#[test]
fn an_orphan_of_another_program_survives_a_crash_of_the_server() -> anyhow::Result<()> {
    let home = Home::new()?;
    let container = container!(&home);
    ensure!(container.shell(&home, "sleep 1000000 &").status()?.success(), "a shell");
    let is_sleep = |process: &Process| process.command == "sleep 1000000";
    let job = until(SOON, "the job", || home.processes().into_iter().find(is_sleep))?;
    let server = home.processes().into_iter().find(|process| process.command.contains("embedded-app-server"));
    let server = server.context("the server")?;
    server.signal(Signal::KILL)?;
    until(SOON, "the next server", || (events(&home, "child.started").len() == 2).then_some(()))?;
    ensure!(job.is_alive(), "it was ended as a tool of the server");
    Ok(())
}
