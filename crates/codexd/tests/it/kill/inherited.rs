//! Supervisor and server do not inherit the open files of the program that runs codexd.

use std::io::Read;
use std::os::fd::AsRawFd;
use std::process::Stdio;

use anyhow::{Context, ensure};
use codexd_testkit::{Process, limits, process};
use rustix::io::{FdFlags, fcntl_setfd};

use super::test_home::TestHome;

/// Runs a command with one more open pipe, and waits until no process holds the other end.
fn lets_go_after(test_home: &TestHome, name: &str) -> anyhow::Result<()> {
    let (mut ours, theirs) = std::io::pipe()?;
    fcntl_setfd(&theirs, FdFlags::empty())?;
    let mut command = test_home.codexd()?.command(&[name]);
    let run = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).output()?;
    drop(theirs);
    ensure!(run.status.success(), "{name}: {}", String::from_utf8_lossy(&run.stderr));
    let handle = ours.try_clone()?.into();
    ensure!(
        process::wait_readable(&handle, limits::OUTPUT_CLOSED)?,
        "{name} has ended and a process still holds its pipe: {:#?}",
        test_home.home.processes()
    );
    ensure!(ours.read(&mut [0])? == 0, "the pipe is empty");
    Ok(())
}

/// The open files of a process by number.
fn open(process: &Process) -> anyhow::Result<Vec<(i32, String)>> {
    let entries = std::fs::read_dir(format!("/proc/{}/fd", process.pid)).context("it is gone")?;
    let number = |name: &std::ffi::OsStr| name.to_str().and_then(|name| name.parse().ok());
    let files = entries.flatten().filter_map(|entry| {
        let target = std::fs::read_link(entry.path()).ok()?;
        Some((number(&entry.file_name())?, target.to_string_lossy().into_owned()))
    });
    Ok(files.collect())
}

#[test]
fn no_process_keeps_open_files_of_the_caller() -> anyhow::Result<()> {
    let test_home = TestHome::new()?;
    for name in ["start", "restart", "enable-remote-control"] {
        lets_go_after(&test_home, name)?;
    }
    super::supervisor::kill(&test_home.supervisor()?)?;
    lets_go_after(&test_home, "start").context("a supervisor that took over")?;
    test_home.assert_served()?;
    test_home.assert_stops()
}

/// Nothing of the supervisor reaches the server, and nothing of the command reaches either but the logs.
#[test]
fn the_supervisor_and_the_server_have_only_their_own_files_open() -> anyhow::Result<()> {
    let (_ours, theirs) = std::io::pipe()?;
    fcntl_setfd(&theirs, FdFlags::empty())?;
    let foreign = std::fs::read_link(format!("/proc/self/fd/{}", theirs.as_raw_fd()))?;
    let test_home = TestHome::new()?;
    test_home.run(&["start"])?;
    let (supervisor, server) = (test_home.supervisor()?, test_home.server()?);
    for process in [&supervisor, &server] {
        let files = open(process)?;
        ensure!(!files.iter().any(|(_, file)| *file == foreign.to_string_lossy()), "{process:?}: {files:?}");
        ensure!(files.iter().any(|(number, file)| *number == 0 && file == "/dev/null"), "{files:?}");
    }
    let kept = open(&server)?;
    let supervisors_own = |file: &str| {
        ["supervisor.lock", "supervisor.sock", "supervisor.log"].iter().any(|own| file.ends_with(own))
    };
    ensure!(!kept.iter().any(|(_, file)| supervisors_own(file)), "the server holds {kept:?}");
    test_home.assert_stops()
}
