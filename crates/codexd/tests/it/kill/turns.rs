//! A running turn outlives the supervisor, and the next command does not cut it.

use anyhow::{Context, ensure};
use codexd_testkit::{Client, Home, MockModel, Place, Server, Version, block_on, codex, limits, skip, until};
use serde_json::{Value, json};

use super::supervisor::kill;
use super::test_home::{TIMEOUT, TestHome};

/// What the question about the command of a turn is.
const QUESTION: &str = "item/commandExecution/requestApproval";
/// Until when the mock model holds the end of an answer back.
const HELD: &str = "turn";

/// A test_home with a server and a turn that ends when the test lets it: with the real server its model holds back the end of what
/// it says; the embedded one has no model, and asks for a command.
struct Scene {
    test_home: TestHome,
    client: Client,
    thread: String,
    turn: String,
    /// The open question, if it is one.
    question: Option<Value>,
    model: MockModel,
}

impl Scene {
    async fn open(server: Server) -> anyhow::Result<Scene> {
        let model = MockModel::start()?;
        let test_home = TestHome::at(Home::with_model(&model)?, server)?;
        test_home.run(&["start"])?;
        let client = Client::connect(&Place::Socket(test_home.home.control_socket()), "turns").await?;
        let thread = client.start_thread(&test_home.home.work()).await?;
        let asks = server == Server::Embedded;
        let open = if asks { "shell=true;; escalate=1".to_owned() } else { format!("hold={HELD}") };
        let turn = client.start_turn(&thread, &format!("go on [[{open} deltas=4]]")).await?;
        let said = client.wait_method(if asks { QUESTION } else { "item/agentMessage/delta" }).await?;
        Ok(Scene { test_home, client, thread, turn, question: asks.then_some(said), model })
    }

    /// Lets the turn end.
    async fn let_go(&self) -> anyhow::Result<()> {
        self.model.release(HELD);
        let Some(question) = &self.question else { return Ok(()) };
        self.client.respond(&question["id"], json!({"decision": "accept"})).await
    }

    /// How the turn ended, as a server of today reads it from disk: the word of one that leaves may be lost on its way.
    async fn ending(&self) -> anyhow::Result<Value> {
        self.test_home.run(&["start"])?;
        let client = Client::connect(&Place::Socket(self.test_home.home.control_socket()), "later").await?;
        let read = client.call("thread/read", json!({"threadId": self.thread, "includeTurns": true})).await?;
        Ok(read["thread"]["turns"][0]["status"].clone())
    }
}

const SERVERS: [Server; 2] = [Server::Embedded, Server::Real(Version::NEWEST)];

#[test]
fn a_turn_survives_the_supervisor_and_the_next_command_takes_its_server_back() -> anyhow::Result<()> {
    if let Err(reason) = codex::platform() {
        skip!("{reason}");
    }
    for server in SERVERS {
        block_on(async {
            let scene = Scene::open(server).await?;
            let before = scene.test_home.server()?;
            kill(&scene.test_home.supervisor()?)?;
            let again = scene.test_home.run(&["start"])?;
            ensure!(again["status"] == "alreadyRunning", "{again}");
            ensure!(again["repairs"][0]["found"] == "lost-supervisor", "{again}");
            ensure!(scene.test_home.assert_served()?.pid == before.pid, "another server");
            scene.let_go().await?;
            let done = scene.client.wait_turn(&scene.turn).await?;
            ensure!(done["params"]["turn"]["status"] == "completed", "{done}");
            scene.test_home.assert_stops()
        })
        .with_context(|| format!("{server:?}"))?;
    }
    Ok(())
}

/// The first supervisor has asked the server to leave; asking again would force it out of the turn.
#[test]
fn a_turn_that_drains_is_not_cut_when_the_supervisor_dies_and_stop_is_run_again() -> anyhow::Result<()> {
    if let Err(reason) = codex::platform() {
        skip!("{reason}");
    }
    for (server, command) in SERVERS.into_iter().flat_map(|server| [(server, "stop"), (server, "restart")]) {
        block_on(async {
            let mut scene = Scene::open(server).await?;
            if command == "restart" {
                scene.test_home.expect_a_second_restart();
            }
            let before = scene.test_home.server()?;
            let first = scene.test_home.codexd()?.spawn(&[command])?;
            let draining = |status: &Value| {
                let mut generations = status["generations"].as_array().into_iter().flatten();
                status["state"] == "draining" || generations.any(|one| one["role"] == "outgoing")
            };
            scene.test_home.status_when("the first command to drain", draining)?;
            // The command first: it would bring the next supervisor by itself.
            drop(first);
            kill(&scene.test_home.supervisor()?)?;
            let second = scene.test_home.codexd()?.spawn(&[command])?;
            scene.test_home.status_when("the second command to drain", |status| {
                status["supervisorPid"].is_u64() && draining(status)
            })?;
            ensure!(before.is_alive(), "it did not wait for the turn");
            scene.let_go().await?;
            let answer = second.finish(limits::RUN)?.success_json()?;
            ensure!(answer["status"] == if command == "stop" { "stopped" } else { "restarted" }, "{answer}");
            // One that hands over leaves when the turn has ended, whatever commands say meanwhile.
            before.wait_gone(TIMEOUT)?;
            ensure!(scene.ending().await? == "completed", "the turn was cut");
            scene.test_home.assert_stops()
        })
        .with_context(|| format!("{command} on {server:?}"))?;
    }
    Ok(())
}

/// A command that was killed while turns drained has begun a stop; a start that comes then wants the server back.
#[test]
fn start_while_a_forgotten_stop_drains_brings_a_fresh_server_after_the_turn() -> anyhow::Result<()> {
    block_on(async {
        for supervisor_dies in [false, true] {
            let scene = Scene::open(Server::Embedded).await?;
            let before = scene.test_home.server()?;
            let first = scene.test_home.codexd()?.spawn(&["stop"])?;
            scene.test_home.status_when("the stop to drain", |status| status["state"] == "draining")?;
            drop(first);
            if supervisor_dies {
                kill(&scene.test_home.supervisor()?)?;
            }
            let start = scene.test_home.codexd()?.spawn(&["start"])?;
            until(TIMEOUT, "the start to begin", || {
                let lock = std::fs::read_to_string(scene.test_home.home.state("daemon.lock")).ok()?;
                lock.contains("(start)").then_some(())
            })?;
            ensure!(before.is_alive(), "it did not wait for the turn");
            scene.let_go().await?;
            let answer = start.finish(limits::RUN)?.success_json()?;
            ensure!(answer["status"] == "started", "{answer}");
            ensure!(scene.ending().await? == "completed", "the turn was cut");
            ensure!(scene.test_home.assert_served()?.pid != before.pid, "it was asked to leave");
            scene.test_home.assert_stops()?;
        }
        Ok(())
    })
}
