//! The harness against the real releases: what every other test takes for granted.

use std::time::Duration;

use codexd_testkit::transcript::difference;
use codexd_testkit::{AppServer, Home, MockModel, Normaliser, Server, Version, codex, skip};
use rustix::process::Signal;
use serde_json::json;

/// One turn with a command that must be approved; gives the normalised lines of the client.
async fn approved_turn(server: Server) -> anyhow::Result<Vec<String>> {
    let model = MockModel::start()?;
    let home = Home::with_model(&model)?;
    let running = AppServer::start(&home, server).await?;
    let client = running.client("harness").await?;
    client.answer_requests(|request| {
        (request["method"] == "item/commandExecution/requestApproval").then(|| json!({"decision": "accept"}))
    });
    let thread = client.start_thread(&home.work()).await?;
    let done = client.turn(&thread, "go [[shell=echo hi > made;; escalate=1 deltas=3]]").await?;
    anyhow::ensure!(done["params"]["turn"]["status"] == "completed", "{done}");
    anyhow::ensure!(home.work().join("made").exists(), "the command did not run");
    anyhow::ensure!(!client.streamed_text(&thread).is_empty(), "no text came");
    let lines = Normaliser::for_home(&home).lines(&client.transcript());
    drop(client);
    anyhow::ensure!(running.end(Signal::TERM)?.success(), "it did not end well");
    home.assert_no_process_left();
    Ok(lines)
}

#[tokio::test]
async fn a_real_turn_runs_offline_in_every_release() -> anyhow::Result<()> {
    if let Err(reason) = codex::platform() {
        skip!("{reason}");
    }
    for version in Version::ALL {
        let lines = approved_turn(Server::Real(version)).await?;
        let text = lines.join("\n");
        assert!(text.contains("answer to item/commandExecution/requestApproval"), "{version}: {text}");
        assert!(!text.contains("/tmp/"), "{version}: a path was not normalised: {text}");
    }
    Ok(())
}

#[tokio::test]
async fn two_runs_of_one_script_give_equal_lines() -> anyhow::Result<()> {
    if let Err(reason) = codex::platform() {
        skip!("{reason}");
    }
    let server = Server::Real(Version::NEWEST);
    let sorted = |mut lines: Vec<String>| {
        lines.sort();
        lines
    };
    let (first, second) = (approved_turn(server).await?, approved_turn(server).await?);
    assert_eq!(difference(&sorted(first), &sorted(second)), None);
    Ok(())
}

#[tokio::test]
async fn a_held_turn_can_be_interrupted_while_the_model_waits() -> anyhow::Result<()> {
    if let Err(reason) = codex::platform() {
        skip!("{reason}");
    }
    let model = MockModel::start()?;
    let home = Home::with_model(&model)?;
    let running = AppServer::start(&home, Server::Real(Version::NEWEST)).await?;
    let client = running.client("harness").await?;
    let thread = client.start_thread(&home.work()).await?;
    let turn = client.start_turn(&thread, "wait [[deltas=2 hold=x]]").await?;
    model.wait_request("hold=x", Duration::from_secs(30)).await?;
    client.wait_method("item/agentMessage/delta").await?;
    client.call("turn/interrupt", json!({"threadId": thread, "turnId": turn})).await?;
    let done = client.wait_turn(&turn).await?;
    assert_eq!(done["params"]["turn"]["status"], "interrupted");
    Ok(())
}
