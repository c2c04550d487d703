//! Goals work on, whatever is killed and whether anybody is there or not.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use codexd_testkit::model::ModelEvent;
use codexd_testkit::{Client, Place, until};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::busy::{during_a_restart, wait_another_server};
use super::fixture::{GatewayFixture, TIMEOUT, gone, join};
use super::on_the_real_server;
use crate::lifecycle::supervisor;

on_the_real_server! {
    one_goes_on_across_a_restart: goal;
    one_that_is_held_goes_on_although_the_gateway_is_killed: held_goal;
    one_whose_turn_is_interrupted_while_it_is_held_rests: interrupted_goal;
    one_works_on_although_the_gateway_is_killed_and_nobody_comes: deserted_goal;
    one_that_is_held_goes_on_although_the_gateway_is_killed_and_nobody_comes: deserted_held_goal;
    one_works_on_although_its_thread_was_unloaded_while_no_gateway_lived: unloaded_goal;
    one_works_on_although_the_server_is_killed_and_nobody_is_there: goal_of_a_killed_server;
    one_works_on_although_everything_is_killed_and_nobody_comes: goal_of_a_killed_home;
    one_works_on_after_a_stop_and_a_start_and_nobody_comes: stopped_goal;
}

async fn goal(fixture: GatewayFixture) -> anyhow::Result<()> {
    let alice = fixture.client("alice").await?;
    let thread = fixture.thread(&alice).await?;
    let old = fixture.server().await?;
    alice.forget();
    alice
        .call(
            "thread/goal/set",
            json!({"threadId": thread, "objective": "go on [[deltas=10 delay=0.05]]", "status": "active"}),
        )
        .await?;
    alice.wait_method("turn/started").await?;
    during_a_restart(&fixture, async {
        wait_another_server(&fixture, old.pid).await?;
        fixture.until_left(&old).await
    })
    .await?;
    let seen = alice.received().len();
    let mut told_since = 0;
    // The current server continues the goal.
    alice
        .wait("a turn on the new server", |message| {
            told_since += 1;
            told_since > seen && message["method"] == "turn/completed"
        })
        .await?;
    let kept = alice.call("thread/goal/get", json!({"threadId": thread})).await?;
    ensure!(kept["goal"]["status"] == "active", "{kept}");
    alice.call("thread/goal/set", json!({"threadId": thread, "status": "paused"})).await?;
    for end in alice.received().iter().filter(|message| message["method"] == "turn/completed") {
        ensure!(end["params"]["turn"]["status"] == "completed", "a turn of the goal was cut: {end}");
    }
    fixture.close().await
}

async fn held_goal(fixture: GatewayFixture) -> anyhow::Result<()> {
    let goal = Goal::begin(&fixture, 40).await?;
    let old = fixture.server().await?;
    let bob = during_a_restart(&fixture, async {
        goal.is_held_when_the_gateway_is_killed(&fixture).await?;
        let bob = fixture.client("bob").await?;
        join(&bob, &goal.thread).await?;
        fixture.until_left(&old).await?;
        Ok(bob)
    });
    goal.goes_on_for(&fixture, &bob.await?).await?;
    fixture.close().await
}

async fn interrupted_goal(fixture: GatewayFixture) -> anyhow::Result<()> {
    let goal = Goal::begin(&fixture, 200).await?;
    let (alice, old) = (goal.owner.as_ref().context("its owner")?, fixture.server().await?);
    let began = alice.received().into_iter().rfind(|told| told["method"] == "turn/started");
    let turn = began.context("a turn")?["params"]["turn"]["id"].clone();
    during_a_restart(&fixture, async {
        goal.is_held().await?;
        alice.call("turn/interrupt", json!({"threadId": goal.thread, "turnId": turn})).await?;
        fixture.until_left(&old).await
    })
    .await?;
    alice
        .wait("a word of the pause", |told| {
            told["method"] == "thread/goal/updated" && told["params"]["goal"]["status"] == "paused"
        })
        .await?;
    let kept = alice.call("thread/goal/get", json!({"threadId": goal.thread})).await?;
    ensure!(kept["goal"]["status"] == "paused", "{kept}");
    let begun = alice.received().iter().filter(|told| told["method"] == "turn/started").count();
    ensure!(begun == 1, "it went on: {begun} turns");
    fixture.close().await
}

