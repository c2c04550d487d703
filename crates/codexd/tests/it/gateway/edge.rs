//! What clients send, read by the gateway as by the app-server behind it: the same texts go to both.
//!
//! `CODEXD_EDGE_TEXTS` sets how many texts are generated, `CODEXD_EDGE_SEED` the seed.

use std::time::Duration;

use anyhow::{Context, ensure};
use codexd_testkit::{Client, Place, Server};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::chaos::Rng;
use super::fixture::{GatewayFixture, from_environment, join};
use super::sharing::QUESTION;
use super::{on_each_server, on_the_real_server};

on_each_server! {
    a_message_is_answered_refused_or_dropped_as_by_the_app_server: read_alike;
    client_information_that_the_app_server_drops_harms_no_other_client: poisoned_client_info;
    an_answer_that_the_app_server_drops_leaves_the_question_to_the_next_client: dropped_answer;
}

on_the_real_server! {
    a_dropped_request_does_not_hold_up_a_reload: reload_behind_a_dropped_request;
}

/// Texts that go together.
const BATCH: usize = 40;
/// How long after the last answer nothing more comes.
const QUIET: Duration = Duration::from_millis(300);

/// Pieces that are put together at random, each in its place of a request.
const IDS: [&str; 10] = [
    r#""ID""#,
    r#""ID""#,
    r#""ID""#,
    r#""\u0049D""#,
    "1.5",
    "null",
    "true",
    "9223372036854775808",
    "[1]",
    r#""\ud83d""#,
];
const METHODS: [&str; 8] = [
    r#""no/such""#,
    r#""no/such""#,
    r#""thread/read""#,
    r#""no\/such""#,
    r#""\u006eo/such""#,
    "7",
    "null",
    r#""\udc00""#,
];
const VALUES: [&str; 24] = [
    "1",
    "-0",
    "1e999",
    "-1e999",
    "99999999999999999999",
    "null",
    "true",
    "{}",
    "[]",
    r#""""#,
    r#""\ud83d""#,
    r#""\udc00x""#,
    r#""\ud83d\ude00""#,
    r#""\ud83d\ud83d""#,
    r#""\\ud83d""#,
    r#""\u0000""#,
    r#""\q""#,
    "\"\u{7f}\"",
    "\"\u{1}\"",
    "01",
    "+1",
    "DEEP",
    "DEEPER",
    r#"{"x":"\ud83d"}"#,
];
const TRACES: [&str; 9] = [
    "null",
    "{}",
    r#"{"traceparent":"x"}"#,
    r#"{"traceparent":7}"#,
    r#"{"tracestate":null}"#,
    "7",
    r#""x""#,
    "[]",
    r#"{"traceparent":"a","traceparent":"a"}"#,
];

