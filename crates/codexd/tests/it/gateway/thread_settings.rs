//! What a thread was given survives a restart, a crash of the server and a kill of the gateway; what cannot survive is told.
//! The table covers every parameter of `thread/start`, `thread/resume` and `thread/fork` in the schema of 0.171.0: a new
//! parameter fails the test until its fate is decided here.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, ensure};
use codexd_testkit::home::Config;
use codexd_testkit::{Client, Home, Process, Server, Version, codex, until};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::fixture::{GatewayFixture, TIMEOUT, gone};

mod table;

use table::{Fate, table};

const METHODS: [&str; 3] = ["ThreadStart", "ThreadResume", "ThreadFork"];

/// The parameters of each method.
fn schema(home: &Home, version: Version) -> anyhow::Result<BTreeMap<&'static str, BTreeSet<String>>> {
    let folder = home.root().join("schema");
    let mut command = home.command(codex::binary(version)?);
    command.args(["app-server", "generate-json-schema", "--experimental", "--out"]).arg(&folder);
    ensure!(command.output()?.status.success(), "no schema");
    let of = |method: &'static str| {
        let text = std::fs::read_to_string(folder.join(format!("v2/{method}Params.json")))?;
        let schema: Value = serde_json::from_str(&text)?;
        let names = schema["properties"].as_object().context("properties")?.keys().cloned().collect();
        anyhow::Ok((method, names))
    };
    METHODS.into_iter().map(of).collect()
}

#[test]
fn every_thread_parameter_of_the_newest_schema_is_classified() -> anyhow::Result<()> {
    if let Err(reason) = codex::platform() {
        codexd_testkit::skip!("{reason}");
    }
    let home = Home::new()?;
    let known: BTreeSet<String> = table(&home).into_iter().map(|(name, _)| name.to_owned()).collect();
    let schema = schema(&home, Version::V0_171_0)?;
    let all: BTreeSet<String> = schema.into_values().flatten().collect();
    let unknown: Vec<_> = all.difference(&known).collect();
    ensure!(unknown.is_empty(), "decide what becomes of {unknown:?} when the app-server is replaced");
    let gone: Vec<_> = known.difference(&all).collect();
    ensure!(gone.is_empty(), "not in the schema any more: {gone:?}");
    Ok(())
}

/// What shows of a thread's settings: the answer to `thread/resume`, and what the model is asked in a turn.
async fn shown(fixture: &GatewayFixture, client: &Client, thread: &str) -> anyhow::Result<Value> {
    let params = json!({"threadId": thread, "excludeTurns": true});
    let resumed = client.request("thread/resume", params.clone()).await?;
    let is_asked_again = resumed.as_ref().is_err_and(|error| error.code == -32000);
    // A server that was just killed may have been asked.
    let mut resumed = match is_asked_again {
        true => client.call("thread/resume", params).await?,
        false => resumed?,
    };
    for changing in ["turns", "createdAt", "updatedAt", "recencyAt", "status", "preview", "cliVersion"] {
        resumed["thread"].as_object_mut().context("a thread")?.remove(changing);
    }
    for changing in ["itemsBackwardsCursor", "turnsBackwardsCursor"] {
        resumed.as_object_mut().context("an answer")?.remove(changing);
    }
    // 0.131.0 adds folders of its own.
    resumed["sandbox"].as_object_mut().context("a sandbox")?.remove("writableRoots");
    let before = fixture.model.requests().len();
    client.turn(thread, "[[deltas=1]]").await?;
    let requests = fixture.model.requests();
    let asked = &requests.get(before).context("the model was not asked")?.body;
    let tools = asked["tools"].as_array().context("tools")?.iter();
    let tools: Vec<&Value> = tools.map(|tool| tool.get("name").unwrap_or(&tool["type"])).collect();
    Ok(json!({"answer": resumed, "tools": tools, "model": asked["model"], "reasoning": asked["reasoning"],
        "instructions": asked["instructions"], "tier": asked["service_tier"]}))
}

