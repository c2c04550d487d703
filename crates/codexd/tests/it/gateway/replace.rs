//! The server is replaced while clients work: no client loses a connection, a request or a piece of text.

use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use codexd_testkit::{Client, Server, Wire};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::{JoinHandle, LocalSet};

use super::fixture::{
    GatewayFixture, TIMEOUT, asking_turn, assert_whole, from_environment, join, speaking_turn, told,
    wait_pieces,
};
use super::on_each_server;
use super::sharing::QUESTION;

on_each_server! {
    clients_threads_and_turns_go_on_through_a_restart: live;
    a_restart_is_no_event_for_a_slow_reader_an_open_question_and_those_who_come_and_go: crowded;
    three_restarts_in_a_row_move_a_thread_three_times: thrice;
    two_restarts_during_one_turn_leave_nobody_behind: twice_in_a_turn;
}

const CLIENTS: usize = 50;
const THREADS: usize = 20;
const BUSY: usize = 5;
/// How long the long turns speak, unless `CODEXD_LONG_TURN_SECONDS` says otherwise: the are of twenty seconds.
const LONG_TURN_SECONDS: u64 = 6;
/// Pieces of a long turn in a second.
const PACE: usize = 20;
/// Idle threads answer again within this time on a machine that has nothing else to do.
const PAUSE_MAX: Duration = Duration::from_millis(250);
/// A busy machine gets so many times the longest wait for a server that is asked just as often and is not replaced.
const BUSY_FACTOR: u32 = 10;
/// What the mock model waits for before it ends a long turn. The embedded server has no model: there it ends by itself.
const HELD: &str = "long";

/// A turn that is long enough for a restart to happen in the middle of it.
#[derive(Debug)]
struct LongTurn {
    deltas: usize,
    text: String,
}

impl LongTurn {
    fn new() -> anyhow::Result<LongTurn> {
        let seconds = from_environment("CODEXD_LONG_TURN_SECONDS", LONG_TURN_SECONDS)?;
        let deltas = PACE * usize::try_from(seconds)?;
        Ok(LongTurn { deltas, text: format!("[[deltas={deltas} delay={} hold={HELD}]]", 1.0 / PACE as f64) })
    }
}

/// What one that asks all the time has seen.
#[derive(Debug, Default)]
struct Asked {
    requests: usize,
    longest: Duration,
}

/// Asks about a thread all the time until told to stop; every answer must be good.
fn ask_all_the_time(
    client: Rc<Client>,
    thread: String,
    mut stop: watch::Receiver<bool>,
) -> JoinHandle<anyhow::Result<Asked>> {
    tokio::task::spawn_local(async move {
        let mut asked = Asked::default();
        while !*stop.borrow() {
            let started = Instant::now();
            let (method, params) = match asked.requests % 3 {
                0 => ("thread/loaded/list", json!({})),
                1 => ("thread/read", json!({"threadId": thread})),
                _ => ("thread/turns/list", json!({"threadId": thread, "limit": 1})),
            };
            client.call(method, params).await.with_context(|| format!("while it is replaced: {method}"))?;
            asked.longest = asked.longest.max(started.elapsed());
            asked.requests += 1;
            // A pause that ends at once when it is over.
            let _still_on = tokio::time::timeout(Duration::from_millis(20), stop.changed()).await;
        }
        Ok(asked)
    })
}

/// Clients, each subscribed to one thread and asking about it; the first `BUSY` threads are in a long turn, the very first
/// in one that ends when a question is answered.
struct ClientFleet {
    clients: Vec<Rc<Client>>,
    threads: Vec<String>,
    turns: Vec<String>,
    question: Value,
    deltas: usize,
}

