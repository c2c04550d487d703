//! A restart with threads that the new server cannot load: nothing of them is lost, and the command says which and why.

use anyhow::{Context, ensure};
use codexd_testkit::home::Config;
use codexd_testkit::{Client, Server, Version, codex, skip};
use serde_json::{Value, json};

use super::fixture::GatewayFixture;

const INVALID: &str = "[mcp_servers.a]\nstartup_timeout_sec = 60\n";

/// Rewrites the configuration of the home.
fn configure(fixture: &GatewayFixture, tables: &str) -> anyhow::Result<()> {
    fixture.home.configure(&Config { tables: tables.to_owned(), ..Config::for_model(&fixture.model) })
}

/// Runs a command that must be refused since the configuration is invalid; nothing may have changed.
async fn assert_refused(fixture: &GatewayFixture, command: &[&str], code: &str) -> anyhow::Result<()> {
    let before = fixture.server().await?;
    let (ok, answer) = fixture.any_command(command).await?;
    ensure!(!ok && answer["error"]["code"] == *code, "{command:?}: {answer:#}");
    let message = answer["error"]["message"].as_str().unwrap_or_default();
    ensure!(message.contains("invalid transport"), "the cause is told: {message}");
    let status = fixture.status().await?;
    ensure!(status["pid"] == before.pid && status["state"] == "running", "{status:#}");
    ensure!(status["generations"].as_array().is_some_and(|all| all.len() == 1), "{status:#}");
    Ok(())
}

async fn assert_turn(client: &Client, thread: &str) -> anyhow::Result<()> {
    let done = client.turn(thread, "[[deltas=1]]").await?;
    ensure!(done["params"]["turn"]["status"] == "completed", "{done}");
    Ok(())
}

/// With an invalid configuration each command is refused, and threads stay where they are; with a valid one it succeeds.
async fn refuse_then_replace(fixture: GatewayFixture, commands: &[&[&str]]) -> anyhow::Result<()> {
    let client = fixture.client("viewer").await?;
    let thread = fixture.thread(&client).await?;
    configure(&fixture, INVALID)?;
    for command in commands {
        assert_refused(&fixture, command, "config-invalid").await?;
    }
    assert_turn(&client, &thread).await?;
    ensure!(told_closed(&client) == 0, "the viewer was told that the thread is closed");
    configure(&fixture, "")?;
    let before = fixture.server().await?;
    let answer = fixture.command(commands[0]).await?;
    ensure!(answer["status"] == "restarted", "{answer:#}");
    ensure!(fixture.server().await?.pid != before.pid, "a new server runs");
    Ok(())
}

fn told_closed(client: &Client) -> usize {
    client.received().iter().filter(|text| text["method"] == "thread/closed").count()
}

async fn live(version: Version) -> anyhow::Result<()> {
    let fixture = GatewayFixture::open(Server::Real(version)).await?;
    refuse_then_replace(fixture, &[&["restart"], &["reload"], &["restart", "--now"]]).await
}

macro_rules! real {
    ($($name:ident: $script:expr;)+) => {
        $(#[tokio::test]
        async fn $name() -> anyhow::Result<()> {
            if let Err(reason) = codex::platform() {
                skip!("{reason}");
            }
            $script.await
        })+
    };
}

real! {
    restart_with_an_invalid_configuration_keeps_the_old_server_of_0_171_0: live(Version::V0_171_0);
    restart_with_an_invalid_configuration_keeps_the_old_server_of_0_169_0: live(Version::V0_169_0);
    draining_restart_with_an_invalid_configuration_keeps_the_old_server_of_0_131_0: live(Version::V0_131_0);
    restart_without_a_gateway_proves_the_configuration_first: without_gateway();
    restart_leaves_a_thread_without_its_provider_in_use_until_it_is_back: provider(Version::V0_171_0);
    restart_leaves_a_thread_without_its_provider_in_use_until_it_is_back_0_169_0: provider(Version::V0_169_0);
    restart_leaves_a_thread_whose_mcp_server_is_dead_in_use_until_it_starts: required_server(Version::V0_171_0);
    restart_leaves_a_thread_whose_mcp_server_is_dead_in_use_until_it_starts_0_169_0: required_server(Version::V0_169_0);
    reload_ends_when_only_refused_threads_are_left: reload();
    a_setting_is_put_back_that_an_invalid_configuration_keeps_from_taking_effect: remote_control();
}

