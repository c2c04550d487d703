//! The server dies, and the next one refuses to load threads for a reason that may heal.

use anyhow::{Context, ensure};
use codexd_testkit::{Client, Server, Version, codex, skip, until};
use serde_json::{Value, json};

use super::fixture::{GatewayFixture, TIMEOUT, join, speaking_turn, wait_pieces};

/// What is wrong with the configuration.
#[derive(Clone, Copy, Debug)]
enum Cause {
    InvalidConfiguration,
    MissingProvider,
    DeadRequiredMcpServer,
}

impl Cause {
    fn of(self, config: &str) -> String {
        match self {
            Cause::InvalidConfiguration => format!("{config}\n[mcp_servers.a]\nstartup_timeout_sec = 60\n"),
            Cause::MissingProvider => config.replace("mock", "other"),
            Cause::DeadRequiredMcpServer => {
                format!("{config}\n[mcp_servers.a]\ncommand = \"/nonexistent\"\nrequired = true\n")
            }
        }
    }

    /// In the server's words.
    fn says(self) -> &'static str {
        match self {
            Cause::InvalidConfiguration => "failed to load configuration",
            Cause::MissingProvider => "provider",
            Cause::DeadRequiredMcpServer => "required MCP servers failed",
        }
    }
}

/// The problem in `status` that names threads, if there is one.
async fn problem(fixture: &GatewayFixture) -> anyhow::Result<Option<Value>> {
    let status = fixture.status().await?;
    let mut problems = status["problems"].as_array().context("problems")?.iter();
    Ok(problems.find(|problem| problem["found"] == "threads-not-loaded").cloned())
}

async fn until_problem(fixture: &GatewayFixture, is_there: bool) -> anyhow::Result<Option<Value>> {
    let deadline = tokio::time::Instant::now() + TIMEOUT;
    loop {
        let problem = problem(fixture).await?;
        if problem.is_some() == is_there {
            return Ok(problem);
        }
        ensure!(tokio::time::Instant::now() < deadline, "status says {problem:?}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

fn was_told_closed(client: &Client) -> bool {
    client.received().iter().any(|message| message["method"] == "thread/closed")
}

async fn heals(version: Version, cause: Cause) -> anyhow::Result<()> {
    if let Err(reason) = codex::platform() {
        skip!("{reason}");
    }
    let fixture = GatewayFixture::open(Server::Real(version)).await?;
    let (alice, bob) = (fixture.client("alice").await?, fixture.client("bob").await?);
    let thread = fixture.thread(&alice).await?;
    let idle = fixture.thread(&alice).await?;
    join(&bob, &thread).await?;
    let turn = speaking_turn(&alice, &thread, "[[deltas=500 delay=0.02]]").await?;
    wait_pieces(&bob, &turn, 5).await?;
    let path = fixture.home.path().join("config.toml");
    let config = std::fs::read_to_string(&path)?;
    std::fs::write(&path, cause.of(&config))?;
    fixture.kill_server().await?;

    let end = bob.wait_turn(&turn).await?;
    ensure!(end["params"]["turn"]["status"] == "interrupted", "{end}");
    let input = json!([{"type": "text", "text": "[[deltas=1]]"}]);
    for (client, thread, method) in
        [(&alice, &idle, "turn/start"), (&bob, &thread, "thread/read"), (&bob, &idle, "thread/resume")]
    {
        let answer = client.request(method, json!({"threadId": thread, "input": input})).await?;
        let Err(error) = answer else { anyhow::bail!("{method} was answered: {answer:?}") };
        ensure!(error.message.contains(cause.says()), "{method}: {error:?}");
    }
    let problem = until_problem(&fixture, true).await?.context("a problem")?;
    let message = problem["message"].as_str().unwrap_or_default();
    ensure!(message.contains(&*thread) && message.contains(&*idle), "{message}");
    ensure!(message.contains(cause.says()), "{message}");

    std::fs::write(&path, config)?;
    // At once, since a client asks.
    let done = alice.turn(&thread, "[[deltas=2]]").await?;
    ensure!(done["params"]["turn"]["status"] == "completed", "{done}");
    let turn = done["params"]["turn"]["id"].as_str().context("an id")?.to_owned();
    bob.wait_turn(&turn).await.context("bob still watches it")?;
    until_problem(&fixture, false).await?;
    let done = alice.turn(&idle, "[[deltas=2]]").await?;
    ensure!(done["params"]["turn"]["status"] == "completed", "{done}");
    ensure!(!was_told_closed(&alice) && !was_told_closed(&bob), "a viewer was told thread/closed");
    until(TIMEOUT, "both events", || {
        let events = std::fs::read_to_string(fixture.home.state("events.jsonl")).ok()?;
        (events.contains("threads.not_loaded") && events.contains("threads.loadable")).then_some(())
    })?;
    fixture.close().await
}

macro_rules! heals {
    ($($name:ident: $version:ident, $cause:ident;)+) => {
        $(#[tokio::test]
        async fn $name() -> anyhow::Result<()> {
            heals(Version::$version, Cause::$cause).await
        })+
    };
}

heals! {
    threads_refused_for_an_invalid_configuration_come_back_on_0_171_0: V0_171_0, InvalidConfiguration;
    threads_refused_for_a_missing_provider_come_back_on_0_171_0: V0_171_0, MissingProvider;
    threads_refused_for_a_dead_mcp_server_come_back_on_0_171_0: V0_171_0, DeadRequiredMcpServer;
    threads_refused_for_an_invalid_configuration_come_back_on_0_169_0: V0_169_0, InvalidConfiguration;
    threads_refused_for_a_missing_provider_come_back_on_0_169_0: V0_169_0, MissingProvider;
    threads_refused_for_a_dead_mcp_server_come_back_on_0_169_0: V0_169_0, DeadRequiredMcpServer;
}
