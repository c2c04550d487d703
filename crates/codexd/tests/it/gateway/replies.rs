//! Every request gets one reply, whatever it looks like and however many others there are; and who does not read is cut
//! without harm to the others.

use std::collections::HashMap;
use std::time::Instant;

use anyhow::{Context, ensure};
use codexd_testkit::{Server, Wire, until};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::fixture::{GatewayFixture, TIMEOUT, assert_whole, join, speaking_turn};
use super::on_each_server;

on_each_server! {
    what_is_no_json_is_answered_and_the_connection_stays: malformed;
    ids_come_back_as_they_were_sent: ids;
    a_flood_is_answered_whole_and_fails_nobody_else: flood;
    a_reader_too_slow_is_cut_with_a_reason_and_the_others_go_on: slow_reader;
    a_client_that_leaves_in_the_middle_takes_nobody_with_it: leaving;
}

async fn malformed(server: Server) -> anyhow::Result<()> {
    let fixture = GatewayFixture::open(server).await?;
    let alice = fixture.client("alice").await?;
    for text in ["no json", "{", "", r#"{"id":1,"method":"thread/loaded/list","params":{}"#, "\u{0}", "[1,"] {
        alice.forget();
        alice.send_frame(Message::text(text)).await?;
        let answer = alice.wait("a parse error", |message| message.get("error").is_some()).await?;
        ensure!(answer["error"]["code"] == -32700 && answer["id"].is_null(), "{text:?}: {answer}");
        alice.call("thread/loaded/list", json!({})).await?;
    }
    let thread = fixture.thread(&alice).await?;
    ensure!(!thread.is_empty(), "the connection is as good as before");
    fixture.close().await
}

async fn ids(server: Server) -> anyhow::Result<()> {
    let fixture = GatewayFixture::open(server).await?;
    let alice = fixture.client("alice").await?;
    let thread = fixture.thread(&alice).await?;
    let ids = [
        json!(0),
        json!(-1),
        json!(i64::MAX),
        json!(i64::MIN),
        json!(""),
        json!("1"),
        json!("ä\"\\\n\u{1F980}"),
    ];
    for id in ids {
        for (method, params) in [
            ("thread/loaded/list", json!({})),
            ("thread/read", json!({"threadId": thread})),
            ("no/such", json!({})),
        ] {
            let from = alice.received().len();
            alice.send_request_as(id.clone(), method, params).await?;
            let answer =
                alice.wait("an answer", |message| message["id"] == id && message.get("method").is_none());
            answer.await.with_context(|| format!("{method} as {id}"))?;
            let answers = alice.received()[from..].iter().filter(|told| told.get("id").is_some()).count();
            ensure!(answers == 1, "{answers} answers to {method} as {id}");
            alice.forget();
        }
    }
    // The same id in flight several times is answered as often.
    for _ in 0..20 {
        alice.send_request_as(json!("same"), "thread/read", json!({"threadId": thread})).await?;
        alice.send_request_as(json!("same"), "thread/loaded/list", json!({})).await?;
    }
    let mut answers = 0;
    let all = alice.wait("forty answers", |message| {
        answers += usize::from(message["id"] == "same");
        answers == 40
    });
    all.await?;
    fixture.close().await
}