async fn without_gateway() -> anyhow::Result<()> {
    let fixture = GatewayFixture::without_gateway(Server::Real(Version::V0_171_0)).await?;
    let client = fixture.client("viewer").await?;
    let thread = fixture.thread(&client).await?;
    configure(&fixture, INVALID)?;
    assert_refused(&fixture, &["restart"], "config-invalid").await?;
    assert_turn(&client, &thread).await
}

async fn remote_control() -> anyhow::Result<()> {
    let fixture = GatewayFixture::open(Server::Real(Version::V0_171_0)).await?;
    configure(&fixture, INVALID)?;
    assert_refused(&fixture, &["enable-remote-control"], "setting-rolled-back").await?;
    let status: Value = fixture.status().await?;
    let enabled = status["settings"]["remoteControlEnabled"].as_bool().context("a setting")?;
    ensure!(!enabled, "{status:#}");
    ensure!(json!(null) != status["pid"], "{status:#}");
    Ok(())
}

/// A thread that the new server refuses for `tables` stays in use in the old one and is named; it moves once that is repaired.
async fn refused_then_mended(
    version: Version,
    spoil: &Config,
    command: &str,
    cause: &str,
) -> anyhow::Result<()> {
    let fixture = GatewayFixture::open(Server::Real(version)).await?;
    let (client, other) = (fixture.client("viewer").await?, fixture.client("bystander").await?);
    let thread = fixture.thread(&client).await?;
    let old = fixture.server().await?;
    fixture.home.configure(&Config { model_url: fixture.model.url(), ..spoil.clone() })?;
    [&client, &other].into_iter().for_each(Client::forget);
    let answer = fixture.command(&[command]).await?;
    ensure!(answer["handover"]["state"] == "waiting", "{answer:#}");
    assert_named(&answer, &thread, cause)?;
    assert_named(&fixture.status().await?, &thread, cause)?;
    let events = std::fs::read_to_string(fixture.home.state("events.jsonl"))?;
    let refused = events.lines().filter(|line| line.contains("migration.refused") && line.contains(&thread));
    ensure!(refused.count() == 1, "{events}");
    ensure!(old.is_alive(), "the old server stays for the thread");
    assert_turn(&client, &thread).await?;
    configure(&fixture, "")?;
    tokio::task::spawn_blocking(move || old.wait_gone(super::fixture::TIMEOUT * 2)).await??;
    assert_turn(&client, &thread).await?;
    for client in [&client, &other] {
        let seen = client.received();
        let strange = |text: &&Value| {
            let method = text["method"].as_str().unwrap_or_default();
            let about = text["params"]["threadId"].as_str().or(text["params"]["thread"]["id"].as_str());
            method == "thread/closed" || about.is_some_and(|about| about != thread)
        };
        ensure!(!seen.iter().any(|text| strange(&text)), "{:?}", seen.iter().find(strange));
    }
    let status = fixture.status().await?;
    ensure!(status["problems"] == json!([]), "{status:#}");
    ensure!(status["handover"]["threadsMoved"] == 1, "{status:#}");
    Ok(())
}

fn assert_named(answer: &Value, thread: &str, cause: &str) -> anyhow::Result<()> {
    let waiting = &answer["handover"]["threadsWaiting"][0];
    ensure!(waiting["threadId"] == *thread && waiting["blockedOn"] == "refused", "{answer:#}");
    ensure!(waiting["reason"].as_str().is_some_and(|reason| reason.contains(cause)), "{answer:#}");
    let problem = &answer["problems"][0];
    ensure!(problem["found"] == "thread-not-migrated", "{answer:#}");
    let message = problem["message"].as_str().unwrap_or_default();
    ensure!(message.contains(thread) && message.contains(cause), "{answer:#}");
    Ok(())
}

fn without_provider() -> Config {
    Config { provider: "elsewhere".to_owned(), ..Config::default() }
}

async fn provider(version: Version) -> anyhow::Result<()> {
    refused_then_mended(version, &without_provider(), "restart", "provider").await
}

fn with_dead_server() -> Config {
    let tables = "[mcp_servers.dead]\ncommand = \"/nonexistent/server\"\nrequired = true\n".to_owned();
    Config { tables, ..Config::default() }
}

async fn required_server(version: Version) -> anyhow::Result<()> {
    refused_then_mended(version, &with_dead_server(), "restart", "required MCP servers").await
}

async fn reload() -> anyhow::Result<()> {
    refused_then_mended(Version::V0_171_0, &with_dead_server(), "reload", "required MCP servers").await
}
