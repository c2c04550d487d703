//! Accidents of a real machine, and how codexd handles them.

use std::fs::{self, Permissions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Stdio;

use anyhow::Context;
use codexd_testkit::{Codexd, Fake, Home, Layout, Process, codexd, until};
use rustix::process::Signal;

use crate::lifecycle::{SOON, recorded, supervisor};

/// A Codex that does `first` before it serves, and `asked` when it is asked for its version.
fn install(home: &Home, asked: &str, first: &str) -> anyhow::Result<()> {
    let place = home.managed_codex(Layout::Standalone);
    fs::create_dir_all(place.parent().context("a folder")?)?;
    let binary = codexd::binary()?;
    let serve = format!("shift\n{first}\nexec '{}' embedded-app-server \"$@\"", binary.display());
    let version = format!("if [ \"$1\" = --version ]; then {asked}; echo 'codex-cli 9.9.9'; exit 0; fi");
    fs::write(&place, format!("#!/bin/sh\n{version}\n{serve}\n"))?;
    fs::set_permissions(&place, Permissions::from_mode(0o755))?;
    Ok(())
}

fn healthy() -> anyhow::Result<Home> {
    let home = Home::new()?;
    Fake::Healthy.install(&home, Layout::Standalone)?;
    Ok(home)
}

fn process_in(path: &Path) -> anyhow::Result<Process> {
    let pid = until(SOON, "a pid", || fs::read_to_string(path).ok()?.trim().parse().ok())?;
    Process::of(pid).with_context(|| format!("process {pid} lives"))
}

/// MCP servers get an environment of their own, and what they start may make a session of its own.
#[test]
fn processes_of_a_server_are_ended_without_their_generation_id() -> anyhow::Result<()> {
    for how_it_ends in [Signal::TERM, Signal::KILL] {
        let home = Home::new()?;
        let one = "env -i sleep 1000000 & echo $! > \"$CODEX_HOME/one\"";
        let two =
            "env -i setsid sh -c 'trap \"\" TERM HUP; sleep 1000000 & wait' & echo $! > \"$CODEX_HOME/two\"";
        install(&home, ":", &format!("{one}\n{two}"))?;
        let codexd = Codexd::new(&home)?;
        codexd.json(&["start"])?;
        let (one, two) = (process_in(&home.path().join("one"))?, process_in(&home.path().join("two"))?);
        if how_it_ends == Signal::KILL {
            // What the dead one has left is ended beside the successor; what that one starts is its own.
            let server = recorded(&home)?;
            server.signal(Signal::KILL)?;
            one.wait_gone(SOON)?;
            two.wait_gone(SOON)?;
            until(SOON, "a successor", || recorded(&home).ok().filter(|now| now.pid != server.pid))?;
            // Written by the successor, which may be recorded before.
            let one = until(SOON, "what the successor started", || {
                process_in(&home.path().join("one")).ok().filter(|now| *now != one)
            })?;
            codexd.json(&["stop"])?;
            assert!(!one.is_alive());
        } else {
            codexd.json(&["stop"])?;
            assert!(!one.is_alive() && !two.is_alive(), "{one:?} {two:?}");
        }
        home.assert_no_process_left();
    }
    Ok(())
}

#[test]
fn a_state_folder_that_is_taken_away_does_not_make_two_supervisors_fight() -> anyhow::Result<()> {
    let home = healthy()?;
    let codexd = Codexd::new(&home)?;
    codexd.json(&["start"])?;
    let first_supervisor = supervisor(&home)?;
    // The gateway may write a file while the folder is being emptied.
    until(SOON, "the removal of the folder", || match fs::remove_dir_all(home.state("")) {
        Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => None,
        removed => Some(removed),
    })??;
    let adopted = codexd.json(&["start", "--adopt"])?;
    assert_eq!(adopted["status"], "alreadyRunning");
    assert_eq!(codexd.json(&["stop"])?["status"], "stopped");
    first_supervisor.wait_gone(SOON)?;
    home.assert_no_process_left();
    assert_eq!(codexd.json(&["start"])?["status"], "started");
    codexd.json(&["stop"])?;
    Ok(())
}

#[test]
fn a_server_whose_first_folder_is_gone_comes_back_after_a_crash() -> anyhow::Result<()> {
    let home = healthy()?;
    let codexd = Codexd::new(&home)?;
    let folder = home.root().join("passing");
    fs::create_dir(&folder)?;
    let mut start = codexd.command(&["start"]);
    assert!(start.current_dir(&folder).stdout(Stdio::null()).status()?.success());
    fs::remove_dir(&folder)?;
    let before = recorded(&home)?;
    before.signal(Signal::KILL)?;
    until(SOON, "a successor that answers", || {
        codexd.json(&["version"]).ok()?;
        recorded(&home).ok().filter(|now| now.pid != before.pid)
    })?;
    codexd.json(&["stop"])?;
    Ok(())
}

#[test]
fn a_crash_while_restart_proves_the_new_binary_is_not_taken_for_its_outcome() -> anyhow::Result<()> {
    let home = Home::new()?;
    let asked = "if [ -e \"$CODEX_HOME/slow\" ]; then echo > \"$CODEX_HOME/asked\"; sleep 1; fi";
    install(&home, asked, ":")?;
    let codexd = Codexd::new(&home)?;
    codexd.json(&["start"])?;
    let server = recorded(&home)?;
    fs::write(home.path().join("slow"), "")?;
    let restart = codexd.spawn(&["restart"])?;
    until(SOON, "the question", || home.path().join("asked").exists().then_some(()))?;
    server.signal(Signal::KILL)?;
    let restarted = restart.finish(SOON)?.success_json()?;
    assert_eq!(restarted["status"], "restarted", "{restarted}");
    codexd.json(&["stop"])?;
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn a_supervisor_that_hangs_in_the_middle_of_a_stop_is_told_and_the_next_stop_ends_everything()
-> anyhow::Result<()> {
    let home = Home::new()?;
    Fake::IgnoresSigterm.install(&home, Layout::Standalone)?;
    let codexd = Codexd::new(&home)?;
    codexd.json(&["start"])?;
    let supervisor = supervisor(&home)?;
    let stop = codexd.spawn(&["stop", "--grace", "1000"])?;
    until(SOON, "the draining", || {
        codexd.json(&["status"]).ok().filter(|status| status["state"] == "draining")
    })?;
    supervisor.signal(Signal::STOP)?;
    let error = stop.finish(SOON)?.json()?["error"].clone();
    assert_eq!(error["code"], "supervisor-failed", "{error}");
    assert_eq!(codexd.json(&["stop", "--grace", "0"])?["status"], "stopped");
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn silent_connections_to_the_supervisor_do_not_keep_commands_out() -> anyhow::Result<()> {
    let home = healthy()?;
    let codexd = Codexd::new(&home)?;
    codexd.json(&["start"])?;
    let silent: Result<Vec<_>, _> =
        (0..200).map(|_| UnixStream::connect(home.state("supervisor.sock"))).collect();
    let silent = silent?;
    assert_eq!(codexd.json(&["start"])?["status"], "alreadyRunning");
    assert_eq!(codexd.json(&["restart"])?["status"], "restarted");
    assert_eq!(codexd.json(&["stop"])?["status"], "stopped");
    drop(silent);
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn a_listener_of_another_user_on_the_supervisors_socket_gets_no_order() -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        codexd_testkit::skip!("only root can listen as another user");
    }
    let home = healthy()?;
    fs::create_dir(home.state(""))?;
    for folder in [home.root(), home.path(), &home.state("")] {
        fs::set_permissions(folder, Permissions::from_mode(0o777))?;
    }
    let socket = home.state("supervisor.sock");
    let listening = std::thread::spawn(move || {
        let other_user = rustix::process::Uid::from_raw(65_534);
        // Of this thread alone: that is what the system call does.
        rustix::thread::set_thread_res_uid(other_user, other_user, other_user)?;
        UnixListener::bind(socket)
    });
    let listener = listening.join().expect("no panic")?;
    let error = Codexd::new(&home)?.run(&["start"])?.json()?["error"].clone();
    assert_eq!(error["code"], "state-unwritable", "{error}");
    assert!(error["message"].as_str().is_some_and(|said| said.contains("uid 65534")), "{error}");
    let mut heard = String::new();
    listener.accept()?.0.read_to_string(&mut heard)?;
    assert_eq!(heard, "");
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn a_large_environment_that_is_no_text_reaches_the_server() -> anyhow::Result<()> {
    use std::os::unix::ffi::OsStringExt;
    let home = healthy()?;
    let codexd = Codexd::new(&home)?;
    let mut start = codexd.command(&["start"]);
    for number in 0..12 {
        start.env(format!("LARGE_{number}"), std::ffi::OsString::from_vec(vec![0xff; 100_000]));
    }
    let output = start.output()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let environment = fs::read(format!("/proc/{}/environ", recorded(&home)?.pid))?;
    assert!(environment.len() > 1_200_000, "all of it: {}", environment.len());
    codexd.json(&["stop"])?;
    Ok(())
}

#[test]
fn an_interrupted_command_gives_its_one_answer_and_leaves_no_question_behind() -> anyhow::Result<()> {
    let home = Home::new()?;
    install(&home, "echo > \"$CODEX_HOME/asked\"; sleep 1000000", ":")?;
    let codexd = Codexd::new(&home)?;
    let start = codexd.spawn(&["start"])?;
    until(SOON, "the question", || home.path().join("asked").exists().then_some(()))?;
    Process::of(start.pid()).context("it lives")?.signal(Signal::TERM)?;
    let run = start.finish(SOON)?;
    assert_eq!((run.code(), &run.json()?["error"]["code"]), (Some(19), &"interrupted".into()), "{run}");
    until(SOON, "the end of the question", || home.processes().is_empty().then_some(()))?;
    Ok(())
}

#[test]
fn a_full_stderr_is_no_panic() -> anyhow::Result<()> {
    let home = Home::new()?;
    let mut bogus = Codexd::new(&home)?.command(&["bogus"]);
    let output = bogus.stderr(fs::File::create("/dev/full")?).output()?;
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stdout).contains("bad-arguments"));
    Ok(())
}