/// Threads with one setting each, by what it is.
async fn threads(
    fixture: &GatewayFixture,
    client: &Client,
    version: Version,
) -> anyhow::Result<Vec<(String, String)>> {
    std::fs::create_dir_all(fixture.home.root().join("other"))?;
    let start = &schema(&fixture.home, version)?["ThreadStart"];
    let mut threads = Vec::new();
    for (name, fate) in table(&fixture.home) {
        let Fate::Survives(mut probe) = fate else { continue };
        let is_told_instead = name == "environments" && version == Version::V0_131_0;
        if !start.contains(name) || is_told_instead {
            continue;
        }
        let mut params = json!({"cwd": fixture.work()});
        match name {
            "projectId" => {
                let roots = json!([{"environmentId": "local", "path": fixture.work()}]);
                match client
                    .request("project/create", json!({"name": "p", "roots": roots, "idempotencyKey": "k"}))
                    .await?
                {
                    Ok(created) => probe = created["project"]["id"].clone(),
                    Err(error) => {
                        println!("no project: {error:?}");
                        continue;
                    }
                }
            }
            "modelProvider" => {
                let another = json!({"name": "n", "base_url": fixture.model.url(), "wire_api": "responses"});
                params["config"] = json!({"model_providers": {"another": another}});
            }
            "runtimeWorkspaceRoots" => params["sandbox"] = json!("workspace-write"),
            "approvalsReviewer" if version == Version::V0_131_0 => probe = json!("guardian_subagent"),
            _ => {}
        }
        params[name] = probe;
        let started = client.call("thread/start", params).await.with_context(|| name.to_owned())?;
        let thread = started["thread"]["id"].as_str().context("an id")?.to_owned();
        client.turn(&thread, "[[deltas=1]]").await.with_context(|| name.to_owned())?;
        threads.push((name.to_owned(), thread));
    }
    let plain = fixture.thread(client).await?;
    let policy = json!({"type": "workspaceWrite", "networkAccess": true});
    let input = json!([{"type": "text", "text": "[[deltas=1]]"}]);
    let turn = json!({"threadId": plain, "input": input, "sandboxPolicy": policy, "approvalPolicy": "never",
        "effort": "low", "cwd": fixture.home.root().join("other")});
    let turn = client.call("turn/start", turn).await?;
    client.wait_turn(turn["turn"]["id"].as_str().context("a turn")?).await?;
    threads.push(("a turn's own sandboxPolicy".into(), plain));
    if version != Version::V0_131_0 {
        let updated = fixture.thread(client).await?;
        client.call("thread/settings/update", json!({"threadId": updated, "environments": []})).await?;
        threads.push(("thread/settings/update".into(), updated));
    }
    let source = fixture.thread(client).await?;
    let fork =
        json!({"threadId": source, "config": {"web_search": "disabled"}, "sandbox": "workspace-write"});
    let fork = client.call("thread/fork", fork).await?;
    threads.push(("thread/fork".into(), fork["thread"]["id"].as_str().context("an id")?.to_owned()));
    Ok(threads)
}

async fn assert_as_before(
    fixture: &GatewayFixture,
    client: &Client,
    threads: &[(String, String)],
    before: &mut Vec<Value>,
    when: &str,
) -> anyhow::Result<()> {
    for (index, (name, thread)) in threads.iter().enumerate() {
        let now = shown(fixture, client, thread).await.with_context(|| format!("{name} {when}"))?;
        match before.get(index) {
            None => before.push(now),
            Some(before) => ensure!(now == *before, "{name} {when}: was {before:#} and is {now:#}"),
        }
    }
    ensure!(
        client.received().iter().all(|message| message["method"] != "warning"
            || !message["params"]["message"].as_str().unwrap_or_default().contains("may have lost")),
        "a loss was told {when}"
    );
    Ok(())
}

