//! Servers that upstream's daemon or an older codexd has recorded: once codexd manages them, upstream's commands are refused.

use std::fs;

use anyhow::ensure;
use codexd_testkit::{Codexd, Fake, Home, Layout, Version, codex, limits, skip, until};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{servers, upstream};
use crate::lifecycle::{recorded, supervisor};

/// A command of upstream's that would end its server, and is refused.
fn is_refused(home: &Home, version: Version) -> anyhow::Result<()> {
    let before = servers(home);
    let done = upstream(home, version, &["app-server", "daemon", "stop"])?;
    ensure!(done.code() == Some(1) && done.stderr.contains("not managed"), "{done}");
    ensure!(servers(home) == before && before.len() == 1, "{before:?}: {:?}", home.processes());
    Ok(())
}

#[test]
fn upstreams_commands_are_refused_once_codexd_has_adopted_its_server() -> anyhow::Result<()> {
    if let Err(reason) = codex::platform() {
        skip!("{reason}");
    }
    for version in Version::ALL {
        for layout in [Layout::Standalone, Layout::Dedicated] {
            if version == Version::V0_131_0 && layout == Layout::Dedicated {
                continue;
            }
            let home = Home::new()?;
            home.install(layout, &codex::binary(version)?)?;
            if layout == Layout::Standalone {
                home.write("app-server-daemon/app-server.stderr.log", "")?;
            }
            upstream(&home, version, &["app-server", "daemon", "start"])?.success_json()?;
            let codexd = Codexd::new(&home)?;
            let adopted = codexd.json(&["start", "--adopt"])?;
            ensure!(adopted["status"] == "alreadyRunning" && adopted["backend"] == "pid", "{adopted}");
            for name in ["app-server.pid", "daemon.pid"] {
                ensure!(!home.state(name).exists(), "{version} {layout:?}: {name} is still there");
            }
            is_refused(&home, version)?;
            ensure!(recorded(&home)?.pid == servers(&home)[0]);
            codexd.json(&["stop"])?;
        }
    }
    Ok(())
}

/// What an older codexd has left when its supervisor is gone: its record and its logs have upstream's names.
fn make_older(home: &Home) -> anyhow::Result<()> {
    fs::rename(home.state("server.json"), home.state("app-server.pid"))?;
    for log in ["server.stdout.log", "server.stderr.log"] {
        fs::rename(home.state(log), home.state(&format!("app-{log}")))?;
    }
    Ok(())
}

#[test]
fn a_server_of_an_older_codexd_is_migrated_without_a_restart() -> anyhow::Result<()> {
    if let Err(reason) = codex::platform() {
        skip!("{reason}");
    }
    let home = Home::new()?;
    home.install(Layout::Standalone, &codex::binary(Version::V0_171_0)?)?;
    let codexd = Codexd::new(&home)?;
    codexd.json(&["start"])?;
    let server = recorded(&home)?;
    let old_supervisor = supervisor(&home)?;
    old_supervisor.signal(Signal::KILL)?;
    old_supervisor.wait_gone(limits::PROCESS_GONE)?;
    make_older(&home)?;
    let seen = codexd.json(&["status"])?;
    assert_eq!((&seen["state"], seen["pid"].as_u64()), (&"running".into(), Some(server.pid.into())));
    assert_eq!(codexd.json(&["start"])?["status"], "alreadyRunning");
    assert_eq!(recorded(&home)?.pid, server.pid);
    for name in ["app-server.pid", "app-server.stderr.log", "app-server.stdout.log"] {
        assert!(!home.state(name).exists(), "{name} is still there");
    }
    is_refused(&home, Version::V0_171_0)?;
    assert_eq!(codexd.json(&["status"])?["problems"], json!([]));
    codexd.json(&["stop"])?;
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn a_record_that_an_older_supervisor_still_writes_is_read() -> anyhow::Result<()> {
    let home = Home::new()?;
    Fake::Healthy.install(&home, Layout::Standalone)?;
    let codexd = Codexd::new(&home)?;
    codexd.json(&["start"])?;
    let server = recorded(&home)?;
    make_older(&home)?;
    let log = home.state("app-server.stderr.log");
    assert_eq!(codexd.json(&["logs"])?["path"].as_str(), log.to_str());
    let status = codexd.json(&["status"])?;
    assert_eq!((&status["state"], &status["problems"]), (&"running".into(), &json!([])), "{status}");
    assert_eq!(status["pid"].as_u64(), Some(server.pid.into()));
    assert_eq!(codexd.json(&["start"])?["status"], "alreadyRunning");
    assert_eq!(codexd.json(&["stop"])?["status"], "stopped");
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn logs_of_an_older_codexd_that_is_stopped_get_their_new_names() -> anyhow::Result<()> {
    let home = Home::new()?;
    Fake::Healthy.install(&home, Layout::Standalone)?;
    for name in ["app-server.stdout.log", "app-server.stderr.log", "app-server.stderr.log.1"] {
        home.write(&format!("app-server-daemon/{name}"), format!("{name}\n"))?;
    }
    let codexd = Codexd::new(&home)?;
    codexd.json(&["start"])?;
    let lines = codexd.json(&["logs"])?["lines"].clone();
    let first: Vec<&str> = lines.as_array().into_iter().flatten().filter_map(Value::as_str).take(2).collect();
    assert_eq!(first, ["app-server.stderr.log.1", "app-server.stderr.log"], "{lines}");
    assert!(!home.state("app-server.stderr.log").exists());
    codexd.json(&["stop"])?;
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn a_server_without_a_gateway_has_one_log() -> anyhow::Result<()> {
    if let Err(reason) = codex::platform() {
        skip!("{reason}");
    }
    for version in [Version::V0_169_0, Version::V0_171_0] {
        let home = Home::new()?;
        home.install(Layout::Standalone, &codex::binary(version)?)?;
        home.write("app-server-daemon/settings.json", json!({"gateway": false}).to_string())?;
        let codexd = Codexd::new(&home)?;
        codexd.json(&["start"])?;
        let server = recorded(&home)?;
        // It opens a log of its own as well, which must be the same file.
        let open_logs = || -> Vec<String> {
            let folder = format!("/proc/{}/fd", server.pid);
            let links = fs::read_dir(folder).into_iter().flatten().flatten();
            let paths = links.filter_map(|entry| fs::read_link(entry.path()).ok());
            let names = paths.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()));
            names.filter(|name| name.ends_with("stderr.log")).collect()
        };
        until(limits::SERVER_READY, "the server's logs", || (!open_logs().is_empty()).then_some(()))?;
        let opened = open_logs();
        ensure!(opened.iter().all(|name| name == "server.stderr.log"), "{version}: {opened:?}");
        codexd.json(&["stop"])?;
    }
    Ok(())
}
