//! What the end of `codexd run` does to a turn that runs.

use anyhow::ensure;
use codexd_testkit::{Client, Codexd, Home, MockModel, Place, Server, Version, block_on, codex, skip, until};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::fixture::{Foreground, events};
use crate::lifecycle::{SOON, prepare};

const REAL: Server = Server::Real(Version::NEWEST);

/// What the mock model waits for.
const HELD: &str = "turn";

struct Stage {
    home: Home,
    model: MockModel,
    run: Foreground,
}

impl Stage {
    /// A real server that serves.
    fn set() -> anyhow::Result<Self> {
        let model = MockModel::start()?;
        let home = Home::with_model(&model)?;
        prepare(&home, REAL)?;
        let mut run = Foreground::spawn(&home, Codexd::new(&home)?.command(&["run"]))?;
        let first = run.answer(0)?;
        ensure!(first["appServerVersion"] == Version::NEWEST.as_str(), "{first:#}");
        Ok(Self { home, model, run })
    }

    /// A turn whose model holds back the end of what it says.
    async fn begin_turn(&self) -> anyhow::Result<(Client, String)> {
        let client = Client::connect(&Place::Socket(self.home.control_socket()), "run").await?;
        let thread = client.start_thread(&self.home.work()).await?;
        client.start_turn(&thread, &format!("[[deltas=4 hold={HELD}]]")).await?;
        client.wait_method("item/agentMessage/delta").await?;
        Ok((client, thread))
    }

    fn signal(&self, count: usize) -> anyhow::Result<()> {
        self.run.process.signal(Signal::TERM)?;
        until(SOON, "the drain", || (events(&self.home, "daemon.stopping").len() == count).then_some(()))
    }
}

/// The status of the only turn of the thread, as the next server reads it from disk.
fn turn_on_disk(home: &Home, thread: &str) -> anyhow::Result<Value> {
    let codexd = Codexd::new(home)?;
    codexd.json(&["start"])?;
    let read = block_on(async {
        let client = Client::connect(&Place::Socket(home.control_socket()), "run").await?;
        client.call("thread/read", json!({"threadId": thread, "includeTurns": true})).await
    })?;
    codexd.json(&["stop"])?;
    Ok(read["thread"]["turns"][0]["status"].clone())
}

#[test]
fn a_turn_of_the_real_0_171_0_finishes_after_a_signal() -> anyhow::Result<()> {
    if let Err(reason) = codex::platform() {
        skip!("{reason}");
    }
    let mut stage = Stage::set()?;
    let thread = block_on(async {
        let (_client, thread) = stage.begin_turn().await?;
        stage.signal(1)?;
        // 0.171.0 exits with the turn, and may not send that it has completed: the disk tells.
        stage.model.release(HELD);
        anyhow::Ok(thread)
    })?;
    ensure!(stage.run.exit_code()? == Some(0), "{}", stage.run.stderr());
    ensure!(stage.run.answer(1)?["state"] == "stopped", "{}", stage.run.stderr());
    stage.home.assert_no_process_left();
    ensure!(turn_on_disk(&stage.home, &thread)? == "completed", "a cut turn");
    Ok(())
}

#[test]
fn a_second_signal_interrupts_a_turn_of_the_real_0_171_0() -> anyhow::Result<()> {
    if let Err(reason) = codex::platform() {
        skip!("{reason}");
    }
    let mut stage = Stage::set()?;
    let thread = block_on(async {
        let (_client, thread) = stage.begin_turn().await?;
        stage.signal(1)?;
        stage.signal(2)?;
        anyhow::Ok(thread)
    })?;
    // The model still holds the turn.
    ensure!(stage.run.exit_code()? == Some(0), "{}", stage.run.stderr());
    stage.home.assert_no_process_left();
    ensure!(turn_on_disk(&stage.home, &thread)? == "interrupted", "the turn");
    Ok(())
}

#[test]
fn a_turn_of_the_embedded_server_finishes_after_a_signal() -> anyhow::Result<()> {
    let home = Home::new()?;
    let codexd = Codexd::new(&home)?;
    let mut run = Foreground::spawn(&home, codexd.command(&["run", "--embedded"]))?;
    run.answer(0)?;
    block_on(async {
        let client = Client::connect(&Place::Socket(home.control_socket()), "run").await?;
        let thread = client.start_thread(&home.work()).await?;
        client.start_turn(&thread, "[[shell=true;; escalate=1 deltas=4]]").await?;
        let question = client.wait_method("item/commandExecution/requestApproval").await?;
        run.process.signal(Signal::TERM)?;
        until(SOON, "the drain", || (events(&home, "daemon.stopping").len() == 1).then_some(()))?;
        client.respond(&question["id"], json!({"decision": "accept"})).await?;
        let done = client.wait_method("turn/completed").await?;
        ensure!(done["params"]["turn"]["status"] == "completed", "{done}");
        anyhow::Ok(())
    })?;
    ensure!(run.exit_code()? == Some(0), "{}", run.stderr());
    home.assert_no_process_left();
    Ok(())
}
