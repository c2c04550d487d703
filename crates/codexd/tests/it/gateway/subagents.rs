//! Who decides what a sub-agent asks: an idle client whose program accepts everything is no judge of another client's agents.

use std::path::Path;

use anyhow::{Context, ensure};
use codexd_testkit::home::Config;
use codexd_testkit::{Client, Server, Version, codex, skip, until};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::fixture::{GatewayFixture, TIMEOUT, gone, join};
use super::sharing::QUESTION;

const RESOLVED: &str = "serverRequest/resolved";

/// Codex releases whose sub-agents ask for approvals.
const RELEASES: [Version; 2] = [Version::V0_171_0, Version::V0_169_0];

/// A server whose sub-agents may have sub-agents, behind a gateway with this setting.
async fn open(version: Version, approvals: Option<&str>) -> anyhow::Result<GatewayFixture> {
    GatewayFixture::configured(Server::Real(version), |home, model| {
        if let Some(word) = approvals {
            let settings = json!({"gateway": {"subagentApprovals": word}});
            home.write("app-server-daemon/settings.json", settings.to_string())?;
        }
        let tables = "[agents]\nmax_depth = 2\n".to_owned();
        home.configure(&Config { tables, ..Config::for_model(model) })
    })
    .await
}

/// Has the thread of a client begin a sub-agent, and that one another, which asks whether it may write a file.
async fn ask(alice: &Client, thread: &str, file: &Path) -> anyhow::Result<()> {
    let inner = spawns(&format!("<<shell=touch {};; escalate=1 deltas=1>>", file.display()));
    let outer = spawns(&format!("<<{inner}>>"));
    alice.start_turn(thread, &format!("[[{outer}]]")).await?;
    Ok(())
}

/// The directive that begins a sub-agent with a message. What the mock model would take for a directive of this turn is
/// escaped in the message.
fn spawns(message: &str) -> String {
    let mut arguments = json!({ "message": message }).to_string();
    for mark in ['<', '>', ';', '='] {
        arguments = arguments.replace(mark, &format!("\\u{:04x}", u32::from(mark)));
    }
    format!("tool=multi_agent_v1/spawn_agent {arguments};; deltas=1")
}

/// The number of server requests about an approval that a client was sent so far.
async fn asked(client: &Client) -> anyhow::Result<usize> {
    // Whatever was sent before the answer to this has come by then.
    client.call("thread/loaded/list", json!({})).await?;
    Ok(client.received().iter().filter(|told| told["method"] == QUESTION).count())
}

fn accepts_everything(client: &Client) {
    client.answer_requests(|_| Some(json!({"decision": "accept"})));
}

fn decline() -> Value {
    json!({"decision": "decline"})
}

/// The end of the turn of the thread that asks.
async fn ended(client: &Client, asked: &Value) -> anyhow::Result<Value> {
    let thread = asked["params"]["threadId"].clone();
    let ends = |told: &Value| told["method"] == "turn/completed" && told["params"]["threadId"] == thread;
    client.wait("the end of the sub-agent's turn", ends).await
}

#[tokio::test]
async fn an_idle_client_that_accepts_everything_is_not_asked_about_anothers_subagent() -> anyhow::Result<()> {
    if let Err(reason) = codex::platform() {
        skip!("{reason}");
    }
    for version in RELEASES {
        bystander(version).await.with_context(|| format!("{version}"))?;
    }
    Ok(())
}

async fn bystander(version: Version) -> anyhow::Result<()> {
    let fixture = open(version, None).await?;
    let (alice, bob) = (fixture.client("alice").await?, fixture.client("bob").await?);
    accepts_everything(&bob);
    let thread = fixture.thread(&alice).await?;
    let file = fixture.work().join("made");
    ask(&alice, &thread, &file).await?;
    let question = alice.wait_method(QUESTION).await?;
    ensure!(question["params"]["threadId"] != thread.as_str(), "{question}");
    ensure!(asked(&bob).await? == 0, "a bystander is asked");
    // An answer that it was never asked for decides nothing.
    bob.respond(&question["id"], json!({"decision": "accept"})).await?;
    alice.respond(&question["id"], decline()).await?;
    alice.wait_method(RESOLVED).await?;
    for client in [&alice, &bob] {
        let end = ended(client, &question).await?;
        ensure!(end["params"]["turn"]["status"] != "inProgress", "{end}");
    }
    ensure!(asked(&bob).await? == 0 && !file.exists(), "a bystander decided");
    ensure!(bob.received().iter().all(|told| told["method"] != RESOLVED), "it was never asked");
    fixture.close().await
}

#[tokio::test]
async fn with_the_setting_all_every_client_is_asked_as_without_a_gateway() -> anyhow::Result<()> {
    if let Err(reason) = codex::platform() {
        skip!("{reason}");
    }
    let fixture = open(Version::V0_171_0, Some("all")).await?;
    ensure!(fixture.status().await?["settings"]["gateway"]["subagentApprovals"] == "all");
    let (alice, bob) = (fixture.client("alice").await?, fixture.client("bob").await?);
    let thread = fixture.thread(&alice).await?;
    let file = fixture.work().join("made");
    ask(&alice, &thread, &file).await?;
    let question = bob.wait_method(QUESTION).await?;
    ensure!(alice.wait_method(QUESTION).await? == question);
    bob.respond(&question["id"], json!({"decision": "accept"})).await?;
    for client in [&alice, &bob] {
        client.wait_method(RESOLVED).await?;
        ended(client, &question).await?;
    }
    ensure!(file.exists(), "it was accepted");
    fixture.close().await
}

#[tokio::test]
async fn a_request_of_a_subagent_waits_for_the_next_viewer_of_its_root_thread() -> anyhow::Result<()> {
    if let Err(reason) = codex::platform() {
        skip!("{reason}");
    }
    let fixture = open(Version::V0_171_0, None).await?;
    let (alice, bob) = (fixture.client("alice").await?, fixture.client("bob").await?);
    accepts_everything(&bob);
    let thread = fixture.thread(&alice).await?;
    let file = fixture.work().join("made");
    ask(&alice, &thread, &file).await?;
    let question = alice.wait_method(QUESTION).await?;
    alice.close().await?;
    let carol = fixture.client("carol").await?;
    ensure!(asked(&bob).await? + asked(&carol).await? == 0, "neither of them watches the thread");
    join(&carol, &thread).await?;
    ensure!(carol.wait_method(QUESTION).await? == question);
    // The gateway after this one finds the threads as they are.
    let gateway = fixture.gateway()?;
    gateway.signal(Signal::KILL)?;
    gone(&gateway).await?;
    let (dave, erin) = (fixture.client("dave").await?, fixture.client("erin").await?);
    accepts_everything(&dave);
    join(&erin, &thread).await?;
    let again = erin.wait_method(QUESTION).await?;
    ensure!(again["params"]["itemId"] == question["params"]["itemId"], "{again}");
    ensure!(asked(&dave).await? == 0, "a bystander is asked");
    erin.respond(&again["id"], json!({"decision": "accept"})).await?;
    erin.wait_method(RESOLVED).await?;
    until(TIMEOUT, "the file", || file.exists().then_some(()))?;
    fixture.close().await
}