impl ClientFleet {
    async fn gather(fixture: &GatewayFixture) -> anyhow::Result<ClientFleet> {
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            clients.push(Rc::new(fixture.client("one of many").await?.with_patience(TIMEOUT * 2)));
        }
        let mut threads = Vec::new();
        for client in clients.iter().take(THREADS) {
            threads.push(fixture.thread(client).await?);
        }
        for (number, client) in clients.iter().enumerate().skip(THREADS) {
            join(client, &threads[number % THREADS]).await?;
        }
        clients.iter().for_each(|client| client.forget());
        let long = LongTurn::new()?;
        let (asking, question) = asking_turn(&clients[0], &threads[0], long.deltas).await?;
        let mut turns = vec![asking];
        for number in 1..BUSY {
            turns.push(speaking_turn(&clients[number], &threads[number], &long.text).await?);
        }
        Ok(ClientFleet { clients, threads, turns, question, deltas: long.deltas })
    }

    fn thread_of(&self, client: usize) -> &str {
        &self.threads[client % THREADS]
    }

    /// Requests about idle threads are answered; a new turn on an idle thread does not wait for the long turns.
    async fn assert_idle_answer(&self) -> anyhow::Result<()> {
        let newcomer = &self.clients[THREADS - 1];
        let done = newcomer.turn(self.thread_of(THREADS - 1), "[[deltas=3]]").await?;
        ensure!(done["params"]["turn"]["status"] == "completed", "{done}");
        for (number, client) in self.clients.iter().enumerate().filter(|(number, _)| number % THREADS >= BUSY)
        {
            let about = json!({"threadId": self.thread_of(number)});
            client.call("thread/read", about).await.with_context(|| format!("client {number}"))?;
        }
        Ok(())
    }

    /// Lets the long turns end.
    async fn let_go(&self, fixture: &GatewayFixture) -> anyhow::Result<()> {
        fixture.model.release(HELD);
        self.clients[0].respond(&self.question["id"], json!({"decision": "accept"})).await
    }

    /// Waits until every turn has ended for everybody who watched it.
    async fn wait_turns(&self) -> anyhow::Result<()> {
        for (number, client) in self.clients.iter().enumerate() {
            if let Some(turn) = self.turns.get(number % THREADS) {
                client.wait_turn(turn).await?;
            }
        }
        Ok(())
    }

    /// Every turn has ended whole for every viewer, and no client saw the move. This delays every client that is
    /// asking meanwhile.
    fn assert_whole(&self) -> anyhow::Result<()> {
        for (number, client) in self.clients.iter().enumerate() {
            if let Some(turn) = self.turns.get(number % THREADS) {
                assert_whole(client, turn, self.deltas).with_context(|| format!("client {number}"))?;
            }
            for message in client.received() {
                let unheard = ["thread/closed", "deprecationNotice", "thread/started"];
                let method = message["method"].as_str().unwrap_or_default();
                ensure!(!unheard.contains(&method), "client {number} heard of the move: {message}");
                ensure!(message["params"]["status"]["type"] != "notLoaded", "client {number}: {message}");
            }
        }
        Ok(())
    }
}

async fn live(server: Server) -> anyhow::Result<()> {
    LocalSet::new()
        .run_until(async {
            let fixture = GatewayFixture::open(server).await?;
            let fleet = ClientFleet::gather(&fixture).await?;
            let old = fixture.server().await?;
            let (stop, stopped) = watch::channel(false);
            let control = GatewayFixture::without_gateway(Server::Embedded).await?;
            let witness = Rc::new(control.client("control").await?);
            let thread = control.thread(&witness).await?;
            let witness = ask_all_the_time(witness, thread, stopped.clone());
            let mut asking = Vec::new();
            for (number, client) in fleet.clients.iter().enumerate() {
                asking.push(ask_all_the_time(
                    client.clone(),
                    fleet.thread_of(number).to_owned(),
                    stopped.clone(),
                ));
            }
            let started = Instant::now();
            let restarted = fixture.command(&["restart"]).await?;
            ensure!(restarted["status"] == "restarted", "{restarted}");
            let command = started.elapsed();
            ensure!(fixture.server().await?.pid != old.pid, "the same process serves");
            fleet.assert_idle_answer().await?;
            ensure!(old.is_alive(), "it left before its turns had ended");
            fleet.let_go(&fixture).await?;
            fleet.wait_turns().await?;
            let turns = started.elapsed();
            fixture.until_left(&old).await?;
            let left = started.elapsed();
            stop.send(true)?;
            let (mut requests, mut longest_idle) = (0, Duration::ZERO);
            for (number, asked) in asking.into_iter().enumerate() {
                let asked = asked.await?.with_context(|| format!("client {number}"))?;
                requests += asked.requests;
                if number % THREADS >= BUSY {
                    longest_idle = longest_idle.max(asked.longest);
                }
            }
            fleet.assert_whole()?;
            let machine = witness.await?.context("the control")?.longest;
            let pause_max = PAUSE_MAX + machine * BUSY_FACTOR;
            ensure!(longest_idle < pause_max, "an idle thread did not answer for {longest_idle:?}, the control for {machine:?}");
            control.close().await?;
            println!(
                "restart {command:?}, the long turns ended after {turns:?} and the old server after {left:?}; \
                 {requests} requests; longest pause of an idle thread {longest_idle:?}, of the control {machine:?}"
            );
            for (number, client) in fleet.clients.iter().enumerate().take(THREADS) {
                let done = client.turn(fleet.thread_of(number), "[[deltas=1]]").await?;
                ensure!(done["params"]["turn"]["status"] == "completed", "{done}");
            }
            fixture.close().await
        })
        .await
}