async fn deserted_held_goal(fixture: GatewayFixture) -> anyhow::Result<()> {
    let goal = Goal::begin(&fixture, 40).await?;
    let old = fixture.server().await?;
    during_a_restart(&fixture, async {
        goal.is_held_when_the_gateway_is_killed(&fixture).await?;
        fixture.until_left(&old).await
    })
    .await?;
    goal.works_unwatched(&fixture).await?;
    goal.is_joined(&fixture).await?;
    fixture.close().await
}

async fn deserted_goal(fixture: GatewayFixture) -> anyhow::Result<()> {
    let goal = Goal::begin(&fixture, 60).await?;
    kill_gateway(&fixture)?;
    goal.works_unwatched(&fixture).await?;
    goal.is_joined(&fixture).await?;
    fixture.close().await
}

/// A turn that ends without subscribers unloads its thread.
async fn unloaded_goal(fixture: GatewayFixture) -> anyhow::Result<()> {
    let goal = Goal::begin(&fixture, 10).await?;
    let server = Client::connect(&own_socket(&fixture).await?, "onlooker").await?;
    // It starts nothing for so long.
    let supervisor = supervisor(&fixture.home)?.pause()?;
    kill_gateway(&fixture)?;
    server.wait_method("thread/closed").await?;
    server.close().await?;
    drop(supervisor);
    goal.works_unwatched(&fixture).await?;
    goal.is_joined(&fixture).await?;
    fixture.close().await
}

async fn goal_of_a_killed_server(fixture: GatewayFixture) -> anyhow::Result<()> {
    let goal = Goal::begin(&fixture, 10).await?.left_alone().await?;
    fixture.kill_server().await?;
    goal.works_unwatched(&fixture).await?;
    goal.is_joined(&fixture).await?;
    fixture.close().await
}

async fn goal_of_a_killed_home(fixture: GatewayFixture) -> anyhow::Result<()> {
    let goal = Goal::begin(&fixture, 10).await?.left_alone().await?;
    let (supervisor, server) = (supervisor(&fixture.home)?, fixture.server().await?);
    supervisor.signal(Signal::KILL)?;
    gone(&supervisor).await?;
    kill_gateway(&fixture)?;
    server.signal(Signal::KILL)?;
    gone(&server).await?;
    fixture.command(&["start"]).await?;
    goal.works_unwatched(&fixture).await?;
    goal.is_joined(&fixture).await?;
    fixture.close().await
}