async fn flood(server: Server) -> anyhow::Result<()> {
    const FLOOD: u64 = 2_000;
    const CALM: usize = 200;
    let fixture = GatewayFixture::open(server).await?;
    let alice = fixture.client("alice").await?;
    let thread = fixture.thread(&alice).await?;
    let (socket, about) = (fixture.socket(), json!({"threadId": thread}).to_string());
    let flooder = tokio::task::spawn_blocking(move || -> anyhow::Result<HashMap<u64, usize>> {
        let mut wire = Wire::connect(&socket)?;
        let first = wire.request("thread/loaded/list", "{}")?;
        for number in 1..FLOOD {
            match number % 3 {
                0 => wire.request("thread/loaded/list", "{}")?,
                1 => wire.request("thread/read", &about)?,
                _ => wire.request("no/such/method", "{}")?,
            };
        }
        let mut answers = HashMap::new();
        while answers.values().sum::<usize>() < usize::try_from(FLOOD)? {
            let message: Value = serde_json::from_slice(&wire.message()?)?;
            if message.get("method").is_none() {
                let id = message["id"].as_u64().with_context(|| format!("no id: {message}"))?;
                ensure!(message["error"]["code"] != -32001, "overloaded: {message}");
                let bad = (id - first) % 3 == 2;
                ensure!(message.get("error").is_some() == bad, "{message}");
                *answers.entry(id - first).or_default() += 1;
            }
        }
        Ok(answers)
    });
    let mut slowest = std::time::Duration::ZERO;
    for number in 0..CALM {
        let started = Instant::now();
        let (method, params) = if number % 2 == 0 {
            ("thread/loaded/list", json!({}))
        } else {
            ("thread/read", json!({"threadId": thread}))
        };
        alice.call(method, params).await.with_context(|| format!("call {number}"))?;
        slowest = slowest.max(started.elapsed());
    }
    let answers = flooder.await??;
    ensure!((0..FLOOD).all(|id| answers.get(&id) == Some(&1)), "not every request has one answer");
    println!("slowest of {CALM} calls beside the flood: {slowest:?}");
    fixture.close().await
}

async fn slow_reader(server: Server) -> anyhow::Result<()> {
    // App-server 0.169.0 cuts somewhere above 32,512 waiting messages, and so does the gateway: in the last of these turns.
    const TURNS: usize = 12;
    const DELTAS: usize = 3_000;
    let fixture = GatewayFixture::open(server).await?;
    let alice = fixture.client("alice").await?.with_patience(TIMEOUT * 3);
    let thread = fixture.thread(&alice).await?;
    let (socket, about) = (fixture.socket(), json!({"threadId": thread, "excludeTurns": true}));
    let slow = tokio::task::spawn_blocking(move || -> anyhow::Result<Wire> {
        let mut wire = Wire::connect(&socket)?;
        wire.call("thread/resume", &about)?;
        Ok(wire)
    });
    // From here on the slow one does not read before it is cut. Others join, ask and leave meanwhile.
    let mut slow = slow.await??;
    let events = fixture.home.state("events.jsonl");
    let end = tokio::task::spawn_blocking(move || -> anyhow::Result<String> {
        until(TIMEOUT * 6, "the cut", || {
            std::fs::read_to_string(&events).ok().filter(|events| events.contains("client.cut"))
        })?;
        loop {
            if let Err(error) = slow.message() {
                return Ok(format!("{error:#}"));
            }
        }
    });
    for _ in 0..TURNS {
        alice.forget();
        let turn = alice.start_turn(&thread, "[[deltas=3000 batch=100]]").await?;
        let bob = fixture.client("bob").await?;
        join(&bob, &thread).await?;
        bob.call("thread/loaded/list", json!({})).await?;
        alice.wait_turn(&turn).await?;
        assert_whole(&alice, &turn, DELTAS)?;
    }
    let end = end.await??;
    let code = end.strip_prefix("the server closed the connection: ").map(|rest| rest.split_at(4));
    ensure!(
        code.is_some_and(|(code, reason)| code != "1006" && reason.len() > 2),
        "no code and reason: {end}"
    );
    alice.forget();
    let next = alice.start_turn(&thread, "[[deltas=3]]").await?;
    alice.wait_turn(&next).await?;
    assert_whole(&alice, &next, 3)?;
    println!("the slow reader was told: {end}");
    fixture.close().await
}

async fn leaving(server: Server) -> anyhow::Result<()> {
    let fixture = GatewayFixture::open(server).await?;
    let alice = fixture.client("alice").await?;
    let thread = fixture.thread(&alice).await?;
    let turn = speaking_turn(&alice, &thread, "[[deltas=60 delay=0.02]]").await?;
    for number in 0..12 {
        let bob = fixture.client("bob").await?;
        join(&bob, &thread).await?;
        bob.send_request("thread/read", json!({"threadId": thread})).await?;
        match number % 3 {
            0 => bob.close().await?,
            1 => drop(bob),
            _ => {
                bob.send_frame(Message::text("{")).await?;
                drop(bob);
            }
        }
    }
    alice.wait_turn(&turn).await?;
    assert_whole(&alice, &turn, 60)?;
    fixture.close().await
}
