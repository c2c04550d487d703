//! The server dies, or leaves, or the gateway dies: what the clients are told.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use codexd_testkit::{Client, Fake, Server, Version, Wire, codex, skip, until};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::fixture::{
    GatewayFixture, TIMEOUT, assert_whole, gone, join, said, speaking_turn, text_of_turn, told, wait_pieces,
};
use super::on_each_server;
use super::sharing::QUESTION;

on_each_server! {
    a_killed_server_ends_the_turn_as_interrupted_and_no_connection: killed;
    a_request_in_flight_is_answered_when_the_server_is_killed: in_flight;
    a_server_that_drains_gives_every_subscriber_the_end_of_the_turn: drained;
    connects_wait_while_the_gateway_is_replaced_and_none_is_refused: gateway_killed;
    a_turn_goes_on_while_the_gateway_is_replaced: gateway_killed_in_a_turn;
}

/// Fails if a client lost its connection.
async fn assert_connected(client: &Client) -> anyhow::Result<()> {
    client.call("thread/loaded/list", json!({})).await.map(drop).context("the connection is as it was")
}

async fn killed(server: Server) -> anyhow::Result<()> {
    let fixture = GatewayFixture::open(server).await?;
    let (alice, bob) = (fixture.client("alice").await?, fixture.client("bob").await?);
    let thread = fixture.thread(&alice).await?;
    let asking = fixture.thread(&alice).await?;
    join(&bob, &thread).await?;
    let waiting = alice.start_turn(&asking, "[[shell=true;; escalate=1]]").await?;
    let question = alice.wait_method(QUESTION).await?;
    let turn = speaking_turn(&alice, &thread, "[[deltas=500 delay=0.02]]").await?;
    wait_pieces(&bob, &turn, 5).await?;
    let before = fixture.kill_server().await?;
    for client in [&alice, &bob] {
        let end = client.wait_turn(&turn).await?;
        ensure!(end["params"]["turn"]["status"] == "interrupted", "{end}");
        let partial = text_of_turn(client, &turn);
        ensure!(!partial.is_empty() && said(500).starts_with(&partial), "{partial}");
    }
    let end = alice.wait_turn(&waiting).await?;
    ensure!(end["params"]["turn"]["status"] == "interrupted", "{end}");
    let resolved = alice.wait_method("serverRequest/resolved").await?;
    ensure!(resolved["params"]["requestId"] == question["id"], "{resolved}");
    for thread in [&thread, &asking] {
        let done = alice.turn(thread, "[[deltas=2]]").await?;
        ensure!(done["params"]["turn"]["status"] == "completed", "{done}");
    }
    ensure!(fixture.server().await?.pid != before, "another process serves");
    for (client, turn) in [(&alice, &turn), (&bob, &turn), (&alice, &waiting)] {
        ensure!(told(client, "turn/completed", turn).len() == 1, "the end of {turn} was told twice");
        assert_connected(client).await?;
    }
    fixture.close().await
}

/// Whether a process is stopped with all of its threads.
fn is_stopped(pid: u32) -> bool {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    tasks.flatten().all(|task| {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" T"))
    })
}

async fn in_flight(server: Server) -> anyhow::Result<()> {
    let fixture = GatewayFixture::open(server).await?;
    let alice = fixture.client("alice").await?;
    let thread = fixture.thread(&alice).await?;
    // The connection of alice's own is there from now on.
    assert_connected(&alice).await?;
    let process = fixture.server().await?;
    // It takes the requests and can no longer answer them.
    process.signal(Signal::STOP)?;
    until(TIMEOUT, "every thread of it to stop", || is_stopped(process.pid).then_some(()))?;
    let hub = alice.send_request("thread/read", json!({"threadId": thread})).await?;
    let own = alice.send_request("thread/loaded/list", json!({})).await?;
    let start = json!({"threadId": thread, "input": [{"type": "text", "text": "[[deltas=1]]"}]});
    let start = alice.send_request("turn/start", start).await?;
    tokio::task::yield_now().await;
    // Another client's parse error comes back through the same loop: what was sent before it has been passed on.
    let bob = Client::dial(&fixture.place()).await?;
    bob.send_frame(tokio_tungstenite::tungstenite::Message::text("{")).await?;
    bob.wait("a parse error", |message| message["error"]["code"] == -32700).await?;
    process.signal(Signal::KILL)?;
    for request in [hub, own, start] {
        let answer = alice.answer(&request).await?;
        let Err(error) = answer else { anyhow::bail!("{request:?} was answered: {answer:?}") };
        ensure!(error.data["reason"] == "appServerRestarted", "{request:?}: {error:?}");
    }
    let done = alice.turn(&thread, "[[deltas=2]]").await?;
    ensure!(done["params"]["turn"]["status"] == "completed", "{done}");
    let read = alice.call("thread/read", json!({"threadId": thread, "includeTurns": true})).await?;
    let turns = read["thread"]["turns"].as_array().map_or(0, Vec::len);
    ensure!(turns == 2, "{turns} turns: one was asked for before the crash, one after, and none twice");
    fixture.close().await
}

