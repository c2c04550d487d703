//! `codexd logs` of each process.

use std::fs;

use anyhow::ensure;
use codexd_testkit::{Codexd, Home};

#[test]
fn each_process_has_its_log_and_the_rotated_file_counts() -> anyhow::Result<()> {
    let home = Home::new()?;
    let codexd = Codexd::new(&home)?;
    fs::create_dir_all(home.state(""))?;
    for (name, process) in
        [("gateway", "gateway"), ("supervisor", "supervisor"), ("server.stderr", "app-server")]
    {
        fs::write(home.state(&format!("{name}.log.1")), format!("older {process}\n"))?;
        fs::write(home.state(&format!("{name}.log")), format!("newer {process}\n"))?;
        let reply = codexd.json(&["logs", "--process", process])?;
        let lines = [format!("older {process}"), format!("newer {process}")];
        ensure!(reply["process"] == process && reply["lines"] == serde_json::json!(lines), "{reply}");
        ensure!(reply["path"].as_str() == home.state(&format!("{name}.log")).to_str(), "{reply}");
        let has_stream = reply.get("stream").is_some();
        ensure!(has_stream == (process == "app-server"), "{reply}");
    }
    let stream = codexd.run(&["logs", "--process", "gateway", "--stream", "stdout"])?;
    ensure!(stream.json()?["error"]["code"] == "bad-arguments", "{stream}");
    Ok(())
}

#[test]
fn the_logs_that_exist_are_listed() -> anyhow::Result<()> {
    let home = Home::new()?;
    let codexd = Codexd::new(&home)?;
    ensure!(codexd.json(&["logs", "--list"])?["logs"] == serde_json::json!([]));
    fs::create_dir_all(home.state(""))?;
    fs::write(home.state("gateway.log"), "four")?;
    fs::write(home.state("server.stdout.log.1"), "older")?;
    let logs = codexd.json(&["logs", "--list"])?["logs"].clone();
    ensure!(logs.as_array().map(Vec::len) == Some(2), "{logs}");
    ensure!(logs[0]["stream"] == "stdout" && logs[0]["rotated"] == true && logs[0]["bytes"] == 5, "{logs}");
    ensure!(
        logs[1]["process"] == "gateway" && logs[1]["rotated"] == false && logs[1]["bytes"] == 4,
        "{logs}"
    );
    ensure!(logs[1]["modifiedAt"].is_string() && logs[1].get("stream").is_none(), "{logs}");
    let text = codexd.run(&["logs", "--list", "--text"])?.stdout;
    ensure!(text.contains("gateway.log\n") && text.contains("server.stdout.log.1"), "{text}");
    Ok(())
}

#[test]
fn a_log_that_does_not_exist_is_reported() -> anyhow::Result<()> {
    let home = Home::new()?;
    let codexd = Codexd::new(&home)?;
    let run = codexd.run(&["logs", "--process", "supervisor", "--text"])?;
    ensure!(run.success() && run.stderr.contains("supervisor.log does not exist"), "{run}");
    let run = codexd.run(&["logs", "--process", "gateway", "--follow"])?;
    ensure!(run.code() == Some(5) && run.stderr.contains("gateway.log does not exist"), "{run}");
    Ok(())
}
