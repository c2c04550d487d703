//! Every broken state of a home: the next command repairs it, reports the repair, and needs no manual cleanup.

mod abuse;
mod disk;
mod files;
mod health;
mod messages;
mod waits;

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;

use anyhow::Context;
use codexd_testkit::{Codexd, Fake, Home, Layout};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::lifecycle::{recorded, supervisor};

fn home() -> anyhow::Result<Home> {
    let home = Home::new()?;
    Fake::Healthy.install(&home, Layout::Standalone)?;
    fs::create_dir_all(home.state(""))?;
    fs::create_dir_all(home.path().join("app-server-control"))?;
    Ok(home)
}

/// The record of codexd, and that of upstream's daemon.
const RECORDS: [&str; 2] = ["server.json", "app-server.pid"];

/// `start` in a home whose record is `record` reports the repair `found` and ends with one server.
fn start_heals_record(record: &str, found: &str) -> anyhow::Result<()> {
    RECORDS.iter().try_for_each(|name| start_heals(name, record, found))
}

fn start_heals(name: &str, record: &str, found: &str) -> anyhow::Result<()> {
    let home = home()?;
    fs::write(home.state(name), record)?;
    let codexd = Codexd::new(&home)?;
    let status = codexd.json(&["status"])?;
    assert_eq!(status["problems"][0]["found"], found, "{status}");
    let started = codexd.json(&["start"])?;
    assert_eq!(
        (&started["status"], &started["repairs"][0]["found"]),
        (&"started".into(), &found.into()),
        "{started}"
    );
    assert_eq!(codexd.json(&["status"])?["problems"], json!([]));
    let events = fs::read_to_string(home.state("events.jsonl"))?;
    assert!(
        events.lines().any(|line| line.contains(r#""type":"repair""#) && line.contains(found)),
        "{events}"
    );
    assert_eq!(codexd.json(&["stop"])?["status"], "stopped");
    // The same in a home where nothing is to run.
    fs::write(home.state(name), record)?;
    let stopped = codexd.json(&["stop"])?;
    assert_eq!((&stopped["status"], &stopped["repairs"][0]["found"]), (&"notRunning".into(), &found.into()));
    assert!(!home.state(name).exists());
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn an_empty_record_is_repaired() -> anyhow::Result<()> {
    start_heals_record("", "empty-record")
}

#[test]
fn a_garbage_record_is_repaired() -> anyhow::Result<()> {
    start_heals_record("garbage", "garbage-record")
}

#[test]
fn a_truncated_record_is_repaired() -> anyhow::Result<()> {
    start_heals_record(r#"{"pid":12,"processStartT"#, "garbage-record")
}

#[test]
fn a_record_of_pid_zero_is_repaired() -> anyhow::Result<()> {
    start_heals_record(r#"{"pid":0,"processStartTime":"Fri Nov 20 03:21:40 2026"}"#, "impossible-pid-record")
}

#[test]
fn a_record_from_before_a_reboot_is_repaired() -> anyhow::Result<()> {
    let record = r#"{"pid":1,"processIdentity":{"bootId":"another-boot","startTicks":1}}"#;
    start_heals_record(record, "reboot")
}

#[test]
fn a_record_with_a_recycled_pid_is_repaired_and_the_new_process_not_signalled() -> anyhow::Result<()> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let me = std::process::id();
    let record = json!({"pid": me, "processIdentity": {"bootId": boot.trim(), "startTicks": 1}});
    start_heals_record(&record.to_string(), "reused-pid")?;
    let old_form = json!({"pid": me, "processStartTime": "Fri Nov 20 03:21:40 2009"});
    start_heals_record(&old_form.to_string(), "reused-pid")
    // That this test goes on is the proof that its process was not signalled.
}

#[test]
fn a_lost_or_damaged_record_of_a_running_server_is_written_again() -> anyhow::Result<()> {
    let home = home()?;
    let codexd = Codexd::new(&home)?;
    codexd.json(&["start"])?;
    let server = recorded(&home)?;
    for spoilt in [None, Some("garbage")] {
        match spoilt {
            None => fs::remove_file(home.state("server.json"))?,
            Some(text) => fs::write(home.state("server.json"), text)?,
        }
        let status = codexd.json(&["status"])?;
        assert_eq!((&status["state"], status["pid"].as_u64()), (&"running".into(), Some(server.pid.into())));
        assert_ne!(status["problems"], json!([]));
        assert_eq!(codexd.json(&["version"])?["backend"], "pid");
        let started = codexd.json(&["start"])?;
        assert_eq!(
            (&started["status"], &started["repairs"][0]["found"]),
            (&"alreadyRunning".into(), &"unrecorded-server".into()),
            "{started}"
        );
        assert_eq!(recorded(&home)?.pid, server.pid);
    }
    fs::remove_file(home.state("server.json"))?;
    assert_eq!(codexd.json(&["restart"])?["status"], "restarted");
    fs::remove_file(home.state("server.json"))?;
    assert_eq!(codexd.json(&["stop"])?["status"], "stopped");
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn repairs_before_a_failure_are_part_of_the_failure() -> anyhow::Result<()> {
    let home = Home::new()?;
    home.write("app-server-daemon/settings.json", "{ nonsense")?;
    let run = Codexd::new(&home)?.env("PATH", "/nonexistent").run(&["start"])?;
    let error = run.json()?["error"].clone();
    assert_eq!(error["code"], "codex-not-found");
    assert_eq!(error["repairs"][0]["found"], "corrupt-settings", "{error}");
    Ok(())
}

#[test]
fn corrupt_settings_are_moved_aside_and_their_valid_values_stay() -> anyhow::Result<()> {
    let home = home()?;
    let codexd = Codexd::new(&home)?;
    for (text, remote_control) in [
        ("{ nonsense", false),
        (r#"{"remoteControlEnabled":true,"shutdownGraceSeconds":"soon","x":1}"#, true),
    ] {
        fs::write(home.state("settings.json"), text)?;
        let status = codexd.json(&["status"])?;
        assert_eq!(status["problems"][0]["found"], "corrupt-settings");
        assert_eq!(fs::read_to_string(home.state("settings.json"))?, text, "status only looks");
        let started = codexd.json(&["start"])?;
        assert_eq!(started["repairs"][0]["found"], "corrupt-settings", "{started}");
        assert_eq!(codexd.json(&["status"])?["settings"]["remoteControlEnabled"], remote_control);
        let kept = fs::read_dir(home.state(""))?
            .filter_map(Result::ok)
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("settings.json.corrupt-"))
            .any(|entry| fs::read_to_string(entry.path()).is_ok_and(|kept| kept == text));
        assert!(kept, "the old file is there as it was");
        codexd.json(&["stop"])?;
    }
    Ok(())
}

#[test]
fn a_stale_socket_and_a_dangling_link_are_removed() -> anyhow::Result<()> {
    let home = home()?;
    let codexd = Codexd::new(&home)?;
    let socket = home.control_socket();
    drop(UnixListener::bind(&socket)?);
    let stopped = codexd.json(&["stop"])?;
    assert_eq!(
        (&stopped["status"], &stopped["repairs"][0]["found"]),
        (&"notRunning".into(), &"stale-socket".into())
    );
    assert!(!socket.exists());
    symlink(home.root().join("nowhere"), &socket)?;
    let started = codexd.json(&["start"])?;
    assert_eq!(
        (&started["status"], &started["repairs"][0]["found"]),
        (&"started".into(), &"stale-socket".into())
    );
    codexd.json(&["stop"])?;
    Ok(())
}

#[test]
fn a_file_in_the_sockets_place_is_not_touched() -> anyhow::Result<()> {
    let home = home()?;
    fs::write(home.control_socket(), "mine")?;
    let run = Codexd::new(&home)?.run(&["start"])?;
    assert_eq!(run.json()?["error"]["code"], "socket-occupied");
    assert_eq!(fs::read_to_string(home.control_socket())?, "mine");
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn an_unresponsive_listener_is_reported_and_never_ended() -> anyhow::Result<()> {
    let home = home()?;
    let codexd = Codexd::new(&home)?;
    let listener = UnixListener::bind(home.control_socket())?;
    for (command, code) in [
        ("start", "socket-occupied"),
        ("restart", "socket-occupied"),
        ("stop", "socket-occupied"),
        ("enable-remote-control", "socket-occupied"),
    ] {
        let error = codexd.run(&[command])?.json()?["error"].clone();
        assert_eq!(
            (&error["code"], error["pid"].as_u64()),
            (&code.into(), Some(std::process::id().into())),
            "{command}"
        );
    }
    assert_eq!(codexd.json(&["status"])?["problems"][0]["found"], "unresponsive-listener");
    drop(listener);
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn a_socket_path_beyond_the_kernels_limit_works() -> anyhow::Result<()> {
    let home = Home::named(&"long/".repeat(40))?;
    Fake::Healthy.install(&home, Layout::Standalone)?;
    let codexd = Codexd::new(&home)?;
    assert_eq!(codexd.json(&["start"])?["status"], "started");
    assert_eq!(codexd.json(&["version"])?["backend"], "pid");
    assert_eq!(codexd.json(&["restart"])?["status"], "restarted");
    assert_eq!(codexd.json(&["stop"])?["status"], "stopped");
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn another_time_zone_loses_no_server() -> anyhow::Result<()> {
    let home = home()?;
    let started = Codexd::new(&home)?.env("TZ", "UTC").json(&["start"])?;
    let elsewhere = Codexd::new(&home)?.env("TZ", "America/New_York");
    assert_eq!(elsewhere.json(&["version"])?["backend"], "pid");
    // A record of the 0.131 era has nothing but that text.
    let record: Value = serde_json::from_slice(&fs::read(home.state("server.json"))?)?;
    let old_form = json!({"pid": record["pid"], "processStartTime": record["processStartTime"]});
    fs::write(home.state("server.json"), old_form.to_string())?;
    assert_eq!(elsewhere.json(&["version"])?["backend"], "pid");
    assert_eq!(started["pid"], record["pid"]);
    assert_eq!(elsewhere.json(&["stop"])?["status"], "stopped");
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn no_other_program_is_needed() -> anyhow::Result<()> {
    let home = home()?;
    let codexd = Codexd::new(&home)?.env("PATH", "/nonexistent");
    // The fake is a shell script: the shell is named by its whole path.
    assert_eq!(codexd.json(&["start"])?["status"], "started");
    assert_eq!(codexd.json(&["restart"])?["status"], "restarted");
    assert_eq!(codexd.json(&["stop"])?["status"], "stopped");
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn the_state_is_for_its_owner_alone_whatever_the_umask() -> anyhow::Result<()> {
    let home = home()?;
    fs::set_permissions(home.state(""), fs::Permissions::from_mode(0o755))?;
    let codexd = Codexd::new(&home)?;
    codexd.json(&["start"])?;
    codexd.json(&["enable-remote-control"])?;
    let mode = |path: &std::path::Path| {
        Ok::<_, std::io::Error>(fs::symlink_metadata(path)?.permissions().mode() & 0o777)
    };
    assert_eq!(mode(&home.state(""))?, 0o700);
    for entry in fs::read_dir(home.state(""))? {
        let path = entry?.path();
        match mode(&path) {
            // A temporary file has got its name meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            found => assert_eq!(found? & 0o077, 0, "{} is accessible to other users", path.display()),
        }
    }
    assert_eq!(mode(&home.control_socket())? & 0o077, 0);
    codexd.json(&["stop"])?;
    Ok(())
}

#[test]
fn a_server_that_exits_at_start_is_reported_with_its_stderr_and_leaves_nothing() -> anyhow::Result<()> {
    let home = Home::new()?;
    Fake::ExitsAtOnce("config.toml is broken at line 7", 3).install(&home, Layout::Standalone)?;
    let codexd = Codexd::new(&home)?;
    let run = codexd.run(&["start"])?;
    let error = run.json()?["error"].clone();
    assert_eq!(
        (run.code(), &error["code"], &error["exitCode"]),
        (Some(6), &"server-exited".into(), &3.into())
    );
    assert_eq!(error["stderrTail"], "config.toml is broken at line 7");
    home.assert_no_process_left();
    let status = codexd.json(&["status"])?;
    assert_eq!((&status["state"], &status["lastExit"]["code"]), (&"failed".into(), &3.into()), "{status}");
    // Mended, it starts.
    Fake::Healthy.install(&home, Layout::Standalone)?;
    assert_eq!(codexd.json(&["start"])?["status"], "started");
    codexd.json(&["stop"])?;
    Ok(())
}

#[test]
fn a_broken_new_binary_never_costs_the_good_server() -> anyhow::Result<()> {
    let home = home()?;
    let codexd = Codexd::new(&home)?;
    codexd.json(&["start"])?;
    let before = recorded(&home)?;
    for (fake, code) in [
        (Fake::NotExecutable, "codex-broken"),
        (Fake::NotAProgram, "codex-broken"),
        (Fake::VersionHangs, "codex-broken"),
    ] {
        fake.install(&home, Layout::Standalone)?;
        let error = codexd.run(&["restart"])?.json()?["error"].clone();
        assert_eq!(error["code"], code, "{fake:?}: {error}");
        assert!(before.is_alive(), "{fake:?} did not cost the server that runs");
    }
    fs::remove_file(home.managed_codex(Layout::Standalone))?;
    let gone = codexd.env("PATH", "/nonexistent");
    assert_eq!(gone.run(&["restart"])?.json()?["error"]["code"], "codex-not-found");
    assert!(before.is_alive());
    assert_eq!(gone.json(&["stop"])?["status"], "stopped", "to stop a server no Codex is needed");
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn an_event_number_does_not_repeat_after_a_torn_line() -> anyhow::Result<()> {
    let home = home()?;
    let codexd = Codexd::new(&home)?;
    codexd.json(&["start"])?;
    codexd.json(&["stop"])?;
    let path = home.state("events.jsonl");
    let bytes = fs::read(&path)?;
    fs::write(&path, &bytes[..bytes.len() - 30])?;
    codexd.json(&["start"])?;
    codexd.json(&["stop"])?;
    let text = fs::read_to_string(&path)?;
    let seqs: Vec<u64> = text
        .lines()
        .filter_map(|line| line.strip_prefix(r#"{"seq":"#)?.split(',').next()?.parse().ok())
        .collect();
    assert!(seqs.windows(2).all(|pair| pair[0] < pair[1]), "{seqs:?}");
    Ok(())
}

#[test]
fn an_unresponsive_supervisor_is_replaced_and_its_server_keeps_running() -> anyhow::Result<()> {
    let home = home()?;
    let codexd = Codexd::new(&home)?;
    codexd.json(&["start"])?;
    let server = recorded(&home)?;
    supervisor(&home)?.signal(Signal::STOP)?;
    let started = codexd.json(&["start"])?;
    let found: Vec<&str> = started["repairs"]
        .as_array()
        .context("repairs")?
        .iter()
        .filter_map(|repair| repair["found"].as_str())
        .collect();
    assert_eq!(
        (&started["status"], found),
        (&"alreadyRunning".into(), vec!["unresponsive-supervisor", "lost-supervisor"])
    );
    assert!(server.is_alive());
    assert_eq!(codexd.json(&["stop"])?["status"], "stopped");
    home.assert_no_process_left();
    Ok(())
}
