//! What keeps a thread where it is while the server is replaced: each of these once lost work when it was overlooked.

use std::time::Duration;

use anyhow::{Context, ensure};
use codexd_testkit::{Client, Server};
use serde_json::{Value, json};

use super::fixture::{GatewayFixture, TIMEOUT, assert_whole, join, speaking_turn};
use super::{on_each_server, on_the_real_server};

on_each_server! {
    a_turn_that_was_accepted_right_before_a_restart_is_never_cut: window;
    an_ephemeral_thread_stays_until_its_client_lets_go: ephemeral;
    a_thread_that_has_said_nothing_yet_has_its_first_turn_and_moves_then: unmaterialised;
}

on_the_real_server! {
    a_child_thread_in_its_turn_is_not_cut_and_everybody_sees_it_once: children;
    what_waits_in_a_queue_runs_to_its_end_across_a_restart: queue;
    a_background_terminal_keeps_its_thread_where_it_is: terminal;
}

/// Restarts, and gives the answer of the command beside what `work` gives.
pub(super) async fn during_a_restart<T>(
    fixture: &GatewayFixture,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let (restarted, worked) = tokio::join!(fixture.command(&["restart"]), work);
    let restarted = restarted?;
    ensure!(restarted["status"] == "restarted", "{restarted}");
    worked
}

/// A turn that is asked for some moments before, during and after the restart, again and again.
async fn window(server: Server) -> anyhow::Result<()> {
    const DELAYS_MS: [u64; 10] = [0, 1, 2, 5, 10, 20, 40, 80, 160, 320];
    let fixture = GatewayFixture::open(server).await?;
    let alice = fixture.client("alice").await?;
    let thread = fixture.thread(&alice).await?;
    for delay in DELAYS_MS {
        let turns = during_a_restart(&fixture, async {
            let mut turns = vec![alice.start_turn(&thread, "[[deltas=3]]").await?];
            // The moment is the point here: it wanders across everything that a restart does.
            tokio::time::sleep(Duration::from_millis(delay)).await;
            alice.wait_turn(&turns[0]).await?;
            turns.push(alice.start_turn(&thread, "[[deltas=3]]").await?);
            alice.wait_turn(&turns[1]).await?;
            Ok(turns)
        });
        for turn in turns.await.with_context(|| format!("{delay} ms"))? {
            assert_whole(&alice, &turn, 3).with_context(|| format!("{delay} ms"))?;
        }
    }
    fixture.close().await
}

async fn ephemeral(server: Server) -> anyhow::Result<()> {
    let fixture = GatewayFixture::open(server).await?;
    let alice = fixture.client("alice").await?;
    let started = alice.call("thread/start", json!({"cwd": fixture.work(), "ephemeral": true})).await?;
    let thread = started["thread"]["id"].as_str().context("an id")?.to_owned();
    let first = alice.turn(&thread, "[[deltas=1]]").await?;
    ensure!(first["params"]["turn"]["status"] == "completed", "{first}");
    let old = fixture.server().await?;
    during_a_restart(&fixture, async {
        // The new one serves all others meanwhile.
        wait_another_server(&fixture, old.pid).await?;
        let bob = fixture.client("bob").await?;
        let other = fixture.thread(&bob).await?;
        ensure!(!other.is_empty(), "others work");
        let turn = alice.start_turn(&thread, "[[deltas=2]]").await?;
        alice.wait_turn(&turn).await?;
        assert_whole(&alice, &turn, 2)?;
        ensure!(old.is_alive(), "the old one left with the thread");
        alice.call("thread/unsubscribe", json!({"threadId": thread})).await
    })
    .await?;
    fixture.until_left(&old).await?;
    fixture.close().await
}

/// Waits until `status` names another server as the one that serves.
pub(super) async fn wait_another_server(fixture: &GatewayFixture, old: u32) -> anyhow::Result<()> {
    let deadline = std::time::Instant::now() + TIMEOUT;
    loop {
        let status = fixture.status().await?;
        if status["pid"].as_u64().is_some_and(|pid| pid != u64::from(old)) {
            return Ok(());
        }
        ensure!(std::time::Instant::now() < deadline, "no other server: {status:#}");
    }
}

async fn unmaterialised(server: Server) -> anyhow::Result<()> {
    let fixture = GatewayFixture::open(server).await?;
    let alice = fixture.client("alice").await?;
    let thread = alice.start_thread(&fixture.work()).await?;
    let old = fixture.server().await?;
    let turn = during_a_restart(&fixture, async {
        wait_another_server(&fixture, old.pid).await?;
        let turn = alice.start_turn(&thread, "[[deltas=2]]").await?;
        alice.wait_turn(&turn).await?;
        Ok(turn)
    })
    .await?;
    assert_whole(&alice, &turn, 2)?;
    fixture.until_left(&old).await?;
    let next = alice.start_turn(&thread, "[[deltas=3]]").await?;
    alice.wait_turn(&next).await?;
    assert_whole(&alice, &next, 3)?;
    fixture.close().await
}