async fn crowded(server: Server) -> anyhow::Result<()> {
    LocalSet::new()
        .run_until(async {
            let fixture = GatewayFixture::open(server).await?;
            let alice = fixture.client("alice").await?.with_patience(TIMEOUT * 2);
            let (busy, asking) = (fixture.thread(&alice).await?, fixture.thread(&alice).await?);
            let slow = slow_reader(&fixture, &busy).await?;
            let long = LongTurn::new()?;
            let turn = speaking_turn(&alice, &busy, &long.text).await?;
            let waiting = alice.start_turn(&asking, "[[shell=true;; escalate=1 deltas=2]]").await?;
            let question = alice.wait_method(QUESTION).await?;
            let old = fixture.server().await?;
            let (stop, stopped) = watch::channel(false);
            let place = fixture.place();
            let coming = tokio::task::spawn_local(come_and_go(place, busy.clone(), stopped));
            let command = fixture.command(&["restart"]);
            let answer = async {
                wait_pieces(&alice, &turn, long.deltas / 2).await?;
                let late = fixture.client("late").await?;
                join(&late, &asking).await?;
                let again = late.wait_method(QUESTION).await?;
                late.respond(&again["id"], json!({"decision": "accept"})).await?;
                late.wait_turn(&waiting).await?;
                anyhow::Ok(late)
            };
            let (command, late) = tokio::join!(command, answer);
            ensure!(command?["status"] == "restarted", "it was replaced");
            fixture.model.release(HELD);
            for (client, turn) in [(&alice, &waiting), (&late?, &waiting)] {
                let end = client.wait_turn(turn).await?;
                ensure!(end["params"]["turn"]["status"] == "completed", "{end}");
            }
            let resolved = alice.wait_method("serverRequest/resolved").await?;
            ensure!(resolved["params"]["requestId"] == question["id"], "{resolved}");
            alice.wait_turn(&turn).await?;
            assert_whole(&alice, &turn, long.deltas)?;
            fixture.until_left(&old).await?;
            stop.send(true)?;
            let visits = coming.await??;
            ensure!(visits > 3, "only {visits} clients came");
            let pieces = tokio::task::spawn_blocking(move || read_slowly(slow)).await??;
            ensure!(pieces == long.deltas, "the slow reader got {pieces} pieces");
            fixture.close().await
        })
        .await
}

/// A subscriber who does not read for now.
async fn slow_reader(fixture: &GatewayFixture, thread: &str) -> anyhow::Result<Wire> {
    let (socket, about) = (fixture.socket(), json!({"threadId": thread, "excludeTurns": true}));
    let wire = tokio::task::spawn_blocking(move || {
        let mut wire = Wire::connect(&socket)?;
        wire.call("thread/resume", &about)?;
        anyhow::Ok(wire)
    });
    wire.await?
}

/// Reads everything until the end of a turn; gives how many pieces of text came.
fn read_slowly(mut wire: Wire) -> anyhow::Result<usize> {
    let mut pieces = 0;
    loop {
        let message: Value = serde_json::from_slice(&wire.message()?)?;
        match message["method"].as_str() {
            Some("item/agentMessage/delta") => pieces += 1,
            Some("turn/completed") => return Ok(pieces),
            _ => {}
        }
    }
}

/// Clients who come, subscribe, ask and leave, one after the other; gives how many.
async fn come_and_go(
    place: codexd_testkit::Place,
    thread: String,
    stop: watch::Receiver<bool>,
) -> anyhow::Result<usize> {
    let mut visits = 0;
    while !*stop.borrow() {
        let client = Client::connect(&place, "visitor").await?;
        join(&client, &thread).await?;
        client.call("thread/loaded/list", json!({})).await?;
        if visits % 2 == 0 {
            client.close().await?;
        }
        visits += 1;
        tokio::task::yield_now().await;
    }
    Ok(visits)
}

async fn thrice(server: Server) -> anyhow::Result<()> {
    let fixture = GatewayFixture::open(server).await?;
    let alice = fixture.client("alice").await?;
    let thread = fixture.thread(&alice).await?;
    let mut pids = vec![fixture.server().await?.pid];
    for _ in 0..3 {
        fixture.command(&["restart"]).await?;
        let turn = alice.start_turn(&thread, "[[deltas=2]]").await?;
        alice.wait_turn(&turn).await?;
        assert_whole(&alice, &turn, 2)?;
        pids.push(fixture.server().await?.pid);
    }
    pids.dedup();
    ensure!(pids.len() == 4, "{pids:?}");
    ensure!(told(&alice, "thread/closed", "").is_empty(), "the moves are not visible to clients");
    fixture.close().await
}

async fn twice_in_a_turn(server: Server) -> anyhow::Result<()> {
    let fixture = GatewayFixture::open(server).await?;
    let alice = fixture.client("alice").await?;
    let (busy, idle) = (fixture.thread(&alice).await?, fixture.thread(&alice).await?);
    let turn = speaking_turn(&alice, &busy, &format!("[[deltas=60 delay=0.05 hold={HELD}]]")).await?;
    let first = fixture.server().await?;
    fixture.command(&["restart"]).await?;
    let second = fixture.server().await?;
    fixture.command(&["restart"]).await?;
    let done = alice.turn(&idle, "[[deltas=2]]").await?;
    ensure!(done["params"]["turn"]["status"] == "completed", "{done}");
    fixture.model.release(HELD);
    alice.wait_turn(&turn).await?;
    assert_whole(&alice, &turn, 60)?;
    fixture.until_left(&first).await.context("the first")?;
    fixture.until_left(&second).await.context("the second")?;
    let next = alice.start_turn(&busy, "[[deltas=3]]").await?;
    alice.wait_turn(&next).await?;
    assert_whole(&alice, &next, 3)?;
    fixture.close().await
}
