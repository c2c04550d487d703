//! A running turn outlives the keeper, and is not cut by whoever comes next.

use anyhow::{Context, ensure};
use codexd_testkit::{Client, Home, MockModel, Place, Server, Version, block_on, codex, limits, skip};
use serde_json::{Value, json};

use super::house::{House, PATIENCE};
use super::keeper::kill;

/// About two seconds, so that it runs well before and well after everything that happens to the keeper.
const TURN: &str = "go on [[deltas=40 delay=0.05]]";

/// A house with a server and a turn that has begun to speak.
struct Scene {
    house: House,
    client: Client,
    thread: String,
    turn: String,
    _model: MockModel,
}

impl Scene {
    async fn open(server: Server) -> anyhow::Result<Scene> {
        let model = MockModel::start()?;
        let house = House::at(Home::with_model(&model)?, server)?;
        house.run(&["start"])?;
        let client = Client::connect(&Place::Socket(house.home.control_socket()), "turns").await?;
        let thread = client.start_thread(&house.home.work()).await?;
        let turn = client.start_turn(&thread, TURN).await?;
        client.wait_method("item/agentMessage/delta").await?;
        Ok(Scene { house, client, thread, turn, _model: model })
    }

    /// How the turn ended, as a server of today reads it from disk: the word of one that leaves may be lost on its way.
    async fn ending(&self) -> anyhow::Result<Value> {
        self.house.run(&["start"])?;
        let client = Client::connect(&Place::Socket(self.house.home.control_socket()), "later").await?;
        let read = client.call("thread/read", json!({"threadId": self.thread, "includeTurns": true})).await?;
        Ok(read["thread"]["turns"][0]["status"].clone())
    }
}

const SERVERS: [Server; 2] = [Server::Embedded, Server::Real(Version::V0_169_0)];

#[test]
fn a_turn_survives_the_keeper_and_the_next_verb_takes_its_server_back() -> anyhow::Result<()> {
    if let Err(reason) = codex::platform() {
        skip!("{reason}");
    }
    for server in SERVERS {
        block_on(async {
            let scene = Scene::open(server).await?;
            let before = scene.house.server()?;
            kill(&scene.house.keeper()?)?;
            let again = scene.house.run(&["start"])?;
            ensure!(again["status"] == "alreadyRunning", "{again}");
            ensure!(again["repairs"][0]["found"] == "lost-keeper", "{again}");
            ensure!(scene.house.assert_served()?.pid == before.pid, "another server");
            let done = scene.client.wait_turn(&scene.turn).await?;
            ensure!(done["params"]["turn"]["status"] == "completed", "{done}");
            scene.house.assert_stops()
        })
        .with_context(|| format!("{server:?}"))?;
    }
    Ok(())
}

/// The first keeper has asked the server to leave; asking again would force it out of the turn.
#[test]
fn a_turn_that_drains_is_not_cut_when_the_keeper_dies_and_stop_is_run_again() -> anyhow::Result<()> {
    if let Err(reason) = codex::platform() {
        skip!("{reason}");
    }
    for (server, verb) in SERVERS.into_iter().flat_map(|server| [(server, "stop"), (server, "restart")]) {
        block_on(async {
            let scene = Scene::open(server).await?;
            let before = scene.house.server()?;
            let first = scene.house.codexd()?.spawn(&[verb])?;
            let draining = |status: &Value| {
                status["state"] == "draining" || status["generations"][1]["role"] == "outgoing"
            };
            scene.house.status_when("the first verb to drain", draining)?;
            // The verb first: it would bring the next keeper by itself.
            drop(first);
            kill(&scene.house.keeper()?)?;
            let second = scene.house.codexd()?.spawn(&[verb])?;
            let answer = second.finish(limits::RUN)?.success_json()?;
            ensure!(answer["status"] == if verb == "stop" { "stopped" } else { "restarted" }, "{answer}");
            ensure!(scene.ending().await? == "completed", "the turn was cut");
            // One that hands over leaves when the turn has ended, whatever verbs say meanwhile.
            before.wait_gone(PATIENCE)?;
            scene.house.assert_stops()
        })
        .with_context(|| format!("{verb} on {server:?}"))?;
    }
    Ok(())
}

/// A verb that was killed while turns drained has begun a stop; a start that comes then wants the server back.
#[test]
fn start_while_a_forgotten_stop_drains_brings_a_fresh_server_after_the_turn() -> anyhow::Result<()> {
    block_on(async {
        for keeper_dies in [false, true] {
            let scene = Scene::open(Server::Embedded).await?;
            let before = scene.house.server()?;
            let first = scene.house.codexd()?.spawn(&["stop"])?;
            scene.house.status_when("the stop to drain", |status| status["state"] == "draining")?;
            drop(first);
            if keeper_dies {
                kill(&scene.house.keeper()?)?;
            }
            let start = scene.house.codexd()?.spawn(&["start"])?;
            let answer = start.finish(limits::RUN)?.success_json()?;
            ensure!(answer["status"] == "started", "{answer}");
            ensure!(scene.ending().await? == "completed", "the turn was cut");
            ensure!(scene.house.assert_served()?.pid != before.pid, "it was asked to leave");
            scene.house.assert_stops()?;
        }
        Ok(())
    })
}
