//! A restart whose new server is no good: nothing changes for anybody, and the answer says why.

use std::time::Duration;

use anyhow::ensure;
use codexd_testkit::{Fake, Layout};

use super::fixture::{GatewayFixture, assert_whole, speaking_turn};

/// How long a new server may keep silent in these tests.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Replaces a healthy Codex by this one and restarts while a turn runs.
async fn restart_with(fake: Fake, codes: &[&str]) -> anyhow::Result<()> {
    let fixture = GatewayFixture::with_fake(&Fake::Healthy).await?;
    let alice = fixture.client("alice").await?.with_patience(START_TIMEOUT * 2);
    let thread = fixture.thread(&alice).await?;
    let idle = fixture.thread(&alice).await?;
    let before = (fixture.server().await?, fixture.gateway()?);
    let turn = speaking_turn(&alice, &thread, "[[deltas=60 delay=0.05]]").await?;
    fake.install(&fixture.home, Layout::Standalone)?;
    let (answer, turn) = tokio::join!(fixture.any_command(&["restart"]), async {
        let done = alice.turn(&idle, "[[deltas=2]]").await?;
        ensure!(done["params"]["turn"]["status"] == "completed", "{done}");
        alice.wait_turn(&turn).await?;
        assert_whole(&alice, &turn, 60)?;
        anyhow::Ok(turn)
    });
    turn?;
    let (ok, answer) = answer?;
    let code = answer["error"]["code"].as_str().unwrap_or_default();
    ensure!(!ok && codes.contains(&code), "{fake:?}: {answer}");
    ensure!((fixture.server().await?, fixture.gateway()?) == before, "something was replaced after all");
    for thread in [&thread, &idle] {
        let done = alice.turn(thread, "[[deltas=2]]").await?;
        ensure!(done["params"]["turn"]["status"] == "completed", "{done}");
    }
    Fake::Healthy.install(&fixture.home, Layout::Standalone)?;
    fixture.command(&["restart"]).await?;
    ensure!(fixture.server().await?.pid != before.0.pid, "with a healthy one it is replaced");
    let done = alice.turn(&idle, "[[deltas=2]]").await?;
    ensure!(done["params"]["turn"]["status"] == "completed", "{done}");
    fixture.close().await
}

#[tokio::test]
async fn a_restart_with_a_server_that_never_listens_changes_nothing() -> anyhow::Result<()> {
    restart_with(Fake::NeverListens, &["start-timeout"]).await
}

#[tokio::test]
async fn a_restart_with_a_server_that_never_answers_changes_nothing() -> anyhow::Result<()> {
    restart_with(Fake::Unresponsive, &["start-timeout"]).await
}

#[tokio::test]
async fn a_restart_with_a_server_that_dies_changes_nothing() -> anyhow::Result<()> {
    restart_with(Fake::ExitsAtOnce("I am broken", 7), &["server-exited"]).await
}

#[tokio::test]
async fn a_restart_with_a_file_that_is_no_program_changes_nothing() -> anyhow::Result<()> {
    restart_with(Fake::NotAProgram, &["codex-broken"]).await
}