async fn stopped_goal(fixture: GatewayFixture) -> anyhow::Result<()> {
    let goal = Goal::begin(&fixture, 10).await?;
    fixture.command(&["stop"]).await?;
    fixture.command(&["start"]).await?;
    goal.works_unwatched(&fixture).await?;
    let events = std::fs::read_to_string(fixture.home.state("events.jsonl"))?;
    let told = events.lines().find(|line| line.contains(r#""type":"goals.loading""#));
    ensure!(
        told.is_some_and(|told| told.contains(&goal.thread)),
        "no event explains why the agent works: {events}"
    );
    goal.is_joined(&fixture).await?;
    fixture.close().await
}

fn kill_gateway(fixture: &GatewayFixture) -> anyhow::Result<()> {
    let gateway = fixture.gateway()?;
    gateway.signal(Signal::KILL)?;
    gateway.wait_gone(TIMEOUT)
}

/// Where the current app-server itself listens.
async fn own_socket(fixture: &GatewayFixture) -> anyhow::Result<Place> {
    let server = fixture.server().await?;
    let socket = server.command.split(' ').find_map(|argument| argument.strip_prefix("unix://"));
    Ok(Place::Socket(socket.context("a socket of its own")?.into()))
}

/// Whether the goal of a thread is persisted as `active`, or as `suspended`.
fn is_remembered(file: &Path, what: &str, thread: &str) -> bool {
    let kept: Value = serde_json::from_slice(&std::fs::read(file).unwrap_or_default()).unwrap_or_default();
    kept[what].as_array().is_some_and(|threads| threads.iter().any(|kept| *kept == *thread))
}

/// An active goal whose first turn runs.
struct Goal {
    thread: String,
    remembered: PathBuf,
    /// The client that set the goal.
    owner: Option<Client>,
}

impl Goal {
    async fn begin(fixture: &GatewayFixture, deltas: usize) -> anyhow::Result<Goal> {
        let owner = fixture.client("alice").await?;
        let thread = fixture.thread(&owner).await?;
        owner.forget();
        let objective = format!("go on [[deltas={deltas} delay=0.05]]");
        let goal = json!({"threadId": thread, "objective": objective, "status": "active"});
        owner.call("thread/goal/set", goal).await?;
        owner.wait_method("turn/started").await?;
        Ok(Goal { thread, remembered: fixture.home.state("gateway-goals.json"), owner: Some(owner) })
    }

    /// No client is connected any more.
    async fn left_alone(mut self) -> anyhow::Result<Goal> {
        if let Some(owner) = self.owner.take() {
            owner.close().await?;
        }
        Ok(self)
    }

    fn is_remembered(&self, what: &str) -> bool {
        is_remembered(&self.remembered, what, &self.thread)
    }

    async fn is_held(&self) -> anyhow::Result<()> {
        let (file, thread) = (self.remembered.clone(), self.thread.clone());
        let wait = move || {
            until(TIMEOUT, "the goal to be suspended", || {
                is_remembered(&file, "suspended", &thread).then_some(())
            })
        };
        tokio::task::spawn_blocking(wait).await?
    }

    async fn is_held_when_the_gateway_is_killed(&self, fixture: &GatewayFixture) -> anyhow::Result<()> {
        self.is_held().await?;
        kill_gateway(fixture)
    }

    /// Turn follows turn without a client.
    async fn works_unwatched(&self, fixture: &GatewayFixture) -> anyhow::Result<()> {
        let asked = fixture.model.requests().len();
        // The first of these was under way before, perhaps.
        let look = |events: &[ModelEvent]| {
            let received = events.iter().filter(|event| matches!(event, ModelEvent::Received(_)));
            (received.count() >= asked + 2).then_some(())
        };
        fixture.model.wait_event("turns without a viewer", TIMEOUT, look).await
    }

    /// A client connects at last.
    async fn is_joined(&self, fixture: &GatewayFixture) -> anyhow::Result<()> {
        let bob = fixture.client("bob").await?;
        join(&bob, &self.thread).await?;
        self.goes_on_for(fixture, &bob).await
    }

    async fn goes_on_for(&self, fixture: &GatewayFixture, client: &Client) -> anyhow::Result<()> {
        client.forget();
        let began = client.wait_method("turn/started").await?;
        let turn = began["params"]["turn"]["id"].as_str().context("an id")?;
        let end = client.wait_turn(turn).await?;
        ensure!(end["params"]["turn"]["status"] == "completed", "{end}");
        let kept = client.call("thread/goal/get", json!({"threadId": self.thread})).await?;
        ensure!(kept["goal"]["status"] == "active", "{kept}");
        ensure!(!self.is_remembered("suspended"), "still suspended: {}", fixture.status().await?);
        ensure!(self.is_remembered("active"), "the goal is not persisted: {}", fixture.status().await?);
        client.call("thread/goal/set", json!({"threadId": self.thread, "status": "paused"})).await?;
        let file = self.remembered.clone();
        let wait = move || until(TIMEOUT, "nothing to be at work", || (!file.exists()).then_some(()));
        tokio::task::spawn_blocking(wait).await?
    }
}