async fn settings_survive(version: Version) -> anyhow::Result<()> {
    if let Err(reason) = codex::platform() {
        codexd_testkit::skip!("{reason}");
    }
    // Without a setting of its own a thread has no sandbox: one that is lost shows.
    let fixture = GatewayFixture::configured(Server::Real(version), |home, model| {
        home.configure(&Config { sandbox_mode: "danger-full-access".into(), ..Config::for_model(model) })
    })
    .await?;
    let client = fixture.client("host").await?;
    let threads = threads(&fixture, &client, version).await?;
    let mut before = Vec::new();
    assert_as_before(&fixture, &client, &threads, &mut before, "at first").await?;
    fixture.command(&["restart"]).await?;
    assert_as_before(&fixture, &client, &threads, &mut before, "after a restart").await?;
    if version == Version::V0_131_0 {
        environments_are_told(&fixture).await?;
    }
    fixture.kill_server().await?;
    assert_as_before(&fixture, &client, &threads, &mut before, "after a crash").await?;
    fixture.gateway()?.signal(Signal::KILL)?;
    client.wait_closed().await?;
    let client = fixture.client("host").await?;
    for (name, thread) in &threads {
        client.call("thread/resume", json!({"threadId": thread, "excludeTurns": true})).await?;
        if name == "environments" || name == "thread/settings/update" {
            // Only a request of its own gives them again, behind the answer.
            let is_it = |message: &Value| {
                message["method"] == "thread/settings/updated"
                    && message["params"]["threadId"] == thread.as_str()
                    && message["params"]["threadSettings"]["environments"] == json!([])
            };
            client.wait("the environments", is_it).await?;
        }
    }
    assert_as_before(&fixture, &client, &threads, &mut before, "after a kill of the gateway").await?;
    fixture.command(&["restart"]).await?;
    assert_as_before(&fixture, &client, &threads, &mut before, "after a restart behind the next gateway")
        .await?;
    fixture.close().await
}

/// 0.131.0 takes environments with `thread/start` and turns only.
async fn environments_are_told(fixture: &GatewayFixture) -> anyhow::Result<()> {
    let client = fixture.client("another").await?;
    let started = client.call("thread/start", json!({"cwd": fixture.work(), "environments": []})).await?;
    let thread = started["thread"]["id"].as_str().context("an id")?;
    client.turn(thread, "[[deltas=1]]").await?;
    fixture.kill_server().await?;
    let is_it = |message: &Value| {
        message["method"] == "warning"
            && message["params"]["threadId"] == thread
            && message["params"]["message"].as_str().is_some_and(|text| text.contains("environments"))
    };
    client.wait("a warning", is_it).await?;
    client.close().await
}

#[tokio::test]
async fn thread_settings_survive_restart_crash_and_gateway_kill_0_131() -> anyhow::Result<()> {
    settings_survive(Version::V0_131_0).await
}

#[tokio::test]
async fn thread_settings_survive_restart_crash_and_gateway_kill_0_169() -> anyhow::Result<()> {
    settings_survive(Version::V0_169_0).await
}

#[tokio::test]
async fn thread_settings_survive_restart_crash_and_gateway_kill_0_171() -> anyhow::Result<()> {
    settings_survive(Version::V0_171_0).await
}

/// The supervisor of a home.
fn supervisor(fixture: &GatewayFixture) -> anyhow::Result<Process> {
    let mut supervisors = fixture.home.processes();
    supervisors.retain(|process| process.command.split(' ').nth(1) == Some("supervisor"));
    supervisors.pop().context("a supervisor")
}

async fn open_newest() -> anyhow::Result<GatewayFixture> {
    GatewayFixture::open(Server::Real(Version::V0_171_0)).await
}

/// No file of the home holds this text, but for what the app-server writes itself.
fn assert_on_no_disk(fixture: &GatewayFixture, secret: &str) -> anyhow::Result<()> {
    for file in std::fs::read_dir(fixture.home.state("."))? {
        let path = file?.path();
        if path.is_file() {
            let text = String::from_utf8_lossy(&std::fs::read(&path)?).into_owned();
            ensure!(!text.contains(secret), "{} holds a credential", path.display());
        }
    }
    Ok(())
}

