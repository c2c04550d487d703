//! The setting `gateway`: on unless switched off, and a server keeps the gateway_process that it was started with.

use anyhow::Context;
use codexd_testkit::{Codexd, Fake, Home, Layout};
use serde_json::{Value, json};

use super::{answered, gateway};
use crate::lifecycle::recorded;

#[test]
fn without_a_gateway_the_server_listens_itself_and_restart_changes_between_the_two() -> anyhow::Result<()> {
    let home = Home::new()?;
    Fake::Healthy.install(&home, Layout::Standalone)?;
    let set = |is_on: bool| home.write("codexd.toml", format!("gateway.enabled = {is_on}\n"));
    let codexd = Codexd::new(&home)?;
    set(false)?;
    assert_eq!(codexd.json(&["start"])?.get("hint"), None);
    assert_eq!(home.processes().len(), 2, "a supervisor and a server: {:?}", home.processes());
    assert_eq!(answered(&home)?, recorded(&home)?.pid, "the server listens itself");
    let status = codexd.json(&["status"])?;
    assert_eq!(
        (&status["gateway"], &status["settings"]["gateway"]["enabled"]),
        (&Value::Null, &false.into())
    );

    for (wanted, word) in [(true, "without"), (false, "behind")] {
        set(wanted)?;
        let before = recorded(&home)?;
        let started = codexd.json(&["start"])?;
        assert_eq!(started["status"], "alreadyRunning");
        assert!(started["hint"].as_str().is_some_and(|hint| hint.contains(word)), "{started}");
        assert_eq!(recorded(&home)?.pid, before.pid, "it is left as it is");
        let restarted = codexd.json(&["restart"])?;
        assert_eq!((&restarted["status"], restarted.get("handover")), (&"restarted".into(), None));
        let listens = answered(&home)?;
        let server = recorded(&home)?;
        assert_eq!(listens == server.pid, !wanted);
        assert_eq!(gateway(&home).is_ok_and(|gateway| gateway.pid == listens), wanted);
        assert_eq!(codexd.json(&["start"])?.get("hint"), None);
    }
    codexd.json(&["stop"])?;
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn an_invalid_gateway_setting_is_reported_and_the_default_counts() -> anyhow::Result<()> {
    let home = Home::new()?;
    Fake::Healthy.install(&home, Layout::Standalone)?;
    let text = json!({"gateway": {"listen": "ws://0.0.0.0:1"}}).to_string();
    home.write("app-server-daemon/settings.json", text)?;
    let codexd = Codexd::new(&home)?;
    let status = codexd.json(&["status"])?;
    assert_eq!(status["problems"][0]["found"], "corrupt-settings", "{status}");
    let message = status["problems"][0]["message"].as_str().context("a sentence")?;
    assert!(message.contains("allowNonLoopback"), "{message}");
    let started = codexd.json(&["start"])?;
    assert_eq!(started["repairs"][0]["found"], "corrupt-settings");
    gateway(&home)?;
    codexd.json(&["stop"])?;
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn an_invalid_subagent_setting_is_reported_and_viewers_get_the_requests() -> anyhow::Result<()> {
    let home = Home::new()?;
    Fake::Healthy.install(&home, Layout::Standalone)?;
    let text = json!({"gateway": {"subagentApprovals": "everyone"}}).to_string();
    home.write("app-server-daemon/settings.json", text)?;
    let status = Codexd::new(&home)?.json(&["status"])?;
    assert_eq!(status["problems"][0]["found"], "corrupt-settings", "{status}");
    let message = status["problems"][0]["message"].as_str().context("a sentence")?;
    assert!(message.contains("subagentApprovals") && message.contains("viewers"), "{message}");
    assert_eq!(status["settings"]["gateway"]["subagentApprovals"], "viewers");
    home.assert_no_process_left();
    Ok(())
}
