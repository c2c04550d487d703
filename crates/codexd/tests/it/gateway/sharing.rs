//! Many clients on one thread: who is told what, and who may answer.

use anyhow::ensure;
use codexd_testkit::{Client, Server};
use serde_json::{Value, json};

use super::fixture::{
    GatewayFixture, assert_whole, join, said, speaking_turn, text_of_turn, told, wait_pieces,
};
use super::on_each_server;

on_each_server! {
    a_joiner_in_mid_turn_gets_the_whole_text_once: joined;
    an_approval_reaches_every_subscriber_and_the_first_answer_wins: approved;
    a_client_that_was_not_asked_cannot_answer: not_asked;
    a_pending_approval_survives_whoever_was_asked_first: pending;
    who_unsubscribes_is_told_no_more_and_the_others_are: unsubscribed;
    what_a_client_opted_out_of_is_sent_to_the_others: opted_out;
    a_new_thread_is_announced_to_whoever_asked_about_anything_else_before: announced;
    a_plain_client_is_refused_what_is_experimental_in_the_words_of_the_server: plain;
}

pub(super) const QUESTION: &str = "item/commandExecution/requestApproval";
const ESCALATED: &str = "run [[shell=echo hi;; escalate=1 deltas=2]]";

async fn joined(server: Server) -> anyhow::Result<()> {
    // The mock model holds back the end; the embedded server has none and goes on for long, also for a busy machine.
    const DELTAS: usize = 500;
    let fixture = GatewayFixture::open(server).await?;
    let alice = fixture.client("alice").await?;
    let thread = fixture.thread(&alice).await?;
    let turn = speaking_turn(&alice, &thread, &format!("[[deltas={DELTAS} delay=0.03 hold=end]]")).await?;
    let mut late_viewers = Vec::new();
    for pieces in [1, 2, 13, 14, 40, 70] {
        wait_pieces(&alice, &turn, pieces).await?;
        let late_viewer = fixture.client("late_viewer").await?;
        let joined = join(&late_viewer, &thread).await?;
        ensure!(joined["thread"]["status"]["type"] == "active", "the turn is over: {joined}");
        late_viewers.push(late_viewer);
    }
    fixture.model.release("end");
    alice.wait_turn(&turn).await?;
    assert_whole(&alice, &turn, DELTAS)?;
    for late_viewer in &late_viewers {
        late_viewer.wait_turn(&turn).await?;
        assert_whole(late_viewer, &turn, DELTAS)?;
        let speech = |method: &str| {
            let items = told(late_viewer, method, &turn).into_iter();
            items.filter(|told| told["params"]["item"]["type"] == "agentMessage").collect::<Vec<_>>()
        };
        ensure!(speech("item/started").len() == 1, "{:?}", speech("item/started"));
        let completed = speech("item/completed");
        ensure!(
            completed.len() == 1 && completed[0]["params"]["item"]["text"] == said(DELTAS),
            "{completed:?}"
        );
    }
    fixture.close().await
}

/// Two subscribers in front of a question; gives the thread, the turn, and the question as each was asked.
async fn asked(fixture: &GatewayFixture) -> anyhow::Result<(Client, Client, String, String, [Value; 2])> {
    let (alice, bob) = (fixture.client("alice").await?, fixture.client("bob").await?);
    let thread = fixture.thread(&alice).await?;
    join(&bob, &thread).await?;
    let turn = alice.start_turn(&thread, ESCALATED).await?;
    let questions = [alice.wait_method(QUESTION).await?, bob.wait_method(QUESTION).await?];
    Ok((alice, bob, thread, turn, questions))
}

fn resolved(client: &Client) -> Vec<Value> {
    let told = client.received().into_iter();
    told.filter(|message| message["method"] == "serverRequest/resolved").collect()
}

async fn approved(server: Server) -> anyhow::Result<()> {
    let fixture = GatewayFixture::open(server).await?;
    let (alice, bob, thread, turn, [asked_alice, asked_bob]) = asked(&fixture).await?;
    let late = fixture.client("late").await?;
    join(&late, &thread).await?;
    let asked_late = late.wait_method(QUESTION).await?;
    bob.respond(&asked_bob["id"], json!({"decision": "accept"})).await?;
    // Alice is late: this changes nothing.
    alice.wait_method("serverRequest/resolved").await?;
    alice.respond(&asked_alice["id"], json!({"decision": "cancel"})).await?;
    for (client, asked) in [(&alice, &asked_alice), (&bob, &asked_bob), (&late, &asked_late)] {
        let end = client.wait_turn(&turn).await?;
        ensure!(end["params"]["turn"]["status"] == "completed", "{end}");
        client.wait_method("serverRequest/resolved").await?;
        let resolved = resolved(client);
        ensure!(resolved.len() == 1 && resolved[0]["params"]["requestId"] == asked["id"], "{resolved:?}");
        let questions = client.received().iter().filter(|message| message["method"] == QUESTION).count();
        ensure!(questions == 1, "asked {questions} times");
    }
    let ran = told(&alice, "item/completed", &turn);
    let command = ran.iter().find(|told| told["params"]["item"]["type"] == "commandExecution");
    ensure!(command.is_some_and(|told| told["params"]["item"]["status"] == "completed"), "{ran:?}");
    fixture.close().await
}

