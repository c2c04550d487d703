//! The login differs after a restart: connected clients are told, once, and only then.

use anyhow::{Context, ensure};
use codexd_testkit::home::Config;
use codexd_testkit::{Client, Server, Version, codex};
use serde_json::{Value, json};

use super::fixture::GatewayFixture;

const UPDATED: &str = "account/updated";

/// A home whose model provider wants a login, as OpenAI's does.
async fn fixture(version: Version) -> anyhow::Result<GatewayFixture> {
    GatewayFixture::configured(Server::Real(version), |home, model| {
        let url = serde_json::to_string(&model.url())?;
        let tables = format!(
            "[model_providers.login]\nname = \"login\"\nbase_url = {url}\nwire_api = \"responses\"\nrequires_openai_auth = true"
        );
        home.configure(&Config { tables, ..Config::for_model(model) })?;
        let path = home.path().join("config.toml");
        let text = std::fs::read_to_string(&path)?.replace("model_provider = \"mock\"", "model_provider = \"login\"");
        Ok(std::fs::write(path, text)?)
    })
    .await
}

fn updates(client: &Client) -> Vec<Value> {
    client.received().into_iter().filter(|message| message["method"] == UPDATED).collect()
}

/// Waits until the gateway has compared: what it asked before this answer was answered before it.
async fn settled(client: &Client) -> anyhow::Result<Value> {
    // A server that was just killed may have been asked.
    while client.request("thread/loaded/list", json!({})).await?.is_err_and(|error| error.code == -32000) {}
    client.call("account/read", json!({})).await
}

async fn login_is_told(version: Version) -> anyhow::Result<()> {
    if let Err(reason) = codex::platform() {
        codexd_testkit::skip!("{reason}");
    }
    let fixture = fixture(version).await?;
    let (first, second) = (fixture.client("first").await?, fixture.client("second").await?);
    ensure!(settled(&first).await?["account"].is_null());
    // The second one has a connection of its own as well.
    settled(&second).await?;
    fixture.command(&["restart"]).await?;
    settled(&first).await?;
    ensure!(updates(&first).is_empty(), "nothing has changed: {:?}", updates(&first));

    fixture
        .home
        .write("auth.json", json!({"auth_mode": "apikey", "OPENAI_API_KEY": "sk-test"}).to_string())?;
    fixture.command(&["restart"]).await?;
    for client in [&first, &second] {
        let told = client.wait_method(UPDATED).await?;
        ensure!(told["params"]["authMode"] == "apikey", "{told}");
        let account = settled(client).await?;
        ensure!(account["account"]["type"] == "apiKey", "{account}");
    }
    fixture.kill_server().await?;
    settled(&first).await?;
    let thread = fixture.thread(&first).await?;
    settled(&first).await?;
    ensure!(updates(&first).len() == 1 && updates(&second).len() == 1, "told once: {:?}", updates(&first));

    std::fs::remove_file(fixture.home.path().join("auth.json"))?;
    fixture.kill_server().await?;
    let is_logout = |message: &Value| message["method"] == UPDATED && message["params"]["authMode"].is_null();
    for client in [&first, &second] {
        client.wait("the logout", is_logout).await?;
    }
    settled(&first).await?;
    let resumed = first.call("thread/resume", json!({"threadId": thread})).await?;
    resumed["thread"]["id"].as_str().context("the thread goes on")?;

    // What the app-server tells itself is told once.
    first.call("account/login/start", json!({"type": "apiKey", "apiKey": "sk-test"})).await?;
    let is_login =
        |message: &Value| message["method"] == UPDATED && message["params"]["authMode"] == "apikey";
    second.wait("the login", is_login).await?;
    settled(&second).await?;
    fixture.command(&["restart"]).await?;
    settled(&second).await?;
    let told = updates(&second);
    ensure!(told.len() == 3, "each change was told once: {told:?}");
    fixture.close().await
}

#[tokio::test]
async fn connected_clients_are_notified_once_of_a_login_change_during_restart_0_131() -> anyhow::Result<()> {
    login_is_told(Version::V0_131_0).await
}

#[tokio::test]
async fn connected_clients_are_notified_once_of_a_login_change_during_restart_0_171() -> anyhow::Result<()> {
    login_is_told(Version::V0_171_0).await
}
