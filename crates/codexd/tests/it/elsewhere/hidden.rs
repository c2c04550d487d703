//! Processes that `/proc` does not show to another user (`hidepid=2`): codexd takes none of them for dead.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use codexd_testkit::{Codexd, Home, Run, codexd, limits, run, skip, until};
use rustix::process::Signal;
use serde_json::json;

use super::super::lifecycle::SOON;
use super::{CHANGING, assert_refused, boot_id, child_of, everything};

/// Runs codexd as another user who does not see the processes of others in `/proc`.
fn run_as_other_user(home: &Home, arguments: &[&str]) -> anyhow::Result<Run> {
    let mut command = home.command("unshare");
    command.args(["--mount", "sh", "-c"]).arg(
        "mount -t proc -o hidepid=2 proc /proc && exec setpriv --reuid 65534 --regid 65534 --clear-groups \"$@\"",
    );
    command.arg("sh").arg(codexd::binary()?).args(arguments);
    run::run(command, limits::RUN)
}

/// Whether [`run_as_other_user`] can be done on this machine.
fn can_run_as_other_user(home: &Home) -> anyhow::Result<bool> {
    Ok(rustix::process::geteuid().is_root() && run_as_other_user(home, &["--version"])?.success())
}

#[test]
fn a_supervisor_that_proc_does_not_show_is_not_taken_for_dead() -> anyhow::Result<()> {
    let home = Home::new()?;
    if !can_run_as_other_user(&home)? {
        skip!("only root can run codexd as another user with a /proc of its own");
    }
    let codexd = Codexd::new(&home)?;
    codexd.json(&["start", "--embedded"])?;
    give_away(&home)?;
    let before = everything(&home)?;
    for command in CHANGING {
        assert_refused(&run_as_other_user(&home, command)?, "unknown")
            .with_context(|| format!("{command:?}"))?;
        ensure!(everything(&home)? == before, "{command:?} changed something");
    }
    change_owner(&home, 0)?;
    ensure!(codexd.json(&["stop"])?["status"] == "stopped", "its own user");
    Ok(())
}

/// Makes the home that of the other user. What runs there stays root's.
fn give_away(home: &Home) -> anyhow::Result<()> {
    let mut chmod = Command::new("chmod");
    ensure!(chmod.args(["-R", "a+rwX"]).arg(home.root()).status()?.success(), "chmod");
    change_owner(home, 65_534)
}

fn change_owner(home: &Home, uid: u32) -> anyhow::Result<()> {
    let mut chown = Command::new("chown");
    ensure!(chown.args(["-hR", &uid.to_string()]).arg(home.root()).status()?.success(), "chown");
    Ok(())
}

#[test]
fn processes_of_a_session_whose_leader_proc_does_not_show_are_not_ended() -> anyhow::Result<()> {
    let home = Home::new()?;
    if !can_run_as_other_user(&home)? {
        skip!("only root can run codexd as another user with a /proc of its own");
    }
    // A session of root's with a process of the other user in it, as `su` makes it.
    let mut leader = Command::new("setsid");
    leader.args(["sh", "-c", "setpriv --reuid 65534 --regid 65534 --clear-groups sleep 1000 & exec cat"]);
    let mut leader = leader.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    let member = until(SOON, "the other user's process", || {
        child_of(leader.id()).filter(|member| member.command == "sleep 1000" && is_of_other_user(member.pid))
    })?;
    ensure!(member.session == leader.id(), "{member:?}");
    // A supervisor that was killed long ago had the number that the leader has now.
    let state = json!({
        "supervisor": {"pid": leader.id(), "bootId": boot_id()?, "startTicks": 1},
        "version": "0.1.0", "phase": {"is": "running"}, "server": null,
        "generation": "01a22496-0000-7000-8000-000000000000",
        "program": {"executable": "/nowhere/codex", "args": [], "cwd": "/"},
        "restarts": 0, "crashLooping": false, "nextAttemptAt": null, "lastExit": null,
    });
    home.write("app-server-daemon/supervisor.json", state.to_string())?;
    give_away(&home)?;
    for command in [["stop", "--grace"], ["restart", "--grace"], ["stop", "--grace"]] {
        let run = run_as_other_user(&home, &[command[0], command[1], "0"])?;
        ensure!(member.is_alive(), "it was ended by {command:?}: {run}");
    }
    drop(leader.stdin.take());
    leader.kill()?;
    leader.wait()?;
    let _gone_already = member.signal(Signal::KILL);
    Ok(())
}

fn is_of_other_user(pid: u32) -> bool {
    fs::metadata(format!("/proc/{pid}")).is_ok_and(|found| found.uid() == 65_534)
}
