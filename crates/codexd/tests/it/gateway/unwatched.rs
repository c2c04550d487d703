//! Threads without subscribers.

use std::time::Duration;

use codexd_testkit::home::Config;
use codexd_testkit::{Server, Version, codex, skip};
use serde_json::json;

use super::fixture::GatewayFixture;

/// Less than the minute after which a thread is unloaded if the user does not say.
const SOON: Duration = Duration::from_secs(25);

#[tokio::test]
async fn the_users_delay_decides_when_they_are_unloaded() -> anyhow::Result<()> {
    if let Err(reason) = codex::platform() {
        skip!("{reason}");
    }
    let fixture = GatewayFixture::configured(Server::Real(Version::NEWEST), |home, model| {
        let top_level = "thread_unload_delay_secs = 1".to_owned();
        home.configure(&Config { top_level, ..Config::for_model(model) })
    })
    .await?;
    let alice = fixture.client("alice").await?;
    let bob = fixture.client("bob").await?.with_patience(SOON);
    let thread = fixture.thread(&alice).await?;
    alice.turn(&thread, "[[deltas=1]]").await?;
    alice.close().await?;
    bob.wait("the end of the thread", |message| {
        message["method"] == "thread/closed" && message["params"] == json!({"threadId": thread})
    })
    .await?;
    fixture.close().await
}