/// A text that is something like a request with this id.
fn generate(rng: &mut Rng, id: &str) -> String {
    let of = |rng: &mut Rng, list: &[&str]| list[rng.place(list.len())].to_owned();
    let mut members = Vec::new();
    if !rng.one_in(20) {
        members.push(format!(r#""id":{}"#, of(rng, &IDS)));
    }
    if !rng.one_in(20) {
        members.push(format!(r#""method":{}"#, of(rng, &METHODS)));
    }
    let mut params = Vec::new();
    for _ in 0..rng.below(3) {
        let name = of(rng, &["x", "threadId", r"\ud83d", "y"]);
        params.push(format!(r#""{name}":{}"#, of(rng, &VALUES)));
    }
    if !rng.one_in(8) {
        members.push(format!(r#""params":{{{}}}"#, params.join(",")));
    }
    if rng.one_in(3) {
        members.push(format!(r#""trace":{}"#, of(rng, &TRACES)));
    }
    if rng.one_in(6) {
        let name = of(rng, &["jsonrpc", "later", "error", "result"]);
        members.push(format!(r#""{name}":{}"#, of(rng, &VALUES)));
    }
    if rng.one_in(12) && !members.is_empty() {
        let again = members[rng.place(members.len())].clone();
        members.push(again);
    }
    let text = format!("{{{}}}", members.join(","));
    let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let text = text
        .replace("DEEPER", &nested(126))
        .replace("DEEP", &nested(125))
        .replace("\"ID\"", &format!("\"{id}\""));
    let text = text.replace(r#""\u0049D""#, &format!(r#""\u0069{}""#, &id[1..]));
    match rng.below(30) {
        0 => text[..text.len() - 1].to_owned(),
        1 => format!("{text} x"),
        2 => format!(" {text}\n"),
        _ => text,
    }
}

/// What came back for a text under its id.
#[derive(Debug, Eq, PartialEq)]
enum Came {
    Nothing,
    Result,
    Error(String),
}

/// Sends texts and gives what came back for each, and how many errors named no request.
async fn exchange(
    client: &Client,
    texts: &[(String, String)],
    end: &str,
) -> anyhow::Result<(Vec<Came>, usize)> {
    client.forget();
    for (_, text) in texts {
        client.send_frame(Message::text(text.clone())).await?;
    }
    client.send(json!({"id": end, "method": "no/such/end", "params": {}})).await?;
    client.wait("the end", |message| message["id"] == *end).await?;
    let mut count = 0;
    while count != client.received().len() {
        count = client.received().len();
        tokio::time::sleep(QUIET).await;
    }
    let received = client.received();
    let came = texts.iter().map(|(id, _)| {
        let answer = received.iter().find(|message| message["id"] == **id && message.get("method").is_none());
        match answer {
            None => Came::Nothing,
            Some(answer) if answer.get("error").is_some() => {
                Came::Error(answer["error"]["message"].as_str().unwrap_or_default().to_owned())
            }
            Some(_) => Came::Result,
        }
    });
    let errors_without_id = received.iter().filter(|message| {
        message.get("error").is_some() && !texts.iter().any(|(id, _)| message["id"] == **id)
    });
    Ok((came.collect(), errors_without_id.filter(|message| message["id"] != *end).count()))
}

async fn read_alike(server: Server) -> anyhow::Result<()> {
    let seed = from_environment("CODEXD_EDGE_SEED", 20_261_129)?;
    let count = usize::try_from(from_environment("CODEXD_EDGE_TEXTS", 400)?)?;
    let mut rng = Rng::new(seed);
    let fixture = GatewayFixture::open(server).await?;
    let own = fixture.home.path().join("app-server-control/app-server-1.sock");
    let direct = Client::connect(&Place::Socket(own), "direct").await?;
    let behind = fixture.client("behind").await?;
    let (mut dropped, mut answered) = (0, 0);
    for batch in 0..count.div_ceil(BATCH) {
        let texts: Vec<(String, String)> = (0..BATCH)
            .map(|at| format!("i{}", batch * BATCH + at))
            .map(|id| (id.clone(), generate(&mut rng, &id)))
            .collect();
        let end = format!("end{batch}");
        let (by_server, _) = exchange(&direct, &texts, &end).await?;
        let (by_gateway, errors_without_id) = exchange(&behind, &texts, &end).await?;
        let mut unnamed = 0;
        for ((server, gateway), (_, text)) in by_server.iter().zip(&by_gateway).zip(&texts) {
            match (server, gateway) {
                (Came::Nothing, Came::Nothing) => unnamed += usize::from(!is_notification(text)),
                (Came::Nothing, Came::Error(_)) => {}
                // A `result` or an `error` in a request means nothing; the gateway refuses it if it stands there twice.
                (_, Came::Error(reason)) if reason.contains("duplicate field `result`") => {}
                (_, Came::Error(reason)) if reason.contains("duplicate field `error`") => {}
                (_, Came::Nothing)
                    if ["result", "error"]
                        .iter()
                        .any(|name| text.matches(&format!("\"{name}\":")).count() > 1) =>
                {
                    unnamed += 1;
                }
                _ => {
                    answered += 1;
                    ensure!(
                        server == gateway,
                        "seed {seed}: {text}\nserver: {server:?}\ngateway: {gateway:?}"
                    );
                }
            }
            dropped += usize::from(*server == Came::Nothing);
        }
        ensure!(
            unnamed == errors_without_id,
            "seed {seed}: {unnamed} texts are dropped, {errors_without_id} errors without an id came: {texts:#?}"
        );
    }
    ensure!(answered > count / 20 && dropped > count / 20, "{answered} answered, {dropped} dropped");
    fixture.close().await
}

/// A message that gets no answer, by its form: it has a method and no id, or it is an answer.
fn is_notification(text: &str) -> bool {
    codexd_protocol::check(text)
        .is_ok_and(|checked| !matches!(checked.message, codexd_protocol::Message::Request { .. }))
}

async fn poisoned_client_info(server: Server) -> anyhow::Result<()> {
    let fixture = GatewayFixture::open(server).await?;
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let mut bads = vec![r#""title":"\ud83d""#.to_owned(), format!(r#""x":{deep}"#)];
    // The embedded server does not look at the title.
    bads.extend((server != Server::Embedded).then(|| r#""title":7"#.to_owned()));
    for bad in bads {
        let evil = Client::dial(&Place::Socket(fixture.socket())).await?;
        let info = format!(r#"{{"name":"evil","version":"1",{bad}}}"#);
        let text = format!(r#"{{"id":1,"method":"initialize","params":{{"clientInfo":{info}}}}}"#);
        evil.send_frame(Message::text(text)).await?;
        evil.wait("a refusal", |message| message["id"] == 1 && message.get("error").is_some()).await?;
    }
    let good = fixture.client("good").await?;
    fixture.thread(&good).await?;
    fixture.gateway()?.signal(rustix::process::Signal::KILL)?;
    good.wait_closed().await?;
    fixture.client("later").await?.call("thread/loaded/list", json!({})).await?;
    fixture.close().await
}

async fn dropped_answer(server: Server) -> anyhow::Result<()> {
    let fixture = GatewayFixture::open(server).await?;
    let (alice, bob) = (fixture.client("alice").await?, fixture.client("bob").await?);
    let thread = fixture.thread(&alice).await?;
    join(&bob, &thread).await?;
    let turn = alice.start_turn(&thread, "run [[shell=echo hi;; escalate=1 deltas=2]]").await?;
    let [by_alice, by_bob] = [alice.wait_method(QUESTION).await?, bob.wait_method(QUESTION).await?];
    let id = &by_alice["id"];
    for wrong in [
        r#""error":{"message":"no"}"#,
        r#""error":{"code":"x","message":"no"}"#,
        r#""result":{"decision":"\ud83d"}"#,
    ] {
        alice.send_frame(Message::text(format!(r#"{{"id":{id},{wrong}}}"#))).await?;
    }
    let refusals = |client: &Client| {
        let received = client.received().into_iter();
        received.filter(|message| message["id"].is_null() && message.get("error").is_some()).count()
    };
    alice.call("thread/loaded/list", json!({})).await?;
    ensure!(refusals(&alice) == 3, "{} refusals", refusals(&alice));
    bob.respond(&by_bob["id"], json!({"decision": "accept"})).await?;
    let end = bob.wait_turn(&turn).await?;
    ensure!(end["params"]["turn"]["status"] == "completed", "{end}");
    let events = std::fs::read_to_string(fixture.home.state("events.jsonl"))?;
    ensure!(events.contains("serverRequest.answerRefused"), "{events}");
    // The refusals have no id, which the schema of upstream's messages has no place for.
    fixture.close_unread().await
}

async fn reload_behind_a_dropped_request(fixture: GatewayFixture) -> anyhow::Result<()> {
    let client = fixture.client("evil").await?;
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    for (at, (method, rest)) in [
        ("thread/list", r#","params":{"x":"\ud83d"}"#.to_owned()),
        ("thread/loaded/list", format!(r#","params":{{"x":{deep}}}"#)),
        ("thread/loaded/list", r#","params":{},"trace":7"#.to_owned()),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("bad{at}");
        client.send_frame(Message::text(format!(r#"{{"id":"{id}","method":"{method}"{rest}}}"#))).await?;
        client.wait("a refusal", |message| message["id"] == *id && message.get("error").is_some()).await?;
    }
    let reloaded = fixture.command(&["reload"]).await?;
    ensure!(reloaded["handover"]["state"] == "completed", "{reloaded}");
    fixture.close().await
}

/// What the second and the third client of an app-server see of names.
async fn names(fixture: &GatewayFixture) -> anyhow::Result<Value> {
    let mut seen = Vec::new();
    let mut clients = Vec::new();
    for name in ["first", "second", "third"] {
        let client = Client::dial(&Place::Socket(fixture.socket())).await?;
        let hello = client.initialize(name, json!({"experimentalApi": true})).await?;
        seen.push(hello["userAgent"].clone());
        clients.push(client);
    }
    for client in &clients {
        fixture.thread(client).await?;
    }
    for client in &clients {
        for originators in [json!(null), json!(["first"]), json!(["second"]), json!(["codex_cli_rs"])] {
            // 0.171.0 refuses to filter by originators.
            let listed = match client.request("thread/list", json!({"originators": originators})).await? {
                Ok(listed) => json!(listed["data"].as_array().context("a list")?.len()),
                Err(refused) => json!(refused.message),
            };
            seen.push(json!([originators, listed]));
        }
    }
    seen.extend(originators_on_disk(fixture)?);
    Ok(seen.into())
}

/// As whose each thread was started, by the order of the threads.
fn originators_on_disk(fixture: &GatewayFixture) -> anyhow::Result<Vec<Value>> {
    let mut folders = vec![fixture.home.path().join("sessions")];
    let mut rollouts = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() { folders.push(path) } else { rollouts.push(path) }
        }
    }
    rollouts.sort();
    let originator = |path: &std::path::PathBuf| -> anyhow::Result<Value> {
        let text = std::fs::read_to_string(path)?;
        let meta: Value = serde_json::from_str(text.lines().next().context("a first line")?)?;
        Ok(meta["payload"]["originator"].clone())
    };
    rollouts.iter().map(originator).collect()
}

#[tokio::test]
async fn each_client_has_the_name_that_it_has_without_the_gateway() -> anyhow::Result<()> {
    if let Err(reason) = codexd_testkit::codex::platform() {
        codexd_testkit::skip!("{reason}");
    }
    let (behind, without) = (
        GatewayFixture::open(super::SERVERS[0]).await?,
        GatewayFixture::without_gateway(super::SERVERS[0]).await?,
    );
    let (by_gateway, by_server) = (names(&behind).await?, names(&without).await?);
    ensure!(by_gateway == by_server, "gateway: {by_gateway:#}\nserver: {by_server:#}");
    behind.close().await?;
    without.close().await
}