async fn drained(server: Server) -> anyhow::Result<()> {
    let fixture = GatewayFixture::open(server).await?;
    let (alice, bob) = (fixture.client("alice").await?, fixture.client("bob").await?);
    let thread = fixture.thread(&alice).await?;
    join(&bob, &thread).await?;
    let turn = speaking_turn(&alice, &thread, "[[deltas=40 delay=0.05]]").await?;
    let process = fixture.server().await?;
    process.signal(Signal::TERM)?;
    let late = fixture.client("late").await?;
    // Who would join now is let in by the successor.
    join(&late, &thread).await?;
    for client in [&alice, &bob] {
        client.wait_turn(&turn).await?;
        assert_whole(client, &turn, 40)?;
    }
    gone(&process).await?;
    let done = bob.turn(&thread, "[[deltas=2]]").await?;
    ensure!(done["params"]["turn"]["status"] == "completed", "{done}");
    for client in [&alice, &bob, &late] {
        ensure!(told(client, "turn/completed", &turn).len() <= 1, "the end was told twice");
        assert_connected(client).await?;
    }
    fixture.close().await
}

/// A command that runs on behind its turn ends with its server, as one ends that upstream kills.
#[tokio::test]
async fn a_background_terminal_ends_when_its_server_is_killed() -> anyhow::Result<()> {
    if let Err(reason) = codex::platform() {
        skip!("{reason}");
    }
    for version in [Version::V0_169_0, Version::V0_171_0] {
        let fixture = GatewayFixture::open(Server::Real(version)).await?;
        let alice = fixture.client("alice").await?;
        let thread = alice.start_thread(&fixture.work()).await?;
        alice.turn(&thread, "[[shell=sleep 2000;; deltas=1]]").await?;
        let is_command = |message: &Value| message["params"]["item"]["type"] == "commandExecution";
        let is_end = |message: &Value| message["method"] == "item/completed" && is_command(message);
        ensure!(!alice.received().iter().any(is_end), "it runs on");
        fixture.kill_server().await?;
        let end = alice.wait("the end of the command", is_end).await?;
        let item = &end["params"]["item"];
        ensure!(item["status"] == "failed" && item["exitCode"] == -1, "{end}");
        ensure!(end["params"]["completedAtMs"].is_u64() && item["durationMs"].is_u64(), "{end}");
        let done = alice.turn(&thread, "[[deltas=2]]").await?;
        ensure!(done["params"]["turn"]["status"] == "completed", "{done}");
        ensure!(alice.received().iter().filter(|message| is_end(message)).count() == 1, "it ended once");
        fixture.close().await?;
    }
    Ok(())
}

/// A server that takes its time to come back.
#[tokio::test]
async fn requests_wait_while_no_server_lives_and_are_answered() -> anyhow::Result<()> {
    let fixture = GatewayFixture::with_fake(&Fake::SlowStart(1_500)).await?;
    let alice = fixture.client("alice").await?;
    let thread = fixture.thread(&alice).await?;
    let asked = Instant::now();
    fixture.kill_server().await?;
    let (bob, read) = (fixture.client("bob"), alice.call("thread/read", json!({"threadId": thread})));
    let (bob, read) = tokio::join!(bob, read);
    ensure!(read?["thread"]["id"] == thread.as_str(), "the answer is about the thread");
    bob?.call("thread/loaded/list", json!({})).await?;
    ensure!(asked.elapsed() > Duration::from_millis(1_000), "a server lived all the time");
    let done = alice.turn(&thread, "[[deltas=2]]").await?;
    ensure!(done["params"]["turn"]["status"] == "completed", "{done}");
    fixture.close().await
}

async fn gateway_killed(server: Server) -> anyhow::Result<()> {
    const CONNECTS: usize = 50;
    let fixture = GatewayFixture::open(server).await?;
    let before = fixture.server().await?;
    let old = fixture.gateway()?;
    let socket = fixture.socket();
    old.signal(Signal::KILL)?;
    let started = Instant::now();
    let connected = tokio::task::spawn_blocking(move || -> anyhow::Result<(Duration, Vec<Wire>)> {
        let first = Wire::connect(&socket)?;
        let served = started.elapsed();
        let rest = (0..CONNECTS).map(|_| Wire::connect(&socket)).collect::<anyhow::Result<Vec<_>>>()?;
        drop(first);
        Ok((served, rest))
    });
    let (served, clients) = connected.await??;
    ensure!(served < Duration::from_secs(25), "the first was served after {served:?}");
    println!("served {served:?} after the gateway was killed");
    drop(clients);
    ensure!(fixture.gateway()?.pid != old.pid, "a successor serves");
    ensure!(fixture.server().await?.pid == before.pid, "the server is untouched");
    fixture.close().await
}

async fn gateway_killed_in_a_turn(server: Server) -> anyhow::Result<()> {
    let fixture = GatewayFixture::open(server).await?;
    let alice = fixture.client("alice").await?;
    let thread = fixture.thread(&alice).await?;
    // Longer than anybody waits: it goes on until it is steered.
    let turn = speaking_turn(&alice, &thread, "[[deltas=1000 delay=0.05]]").await?;
    fixture.gateway()?.signal(Signal::KILL)?;
    alice.wait_closed().await?;
    let again = fixture.client("again").await?;
    let resumed = again.call("thread/resume", json!({"threadId": thread})).await?;
    let last = resumed["thread"]["turns"].as_array().and_then(|turns| turns.last().cloned());
    ensure!(last.is_some_and(|last: Value| last["id"] == turn.as_str()), "{resumed}");
    wait_pieces(&again, &turn, 2).await?;
    let input = json!([{"type": "text", "text": "rather [[deltas=1]]"}]);
    let steer = json!({"threadId": thread, "expectedTurnId": turn, "input": input});
    again.call("turn/steer", steer).await?;
    let end = again.wait_turn(&turn).await?;
    ensure!(end["params"]["turn"]["status"] == "completed", "{end}");
    fixture.close().await
}
