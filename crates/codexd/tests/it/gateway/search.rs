//! Searches in threads, which are cancelled and told about by the JSON-RPC id of the request (0.171.0): through the gateway
//! as without it.

use std::path::Path;

use anyhow::{Context, ensure};
use codexd_testkit::{Client, RpcError, Server, Version, codex, skip};
use serde_json::{Value, json};

use super::fixture::GatewayFixture;

const REAL: Server = Server::Real(Version::V0_171_0);
const SEARCHES: [&str; 2] = ["thread/search", "thread/search/stream"];
/// So many files make a search take its time.
const FILES: usize = 300;
/// A search tells something on its way if it is lucky: one in fifteen does on a machine that has nothing else to do.
const ATTEMPTS: usize = 60;

/// The only file below a folder.
fn only_file(folder: &Path) -> anyhow::Result<std::path::PathBuf> {
    let entry = std::fs::read_dir(folder)?.next().context("an empty folder")??.path();
    if entry.is_dir() { only_file(&entry) } else { Ok(entry) }
}

/// A home with much to search for the word `needle`, and a client.
async fn with_much_to_search(fixture: &GatewayFixture) -> anyhow::Result<Client> {
    let alice = fixture.client("alice").await?;
    let thread = alice.start_thread(&fixture.work()).await?;
    alice.turn(&thread, "needle [[deltas=1]]").await?;
    let file = only_file(&fixture.home.path().join("sessions"))?;
    let (text, name) = (std::fs::read_to_string(&file)?, file.to_string_lossy().into_owned());
    let text = text.replace("needle", &format!("needle {}", "x".repeat(20_000)));
    for number in 0..FILES {
        let copy = format!("{}{number:04}", &thread[..thread.len() - 4]);
        std::fs::write(name.replace(&thread, &copy), text.replace(&thread, &copy))?;
    }
    Ok(alice)
}

/// The answers to a search that is cancelled at once, and to its cancel; and to others that cancel nothing.
async fn cancelled(client: &Client) -> anyhow::Result<Vec<Result<Value, RpcError>>> {
    let mut answers = Vec::new();
    for method in SEARCHES {
        let cancel = format!("{method}/cancel");
        for id in [json!("search-0"), json!(77), json!("ä\"\\")] {
            let search = client.send_request_as(id.clone(), method, json!({"searchTerm": "needle"})).await?;
            answers.push(client.request(&cancel, json!({"requestId": id})).await?);
            answers.push(client.answer(&search).await?);
            client.forget();
        }
        for wrong in
            [json!({"requestId": "none"}), json!({"requestId": 1}), json!({"requestId": 1.5}), json!({})]
        {
            answers.push(client.request(&cancel, wrong).await?);
        }
    }
    Ok(answers)
}

#[tokio::test]
async fn a_cancelled_search_ends_as_it_does_without_the_gateway() -> anyhow::Result<()> {
    if let Err(reason) = codex::platform() {
        skip!("{reason}");
    }
    let mut seen = Vec::new();
    for fixture in [GatewayFixture::without_gateway(REAL).await?, GatewayFixture::open(REAL).await?] {
        let client = with_much_to_search(&fixture).await?;
        seen.push(cancelled(&client).await?);
        fixture.close().await?;
    }
    ensure!(seen[0] == seen[1], "direct: {:#?}\nthrough the gateway: {:#?}", seen[0], seen[1]);
    let is_cancelled = |answer: &&Result<Value, RpcError>| {
        answer.as_ref().is_err_and(|error| error.message == "thread search cancelled")
    };
    let count = seen[1].iter().filter(is_cancelled).count();
    ensure!(count == 6, "{count} of 6 searches were cancelled: {:#?}", seen[1]);
    Ok(())
}

#[tokio::test]
async fn partial_results_of_a_search_carry_the_request_id_of_its_client() -> anyhow::Result<()> {
    if let Err(reason) = codex::platform() {
        skip!("{reason}");
    }
    let fixture = GatewayFixture::open(REAL).await?;
    let (alice, bob) = (with_much_to_search(&fixture).await?, fixture.client("bob").await?);
    let is_partial = |message: &Value| message["method"] == "thread/search/partial";
    let mut told = None;
    for attempt in 0..ATTEMPTS {
        let id = json!(format!("search-{attempt}"));
        let search = alice.send_request_as(id.clone(), SEARCHES[1], json!({"searchTerm": "needle"})).await?;
        alice.answer(&search).await?.context("the search failed")?;
        told = alice.received().into_iter().find(is_partial).map(|partial| (id, partial));
        if told.is_some() {
            break;
        }
        alice.forget();
    }
    let Some((id, partial)) = told else { skip!("no search of {ATTEMPTS} told anything on its way") };
    ensure!(partial["params"]["requestId"] == id, "{id} is named in {partial}");
    bob.call("thread/loaded/list", json!({})).await?;
    ensure!(!bob.received().iter().any(is_partial), "bob asked for nothing");
    fixture.close().await
}
