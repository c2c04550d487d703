//! A home that cannot be written, because it is read-only or because the disk is full.

use std::process::Command;

use codexd_testkit::{Codexd, Fake, Home, Layout, Run, run, skip};

use crate::lifecycle::{SOON, recorded};

/// `codexd` in a mount namespace of its own, in which `mount` has been run with the home as `$0`.
fn in_a_namespace(home: &Home, mount: &str, arguments: &[&str]) -> anyhow::Result<Run> {
    let codexd = Codexd::new(home)?.command(arguments);
    let mut command = home.command("unshare");
    command.args(["--mount", "sh", "-c", &format!("{mount} && exec \"$@\"")]).arg(home.path());
    command.arg(codexd.get_program()).args(codexd.get_args());
    run::run(command, SOON)
}

const READ_ONLY: &str = r#"mount --bind "$0" "$0" && mount -o remount,bind,ro "$0""#;

/// Whether this machine lets us mount; if not, why.
fn may_mount() -> Result<(), String> {
    let tried = Command::new("unshare").args(["--mount", "mount", "-t", "tmpfs", "none", "/mnt"]).output();
    match tried {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("no mount here: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("unshare cannot be run: {error}")),
    }
}

#[test]
fn a_read_only_home_is_reported_and_commands_without_writes_work() -> anyhow::Result<()> {
    if let Err(reason) = may_mount() {
        skip!("{reason}");
    }
    let home = Home::new()?;
    Fake::Healthy.install(&home, Layout::Standalone)?;
    let read_only = |arguments: &[&str]| in_a_namespace(&home, READ_ONLY, arguments);

    assert_eq!(read_only(&["status"])?.success_json()?["state"], "stopped");
    let run = read_only(&["start"])?;
    assert_eq!((run.code(), &run.json()?["error"]["code"]), (Some(12), &"state-unwritable".into()));
    assert_eq!(read_only(&["stop"])?.success_json()?["status"], "notRunning");
    home.assert_no_process_left();

    // Once it runs, its supervisor sees the home as it is; only the command does not.
    Codexd::new(&home)?.json(&["start"])?;
    let server = recorded(&home)?;
    assert_eq!(read_only(&["version"])?.success_json()?["status"], "running");
    assert_eq!(read_only(&["status"])?.success_json()?["state"], "running");
    assert_eq!(read_only(&["start"])?.success_json()?["status"], "alreadyRunning");
    let run = read_only(&["enable-remote-control"])?;
    assert_eq!(run.json()?["error"]["code"], "state-unwritable");
    assert!(server.is_alive(), "a setting that cannot be kept costs no server");
    assert_eq!(read_only(&["stop"])?.success_json()?["status"], "stopped");
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn a_full_disk_is_reported_and_leaves_no_unrecorded_process() -> anyhow::Result<()> {
    if let Err(reason) = may_mount() {
        skip!("{reason}");
    }
    let home = Home::new()?;
    // A home of 64 KiB that something else has filled to the last byte.
    let full = r#"mount -t tmpfs -o size=64k,mode=700 none "$0" && { cat /dev/zero > "$0/filler" 2>/dev/null; true; }"#;
    let run = in_a_namespace(&home, full, &["start", "--embedded"])?;
    let error = run.json()?["error"].clone();
    assert_eq!((run.code(), &error["code"]), (Some(13), &"disk-full".into()), "{run}");
    assert!(error["hint"].as_str().is_some_and(|hint| hint.contains("free disk space")), "{error}");
    // A program that goes by the path must find something there.
    assert!(error["path"].as_str().is_none_or(|path| path.starts_with('/')), "{error}");
    home.assert_no_process_left();
    assert_eq!(in_a_namespace(&home, full, &["status"])?.success_json()?["state"], "stopped");
    assert_eq!(in_a_namespace(&home, full, &["stop"])?.success_json()?["status"], "notRunning");
    Ok(())
}

#[test]
fn a_disk_that_fills_up_does_not_cost_the_server_that_runs() -> anyhow::Result<()> {
    if let Err(reason) = may_mount() {
        skip!("{reason}");
    }
    let home = Home::new()?;
    // All in one namespace: the supervisor must see the full disk, too.
    let script = r#"mount -t tmpfs -o size=256k,mode=700 none "$0" || exit 99
        codexd=$1
        "$codexd" start --embedded > /dev/null || exit 98
        cat /dev/zero > "$0/filler" 2> /dev/null
        "$codexd" restart > /dev/null 2>&1; echo "restart $?"
        "$codexd" status --json | grep -o '"state":"[a-zA-Z]*"' | head -n 1
        "$codexd" stop > /dev/null 2>&1; echo "stop $?""#;
    let mut command = home.command("unshare");
    command.args(["--mount", "sh", "-c", script]).arg(home.path());
    command.arg(codexd_testkit::codexd::binary()?);
    let run = run::run(command, SOON)?;
    assert_eq!(run.stdout, "restart 13\n\"state\":\"running\"\nstop 0\n", "{run}");
    home.assert_no_process_left();
    Ok(())
}
