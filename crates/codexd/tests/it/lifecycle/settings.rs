//! Remote control: a setting, and a server that follows it or a setting that is put back.

use codexd_testkit::{Codexd, Fake, Home, Layout, Server, codex, skip};
use serde_json::Value;

use super::{SERVERS, home_with, on_every_server, recorded};

on_every_server! {
    remote_control_is_kept_and_the_running_server_follows: follow;
}

fn arguments(home: &Home) -> anyhow::Result<String> {
    let pid = recorded(home)?.pid;
    Ok(std::fs::read_to_string(format!("/proc/{pid}/cmdline"))?.replace('\0', " "))
}

fn follow(server: Server) -> anyhow::Result<()> {
    let (home, start) = home_with(server)?;
    let codexd = Codexd::new(&home)?;
    let enabled = codexd.json(&["enable-remote-control"])?;
    assert_eq!(
        (&enabled["status"], enabled.get("backend")),
        (&"enabled".into(), None),
        "nothing runs: {enabled}"
    );
    assert_eq!(codexd.json(&["enable-remote-control"])?["status"], "alreadyEnabled");
    codexd.json(&start)?;
    assert!(arguments(&home)?.contains("--remote-control"));
    let before = recorded(&home)?.pid;
    assert_eq!(codexd.json(&["enable-remote-control"])?["status"], "alreadyEnabled");
    assert_eq!(recorded(&home)?.pid, before, "nothing to do, nothing done");
    let disabled = codexd.json(&["disable-remote-control"])?;
    assert_eq!((&disabled["status"], &disabled["backend"]), (&"disabled".into(), &"pid".into()));
    assert_eq!(disabled["remoteControlEnabled"], false);
    assert!(!arguments(&home)?.contains("--remote-control"));
    assert_ne!(recorded(&home)?.pid, before);
    codexd.json(&["stop"])?;
    Ok(())
}

#[test]
fn a_setting_that_the_server_would_not_follow_is_put_back() -> anyhow::Result<()> {
    let home = Home::new()?;
    Fake::Healthy.install(&home, Layout::Standalone)?;
    home.write(
        "app-server-daemon/settings.json",
        r#"{"remoteControlEnabled": false, "updateIntervalMinutes": 7}"#,
    )?;
    let codexd = Codexd::new(&home)?;
    codexd.json(&["start"])?;
    let before = recorded(&home)?.pid;
    Fake::VersionHangs.install(&home, Layout::Standalone)?;
    let refused = codexd.run(&["enable-remote-control"])?;
    let error = &refused.json()?["error"];
    assert_eq!((&error["code"], &error["cause"]), (&"setting-rolled-back".into(), &"codex-broken".into()));
    let settings: Value = serde_json::from_slice(&std::fs::read(home.state("settings.json"))?)?;
    assert_eq!(settings, serde_json::json!({"remoteControlEnabled": false, "updateIntervalMinutes": 7}));
    assert_eq!(recorded(&home)?.pid, before, "the good server was not touched");
    codexd.json(&["stop"])?;
    home.assert_no_process_left();
    Ok(())
}
