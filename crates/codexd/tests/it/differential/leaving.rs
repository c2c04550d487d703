//! Scenes about servers that leave, die, or are not alone.

use anyhow::Context;
use codexd_testkit::{AppServer, Client};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::stage::{Actor, Stage};

fn text(text: &str) -> Value {
    json!([{"type": "text", "text": text}])
}

/// A client whose thread has had one turn.
async fn settled(stage: &mut Stage) -> anyhow::Result<(Actor, String)> {
    let alice = stage.enter("alice").await?;
    let thread = alice.thread(stage).await?;
    alice.turn(&thread, "[[deltas=1]]").await?;
    Ok((alice, thread))
}

/// While the last turn runs, what starts or moves something is refused, the rest works; then the server leaves.
pub(super) async fn drained(stage: &mut Stage) -> anyhow::Result<()> {
    let (alice, thread) = settled(stage).await?;
    let turn = alice.start_turn(&thread, "[[shell=true;; escalate=1 deltas=3]]").await?;
    let question = alice.wait_method("item/commandExecution/requestApproval").await?;
    let server = stage.server.take().context("the stage has a server")?;
    server.process().signal(Signal::TERM)?;
    until_draining(&server).await?;
    let late = stage.watch("late", Client::dial(server.place()).await?);
    late.initialize("late", json!({})).await?;
    late.wait_method("remoteControl/status/changed").await?;
    for (method, params) in [
        ("thread/start", json!({})),
        ("thread/resume", json!({"threadId": thread, "excludeTurns": true})),
        ("thread/archive", json!({"threadId": thread})),
        ("thread/fork", json!({"threadId": thread})),
        ("turn/start", json!({"threadId": thread, "input": text("x")})),
        ("turn/steer", json!({"threadId": thread, "expectedTurnId": turn, "input": text("x")})),
        ("turn/steer", json!({"threadId": thread, "input": text("x")})),
        ("thread/read", json!({"threadId": thread})),
        ("thread/list", json!({})),
        ("thread/loaded/list", json!({})),
        ("thread/unsubscribe", json!({"threadId": thread})),
        ("no/such/method", json!({})),
    ] {
        late.ask(method, params).await?.ok();
    }
    // A hang-up never forces: the turn is still waited for.
    server.process().signal(Signal::HUP)?;
    late.ask("thread/loaded/list", json!({})).await?.ok();
    alice.respond(&question["id"], json!({"decision": "accept"})).await?;
    let status = tokio::task::spawn_blocking(move || server.wait()).await??;
    assert!(status.success(), "{status}");
    let closed = alice.wait_closed().await?;
    assert_eq!(closed.frame, None, "no closing frame");
    stage.restart().await?;
    let again = stage.enter("again").await?;
    again.ask("thread/turns/list", json!({"threadId": thread, "limit": 1})).await?.ok();
    // How much of the end a draining server still sends is luck; the history is what counts.
    stage.forget_tail("alice", "item/completed");
    // That it is active again, and that it is idle.
    stage.forget_tail("late", "thread/status/changed");
    stage.forget_tail("late", "thread/status/changed");
    Ok(())
}

/// Asks until the server says that it drains: the signal travels beside the socket.
async fn until_draining(server: &AppServer) -> anyhow::Result<()> {
    let client = server.client("asker").await?;
    loop {
        let unknown_thread = json!({"threadId": "01a1f753-6b57-7b12-90c4-0103728d38e4", "input": []});
        match client.request("turn/start", unknown_thread).await? {
            Err(refusal) if refusal.data["reason"] == "serverShuttingDown" => return Ok(()),
            _ => tokio::task::yield_now().await,
        }
    }
}

/// A second signal does not wait for the question that is open.
pub(super) async fn forced(stage: &mut Stage) -> anyhow::Result<()> {
    let (alice, thread) = settled(stage).await?;
    alice.start_turn(&thread, "[[shell=true;; escalate=1]]").await?;
    alice.wait_method("item/commandExecution/requestApproval").await?;
    let server = stage.server.take().context("the stage has a server")?;
    server.process().signal(Signal::TERM)?;
    until_draining(&server).await?;
    let status = tokio::task::spawn_blocking(move || server.end(Signal::INT)).await??;
    assert!(status.success(), "{status}");
    assert_eq!(alice.wait_closed().await?.frame, None, "no closing frame");
    stage.restart().await?;
    let again = stage.enter("again").await?;
    again.ask("thread/read", json!({"threadId": thread, "includeTurns": true})).await?.ok();
    again.join(&thread).await?;
    again.turn(&thread, "[[deltas=1]]").await?;
    Ok(())
}

/// `kill -9` in the middle of a turn: the socket is taken over, the turn reads back as interrupted.
pub(super) async fn killed(stage: &mut Stage) -> anyhow::Result<()> {
    let (alice, thread) = settled(stage).await?;
    let lost = alice.thread(stage).await?;
    alice.speaking_turn(&thread, "[[deltas=500 delay=0.02]]").await?;
    let server = stage.server.take().context("the stage has a server")?;
    tokio::task::spawn_blocking(move || server.end(Signal::KILL)).await??;
    alice.wait_closed().await?;
    stage.restart().await?;
    let again = stage.enter("again").await?;
    for (method, params) in [
        ("thread/list", json!({})),
        ("thread/loaded/list", json!({})),
        ("thread/read", json!({"threadId": thread, "includeTurns": true})),
        ("thread/read", json!({"threadId": lost})),
        ("thread/resume", json!({"threadId": lost})),
        ("thread/resume", json!({"threadId": thread})),
    ] {
        again.ask(method, params).await?.ok();
    }
    again.wait_method("thread/goal/cleared").await?;
    again.turn(&thread, "[[deltas=1]]").await?;
    again.ask("thread/turns/list", json!({"threadId": thread})).await?.ok();
    Ok(())
}

/// Both see all threads, and only the one that has it loaded may write.
pub(super) async fn two_servers(stage: &mut Stage) -> anyhow::Result<()> {
    let (alice, thread) = settled(stage).await?;
    let second = stage.second_server().await?;
    let other = Client::dial(second.place()).await?;
    let other = stage.watch("other", other);
    other.initialize("other", json!({})).await?;
    other.wait_method("remoteControl/status/changed").await?;
    for (method, params) in [
        ("thread/list", json!({})),
        ("thread/loaded/list", json!({})),
        ("thread/read", json!({"threadId": thread})),
        ("thread/turns/list", json!({"threadId": thread})),
        ("thread/resume", json!({"threadId": thread})),
        ("thread/archive", json!({"threadId": thread})),
        ("thread/unarchive", json!({"threadId": thread})),
        ("thread/unsubscribe", json!({"threadId": thread})),
        ("turn/start", json!({"threadId": thread, "input": text("x")})),
        ("thread/name/set", json!({"threadId": thread, "name": "from outside"})),
    ] {
        other.ask(method, params).await?.ok();
    }
    other.wait_method("thread/name/updated").await?;
    alice.forget();
    alice.call("thread/unsubscribe", json!({"threadId": thread})).await?;
    alice.wait_method("thread/closed").await?;
    other.join(&thread).await?;
    other.turn(&thread, "[[deltas=1]]").await?;
    alice.ask("thread/resume", json!({"threadId": thread, "excludeTurns": true})).await?.err();
    alice.ask("thread/turns/list", json!({"threadId": thread})).await?.ok();
    drop(second);
    Ok(())
}
