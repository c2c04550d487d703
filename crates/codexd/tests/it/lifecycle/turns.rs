//! What a stop, a restart and a reload do to a turn that runs.

use codexd_testkit::{Client, Codexd, Home, MockModel, Place, Server, block_on, codex, skip};
use serde_json::Value;

use super::{SERVERS, SOON, on_every_server, prepare};

on_every_server! {
    a_running_turn_ends_whole_within_the_grace: graceful;
    a_turn_beyond_the_grace_is_cut_and_read_back_as_interrupted: beyond_the_grace;
    reload_waits_longer_than_the_grace: reload;
}

struct Stage {
    home: Home,
    model: MockModel,
}

impl Stage {
    fn set(server: Server) -> anyhow::Result<(Self, Vec<&'static str>)> {
        let model = MockModel::start()?;
        let home = Home::with_model(&model)?;
        let start = prepare(&home, server)?;
        Ok((Self { home, model }, start))
    }

    /// A thread with a running turn that has already said something.
    async fn begin_turn(&self, text: &str) -> anyhow::Result<(Client, String)> {
        let client = Client::connect(&Place::Socket(self.home.control_socket()), "turns").await?;
        let thread = client.start_thread(&self.home.work()).await?;
        client.start_turn(&thread, text).await?;
        client.wait_method("item/agentMessage/delta").await?;
        Ok((client, thread))
    }

    /// The status of the thread's first turn, as the running server reads it from disk. The first: after a cut a managed
    /// 0.169.0 goes on by itself, in a turn of its own.
    async fn first_turn(&self, thread: &str) -> anyhow::Result<Value> {
        let client = Client::connect(&Place::Socket(self.home.control_socket()), "turns").await?;
        let read =
            client.call("thread/read", serde_json::json!({"threadId": thread, "includeTurns": true})).await?;
        let turns = read["thread"]["turns"].as_array().cloned().unwrap_or_default();
        Ok(turns.first().map(|turn| turn["status"].clone()).unwrap_or_default())
    }
}

fn graceful(server: Server) -> anyhow::Result<()> {
    let (stage, start) = Stage::set(server)?;
    let codexd = Codexd::new(&stage.home)?;
    codexd.json(&start)?;
    let (client, thread) = block_on(stage.begin_turn("[[deltas=20 delay=0.05]]"))?;
    assert_eq!(codexd.json(&["stop"])?["status"], "stopped");
    stage.home.assert_no_process_left();
    drop(client);
    codexd.json(&start)?;
    assert_eq!(block_on(stage.first_turn(&thread))?, "completed", "nothing was cut");
    codexd.json(&["stop"])?;
    drop(stage.model);
    Ok(())
}

fn beyond_the_grace(server: Server) -> anyhow::Result<()> {
    let (stage, start) = Stage::set(server)?;
    let codexd = Codexd::new(&stage.home)?;
    codexd.json(&start)?;
    let (client, thread) = block_on(stage.begin_turn("[[deltas=100000 delay=0.05]]"))?;
    let restarted = codexd.json(&["restart", "--now", "--grace", "1"])?;
    assert_eq!(restarted["status"], "restarted");
    drop(client);
    assert_eq!(block_on(stage.first_turn(&thread))?, "interrupted");
    codexd.json(&["stop"])?;
    stage.home.assert_no_process_left();
    Ok(())
}

fn reload(server: Server) -> anyhow::Result<()> {
    let (stage, start) = Stage::set(server)?;
    stage.home.write("app-server-daemon/settings.json", r#"{"shutdownGraceSeconds": 0}"#)?;
    let codexd = Codexd::new(&stage.home)?;
    codexd.json(&start)?;
    let (client, thread) = block_on(stage.begin_turn("[[deltas=30 delay=0.05]]"))?;
    let reloading = codexd.spawn(&["reload"])?;
    codexd_testkit::until(SOON, "the old server to finish its turn", || {
        let status = codexd.json(&["status"]).ok()?;
        // Beside its successor, where the two may overlap.
        (status["state"] == "draining" || status["generations"][1]["role"] == "outgoing").then_some(())
    })?;
    let reloaded = reloading.finish(SOON)?.success_json()?;
    assert_eq!(reloaded["status"], "restarted");
    drop(client);
    assert_eq!(block_on(stage.first_turn(&thread))?, "completed");
    codexd.json(&["stop", "--grace", "0"])?;
    stage.home.assert_no_process_left();
    Ok(())
}