async fn children(fixture: GatewayFixture) -> anyhow::Result<()> {
    const CHILD: usize = 60;
    let (alice, bob) = (fixture.client("alice").await?, fixture.client("bob").await?);
    let thread = fixture.thread(&alice).await?;
    let spawn =
        r#"[[tool=multi_agent_v1/spawn_agent {"message":"child <<deltas=60 delay=0.05>>"};; deltas=2]]"#;
    let parent = alice.turn(&thread, spawn).await?;
    ensure!(parent["params"]["turn"]["status"] == "completed", "{parent}");
    let of_child = |message: &Value| {
        message["method"] == "item/agentMessage/delta" && message["params"]["threadId"] != thread.as_str()
    };
    let piece = alice.wait("the child to speak", of_child).await?;
    let turn = piece["params"]["turnId"].as_str().context("a turn")?.to_owned();
    let child = piece["params"]["threadId"].as_str().context("a thread")?.to_owned();
    // The gateway's own subscription is not visible to clients.
    let goals = |client: &Client| {
        let told = client.received().into_iter();
        told.filter(|told| told["method"] == "thread/goal/cleared" && told["params"]["threadId"] == *child)
            .count()
    };
    during_a_restart(&fixture, async {
        for client in [&alice, &bob] {
            client.wait_turn(&turn).await?;
            assert_whole(client, &turn, CHILD)?;
        }
        Ok(())
    })
    .await?;
    ensure!(goals(&alice) + goals(&bob) == 0, "a goal that it never had was said to be cleared");
    for thread in [&thread, &child] {
        join(&alice, thread).await?;
        let next = alice.start_turn(thread, "[[deltas=3]]").await?;
        alice.wait_turn(&next).await?;
        assert_whole(&alice, &next, 3)?;
    }
    fixture.close().await
}

async fn queue(fixture: GatewayFixture) -> anyhow::Result<()> {
    let alice = fixture.client("alice").await?;
    let thread = fixture.thread(&alice).await?;
    let turn = speaking_turn(&alice, &thread, "[[deltas=20 delay=0.05]]").await?;
    for text in ["queued one [[deltas=4]]", "queued two [[deltas=4]]"] {
        alice.call("thread/queue/add", queued(&thread, text)).await?;
    }
    during_a_restart(&fixture, async {
        alice.wait_turn(&turn).await?;
        Ok(())
    })
    .await?;
    assert_whole(&alice, &turn, 20)?;
    for text in ["queued one", "queued two"] {
        fixture.model.wait_request(text, TIMEOUT).await?;
        let of_text = |message: &Value| {
            message["method"] == "item/completed"
                && message["params"]["item"]["type"] == "userMessage"
                && message["params"]["item"]["content"][0]["text"]
                    .as_str()
                    .is_some_and(|said| said.starts_with(text))
        };
        let item = alice.wait(text, of_text).await?;
        let turn = item["params"]["turnId"].as_str().context("a turn")?.to_owned();
        alice.wait_turn(&turn).await?;
        assert_whole(&alice, &turn, 4).with_context(|| text.to_owned())?;
    }
    fixture.close().await
}

fn queued(thread: &str, text: &str) -> Value {
    json!({"threadId": thread, "clientUserMessageId": text, "input": [{"type": "text", "text": text}]})
}

async fn terminal(fixture: GatewayFixture) -> anyhow::Result<()> {
    let alice = fixture.client("alice").await?;
    let thread = fixture.thread(&alice).await?;
    let flag = fixture.work().join("go");
    let wait = format!("while [ ! -e {} ]; do sleep 0.1; done", flag.display());
    let call = format!(r#"[[tool=exec_command {{"cmd":"{wait}","yield_time_ms":250}};; deltas=2]]"#);
    let turn = alice.turn(&thread, &call).await?;
    ensure!(turn["params"]["turn"]["status"] == "completed", "{turn}");
    let terminals = terminals(&alice, &thread).await?;
    ensure!(terminals == 1, "{terminals} terminals");
    let old = fixture.server().await?;
    during_a_restart(&fixture, async {
        wait_another_server(&fixture, old.pid).await?;
        let bob = fixture.client("bob").await?;
        fixture.thread(&bob).await?;
        ensure!(self::terminals(&alice, &thread).await? == 1, "the terminal was cut");
        ensure!(old.is_alive(), "the old one left with the terminal");
        std::fs::write(&flag, "")?;
        Ok(())
    })
    .await?;
    fixture.until_left(&old).await?;
    let id = turn["params"]["turn"]["id"].as_str().context("a turn")?;
    let command = alice
        .wait("the end of the command", |message| {
            message["method"] == "item/completed"
                && message["params"]["turnId"] == id
                && message["params"]["item"]["type"] == "commandExecution"
        })
        .await?;
    ensure!(command["params"]["item"]["status"] == "completed", "{command}");
    let done = alice.turn(&thread, "[[deltas=1]]").await?;
    ensure!(done["params"]["turn"]["status"] == "completed", "{done}");
    fixture.close().await
}

async fn terminals(client: &Client, thread: &str) -> anyhow::Result<usize> {
    let list = client.call("thread/backgroundTerminals/list", json!({"threadId": thread})).await?;
    Ok(list["data"].as_array().map_or(0, Vec::len))
}