async fn not_asked(server: Server) -> anyhow::Result<()> {
    let fixture = GatewayFixture::open(server).await?;
    let (alice, _bob, _thread, turn, [asked_alice, _]) = asked(&fixture).await?;
    let unsubscribed = fixture.client("unsubscribed").await?;
    for id in [asked_alice["id"].clone(), json!(0), json!(1), json!("0")] {
        unsubscribed.respond(&id, json!({"decision": "cancel"})).await?;
    }
    // When this is answered, the gateway has read what the unsubscribed client sent before.
    unsubscribed.call("thread/loaded/list", json!({})).await?;
    alice.call("thread/loaded/list", json!({})).await?;
    ensure!(resolved(&alice).is_empty(), "the answer of an unsubscribed client counted");
    alice.respond(&asked_alice["id"], json!({"decision": "accept"})).await?;
    let end = alice.wait_turn(&turn).await?;
    ensure!(end["params"]["turn"]["status"] == "completed", "{end}");
    fixture.close().await
}

async fn pending(server: Server) -> anyhow::Result<()> {
    let fixture = GatewayFixture::open(server).await?;
    let (alice, bob, thread, turn, _) = asked(&fixture).await?;
    drop(alice);
    bob.close().await?;
    let late = fixture.client("late").await?;
    join(&late, &thread).await?;
    let again = late.wait_method(QUESTION).await?;
    late.respond(&again["id"], json!({"decision": "accept"})).await?;
    let end = late.wait_turn(&turn).await?;
    ensure!(end["params"]["turn"]["status"] == "completed", "{end}");
    fixture.close().await
}

async fn unsubscribed(server: Server) -> anyhow::Result<()> {
    let fixture = GatewayFixture::open(server).await?;
    let (alice, bob) = (fixture.client("alice").await?, fixture.client("bob").await?);
    let thread = fixture.thread(&alice).await?;
    let unsubscribe = json!({"threadId": thread});
    let status = bob.call("thread/unsubscribe", unsubscribe.clone()).await?;
    ensure!(status["status"] == "notSubscribed", "{status}");
    join(&bob, &thread).await?;
    let first = speaking_turn(&alice, &thread, "[[deltas=40 delay=0.02]]").await?;
    wait_pieces(&bob, &first, 1).await?;
    let status = bob.call("thread/unsubscribe", unsubscribe.clone()).await?;
    ensure!(status["status"] == "unsubscribed", "{status}");
    bob.forget();
    alice.wait_turn(&first).await?;
    assert_whole(&alice, &first, 40)?;
    let second = alice.turn(&thread, "[[deltas=3]]").await?;
    ensure!(second["params"]["turn"]["status"] == "completed", "{second}");
    // The status of a thread is for everybody; nothing else is.
    bob.wait("the thread to rest", |message| message["params"]["status"]["type"] == "idle").await?;
    let seen: Vec<Value> =
        bob.received().into_iter().filter(|told| told["params"]["turnId"].is_string()).collect();
    ensure!(seen.is_empty(), "{seen:?}");
    let status = bob.call("thread/unsubscribe", unsubscribe).await?;
    ensure!(status["status"] == "notSubscribed", "{status}");
    fixture.close().await
}

/// Who has a connection of its own to the server hears of threads from the gateway alone.
async fn announced(server: Server) -> anyhow::Result<()> {
    let fixture = GatewayFixture::open(server).await?;
    let (alice, bob) = (fixture.client("alice").await?, fixture.client("bob").await?);
    for client in [&alice, &bob] {
        client.call("thread/list", json!({})).await?;
    }
    let thread = alice.start_thread(&fixture.work()).await?;
    for client in [&alice, &bob] {
        let told = client.wait_method("thread/started").await?;
        ensure!(told["params"]["thread"]["id"] == thread.as_str(), "{told}");
        client.call("thread/list", json!({})).await?;
        let told = client.received().iter().filter(|told| told["method"] == "thread/started").count();
        ensure!(told == 1, "announced {told} times");
    }
    fixture.close().await
}

async fn opted_out(server: Server) -> anyhow::Result<()> {
    const UNWANTED: [&str; 3] = ["item/agentMessage/delta", "thread/status/changed", "turn/started"];
    let fixture = GatewayFixture::open(server).await?;
    let alice = fixture.client("alice").await?;
    let bob = fixture.client_with("bob", json!({"optOutNotificationMethods": UNWANTED})).await?;
    let thread = fixture.thread(&alice).await?;
    join(&bob, &thread).await?;
    let turn = alice.start_turn(&thread, "[[deltas=5]]").await?;
    alice.wait_turn(&turn).await?;
    bob.wait_turn(&turn).await?;
    assert_whole(&alice, &turn, 5)?;
    ensure!(text_of_turn(&bob, &turn).is_empty(), "bob did not want the pieces");
    for method in UNWANTED {
        ensure!(!bob.received().iter().any(|told| told["method"] == method), "bob was told {method}");
    }
    ensure!(!told(&bob, "item/completed", &turn).is_empty(), "bob wanted the rest");
    fixture.close().await
}

async fn plain(server: Server) -> anyhow::Result<()> {
    let fixture = GatewayFixture::open(server).await?;
    let plain = fixture.client_with("plain", json!({})).await?;
    let thread = plain.start_thread(&fixture.work()).await?;
    let about = json!({"threadId": thread});
    for (method, params, what) in [
        ("thread/backgroundTerminals/list", about.clone(), "thread/backgroundTerminals/list"),
        ("thread/settings/update", about.clone(), "thread/settings/update"),
        ("thread/start", json!({"cwd": fixture.work(), "environments": []}), "thread/start.environments"),
        ("server/diagnostics", json!({}), "server/diagnostics"),
    ] {
        let refused = plain.request(method, params).await?.expect_err("it is experimental");
        let sentence = format!("{what} requires experimentalApi capability");
        ensure!(refused.code == -32600 && refused.message == sentence, "{refused:?} is not {sentence}");
    }
    let done = plain.turn(&thread, "[[deltas=1]]").await?;
    ensure!(done["params"]["turn"]["status"] == "completed", "{done}");
    fixture.close().await
}
