//! Settings that codexd and upstream's daemon share.

use anyhow::ensure;
use codexd_testkit::{Codexd, Fake, Home, Layout, Version, codex, skip};
use serde_json::{Value, json};

use super::upstream;

#[test]
fn a_grace_that_upstream_does_not_accept_moves_to_a_key_of_our_own() -> anyhow::Result<()> {
    if let Err(reason) = codex::platform() {
        skip!("{reason}");
    }
    let home = Home::new()?;
    Fake::Healthy.install(&home, Layout::Standalone)?;
    let path = "app-server-daemon/settings.json";
    home.write(path, json!({"remoteControlEnabled": false, "shutdownGraceSeconds": 600}).to_string())?;
    let disable = &["app-server", "daemon", "disable-remote-control"];
    let failed = upstream(&home, Version::V0_171_0, disable)?;
    ensure!(failed.code() == Some(1) && failed.stderr.contains("shutdown grace must be between"), "{failed}");
    let codexd = Codexd::new(&home)?;
    let status = codexd.json(&["status"])?;
    assert_eq!(status["problems"][0]["found"], "grace-beyond-upstream", "{status}");
    assert_eq!(status["settings"]["shutdownGraceSeconds"], 600);
    let started = codexd.json(&["start"])?;
    assert_eq!(started["repairs"][0]["found"], "grace-beyond-upstream", "{started}");
    let status = codexd.json(&["status"])?;
    assert_eq!((&status["problems"], &status["settings"]["shutdownGraceSeconds"]), (&json!([]), &600.into()));
    codexd.json(&["stop", "--grace", "0"])?;
    let settings: Value = serde_json::from_slice(&std::fs::read(home.state("settings.json"))?)?;
    assert_eq!(settings, json!({"remoteControlEnabled": false}));
    assert_eq!(std::fs::read_to_string(home.path().join("codexd.toml"))?, "stopGraceSeconds = 600\n");
    for version in Version::ALL {
        let disabled = upstream(&home, version, disable)?;
        ensure!(disabled.success(), "{version}: {disabled}");
    }
    home.assert_no_process_left();
    Ok(())
}