#[tokio::test]
async fn lost_settings_are_reported_to_the_viewers_as_a_warning() -> anyhow::Result<()> {
    if let Err(reason) = codex::platform() {
        codexd_testkit::skip!("{reason}");
    }
    let fixture = open_newest().await?;
    let client = fixture.client("host").await?;
    let params = json!({"cwd": fixture.work(), "experimentalRawEvents": true,
        "config": {"mcp_servers": {"s": {"command": "true", "env": {"TOKEN": "s3cret-t0ken"}}}}});
    let started = client.call("thread/start", params).await?;
    let thread = started["thread"]["id"].as_str().context("an id")?.to_owned();
    client.turn(&thread, "[[deltas=1]]").await?;
    let fork = client.call("thread/fork", json!({"threadId": thread, "deferGoalContinuation": true})).await?;
    let fork = fork["thread"]["id"].as_str().context("an id")?.to_owned();
    let mut ephemeral = json!({"cwd": fixture.work(), "ephemeral": true});
    ephemeral = client.call("thread/start", ephemeral).await?;
    let ephemeral = ephemeral["thread"]["id"].as_str().context("an id")?.to_owned();
    fixture.kill_server().await?;
    for (thread, name) in [(&thread, "experimentalRawEvents"), (&fork, "deferGoalContinuation")] {
        let is_it = |message: &Value| {
            message["method"] == "warning"
                && message["params"]["threadId"] == thread.as_str()
                && message["params"]["message"].as_str().is_some_and(|text| text.contains(name))
        };
        client.wait(name, is_it).await?;
    }
    let closed = |message: &Value| {
        message["method"] == "thread/closed" && message["params"]["threadId"] == ephemeral.as_str()
    };
    client.wait("the end of the ephemeral thread", closed).await?;
    assert_on_no_disk(&fixture, "s3cret-t0ken")?;
    fixture.close().await
}

/// A thread on disk with a `config` of its own.
async fn thread_without_search(fixture: &GatewayFixture, client: &Client) -> anyhow::Result<String> {
    let config = json!({"cwd": fixture.work(), "config": {"web_search": "disabled"}});
    let started = client.call("thread/start", config).await?;
    let thread = started["thread"]["id"].as_str().context("an id")?.to_owned();
    client.turn(&thread, "[[deltas=1]]").await?;
    Ok(thread)
}

#[tokio::test]
async fn viewers_are_warned_if_supervisor_and_gateway_are_killed() -> anyhow::Result<()> {
    if let Err(reason) = codex::platform() {
        codexd_testkit::skip!("{reason}");
    }
    let fixture = open_newest().await?;
    let client = fixture.client("host").await?;
    let thread = thread_without_search(&fixture, &client).await?;
    let (supervisor, gateway) = (supervisor(&fixture)?, fixture.gateway()?);
    supervisor.signal(Signal::KILL)?;
    gone(&supervisor).await?;
    gateway.signal(Signal::KILL)?;
    gone(&gateway).await?;
    fixture.command(&["start"]).await?;
    let client = fixture.client("host").await?;
    client.call("thread/resume", json!({"threadId": thread})).await?;
    let is_it = |message: &Value| {
        message["method"] == "warning"
            && message["params"]["message"].as_str().is_some_and(|text| text.contains("config"))
    };
    client.wait("a warning", is_it).await?;
    fixture.close().await
}

#[tokio::test]
async fn settings_survive_if_the_supervisor_is_killed_before_the_gateway() -> anyhow::Result<()> {
    if let Err(reason) = codex::platform() {
        codexd_testkit::skip!("{reason}");
    }
    let fixture = open_newest().await?;
    let client = fixture.client("host").await?;
    let threads = [("config".to_owned(), thread_without_search(&fixture, &client).await?)];
    let mut before = Vec::new();
    assert_as_before(&fixture, &client, &threads, &mut before, "at first").await?;
    let killed = supervisor(&fixture)?;
    killed.signal(Signal::KILL)?;
    gone(&killed).await?;
    // The next one is given the settings by the gateway.
    fixture.command(&["start"]).await?;
    let connected = || fixture.home.state("supervisor.json").exists().then_some(());
    until(TIMEOUT, "another supervisor", connected)?;
    let old = fixture.gateway()?;
    old.signal(Signal::KILL)?;
    client.wait_closed().await?;
    let client = fixture.client("host").await?;
    assert_as_before(&fixture, &client, &threads, &mut before, "after both").await?;
    fixture.close().await
}
