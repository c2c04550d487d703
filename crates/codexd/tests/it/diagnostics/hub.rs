//! `codexd debug hub` and `CODEXD_LOG`.

use std::fs;

use anyhow::ensure;
use codexd_testkit::{Codexd, Fake, Home, Layout};
use serde_json::Value;

#[test]
fn the_hub_shows_its_state_and_the_logs_what_happened() -> anyhow::Result<()> {
    let home = Home::new()?;
    let codexd = Codexd::new(&home)?.env("CODEXD_LOG", "debug");
    codexd.json(&["start", "--embedded"])?;
    let reply = codexd.json(&["debug", "hub"])?;
    let hub = &reply["hub"];
    ensure!(reply["status"] == "ok" && hub["servers"][0]["sharedConnection"].is_string(), "{reply}");
    for key in ["clients", "threads", "pendingRequests", "serverRequests", "fullConnections"] {
        ensure!(hub[key].is_array(), "{key}: {hub}");
    }
    ensure!(hub["queue"]["requestsInFlight"].is_u64(), "{hub}");
    let text = codexd.run(&["debug", "hub", "--text"])?.stdout;
    ensure!(text.contains("\n  \"queue\": {\n"), "{text}");
    codexd.json(&["stop"])?;
    for (log, target) in
        [("gateway.log", "codexd_gateway"), ("supervisor.log", "codexd_host"), ("commands.log", "codexd")]
    {
        let text = fs::read_to_string(home.state(log))?;
        let lines: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let known = |line: &Value| line["target"].as_str().is_some_and(|name| name.starts_with(target));
        ensure!(lines.iter().any(|line| known(line) && line["level"] == "DEBUG"), "{log}: {text}");
    }
    let gateway = fs::read_to_string(home.state("gateway.log"))?;
    ensure!(gateway.contains("client connected") && gateway.contains("codexd/debug/hub"), "{gateway}");
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn without_the_variable_nothing_is_logged() -> anyhow::Result<()> {
    let home = Home::new()?;
    let codexd = Codexd::new(&home)?;
    codexd.json(&["start", "--embedded"])?;
    codexd.json(&["stop"])?;
    ensure!(!home.state("commands.log").exists(), "commands have no log");
    for log in ["gateway.log", "supervisor.log"] {
        ensure!(fs::read_to_string(home.state(log))?.is_empty(), "{log} is empty");
    }
    Ok(())
}

#[test]
fn without_a_gateway_there_is_no_hub() -> anyhow::Result<()> {
    let home = Home::new()?;
    Fake::Healthy.install(&home, Layout::Standalone)?;
    let run = Codexd::new(&home)?.run(&["debug", "hub"])?;
    ensure!(run.json()?["error"]["code"] == "not-answering" && run.code() == Some(5), "{run}");
    Ok(())
}
