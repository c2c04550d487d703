//! What a stop, a restart and a reload do to a turn that runs.

use codexd_testkit::{Client, Codexd, Home, MockModel, Place, Server, block_on, codex, skip, until};
use serde_json::Value;

use super::{SERVERS, SOON, on_every_server, prepare, recorded};

on_every_server! {
    a_running_turn_ends_whole_within_the_grace: graceful;
    a_turn_beyond_the_grace_is_cut_and_read_back_as_interrupted: beyond_the_grace;
    reload_waits_longer_than_the_grace: reload;
}

struct Stage {
    home: Home,
    model: MockModel,
}

/// See [`Stage::open_turn`].
struct OpenTurn {
    client: Client,
    thread: String,
    question: Option<Value>,
}

/// What the mock model waits for.
const HELD: &str = "turn";

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

    /// A running turn that ends when the test lets it: with a real server its model holds back the end of what it says; the
    /// embedded one has no model, and asks for a command.
    async fn open_turn(&self, server: Server) -> anyhow::Result<OpenTurn> {
        if server != Server::Embedded {
            let (client, thread) = self.begin_turn(&format!("[[deltas=4 hold={HELD}]]")).await?;
            return Ok(OpenTurn { client, thread, question: None });
        }
        let client = Client::connect(&Place::Socket(self.home.control_socket()), "turns").await?;
        let thread = client.start_thread(&self.home.work()).await?;
        client.start_turn(&thread, "[[shell=true;; escalate=1 deltas=4]]").await?;
        let question = client.wait_method("item/commandExecution/requestApproval").await?;
        Ok(OpenTurn { client, thread, question: Some(question["id"].clone()) })
    }

    /// Lets it end; gives its thread.
    async fn let_go(&self, open: OpenTurn) -> anyhow::Result<String> {
        self.model.release(HELD);
        if let Some(question) = &open.question {
            open.client.respond(question, serde_json::json!({"decision": "accept"})).await?;
        }
        Ok(open.thread)
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
    let thread = block_on(async {
        let open = stage.open_turn(server).await?;
        let old = recorded(&stage.home)?;
        let reloading = codexd.spawn(&["reload"])?;
        until(SOON, "the old server to finish its turn", || {
            let status = codexd.json(&["status"]).ok()?;
            // Beside its successor, where the two may overlap.
            (status["state"] == "draining" || status["generations"][1]["role"] == "outgoing").then_some(())
        })?;
        assert!(old.is_alive(), "it did not wait for the turn");
        let thread = stage.let_go(open).await?;
        let reloaded = reloading.finish(SOON)?.success_json()?;
        assert_eq!(reloaded["status"], "restarted");
        old.wait_gone(SOON)?;
        anyhow::Ok(thread)
    })?;
    assert_eq!(block_on(stage.first_turn(&thread))?, "completed");
    codexd.json(&["stop", "--grace", "0"])?;
    stage.home.assert_no_process_left();
    Ok(())
}
