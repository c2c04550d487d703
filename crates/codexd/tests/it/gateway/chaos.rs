//! Many random clients while server and gateway are killed: every client gets its own answers, an approval is
//! answered once and by a client that was asked, nothing is lost without an error, and neither memory nor descriptors grow.
//!
//! `CODEXD_CHAOS_MESSAGES` sets how many messages there are (the number is 1,000,000), `CODEXD_CHAOS_SEED` the seed.
//! The gateway is killed during the first quarter only, so that its memory can be looked at; the server until the end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use codexd_testkit::{Server, Wire, until};
use rustix::process::Signal;
use serde_json::json;

use super::fixture::{GatewayFixture, TIMEOUT, from_environment, gone};
use super::on_each_server;

mod approval_group;
mod chaos_client;
mod harness;
mod watch;

pub(super) use harness::Rng;
use harness::{Counts, Deaths, Harness, SharedThread};
use watch::Samples;

on_each_server! {
    every_client_gets_its_own_answers_while_servers_and_gateways_are_killed: chaos;
}

/// Clients at the same time.
const CLIENTS: usize = 200;
/// Threads of this program that run the clients.
const WORKERS: usize = 8;
/// Threads with an approval group.
const APPROVAL_GROUPS: usize = 2;
/// Threads that all clients read.
const SHARED_THREADS: usize = 8;
/// Messages unless the environment sets another number.
const MESSAGES: usize = 60_000;
/// The same for the real server, which is slower.
const MESSAGES_REAL: usize = 6_000;
/// The shortest and the longest between two kills.
const CALM_MS: [u64; 2] = [300, 1_800];
/// Consecutive kills of one kind: the fifth within a minute would count as a crash loop.
const SERIES: usize = 4;
/// After this uptime the supervisor no longer counts earlier exits.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(62);
/// The pause between two looks at the gateway.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// What the real server logs about a response that it did not wait for.
const UNWANTED_ANSWER: &str = "could not find callback";
/// The log filter of the real server: nothing but that.
const LOGGED: &str = "off,codex_app_server::outgoing_message=warn";

async fn chaos(server: Server) -> anyhow::Result<()> {
    let messages = if server == Server::Embedded { MESSAGES } else { MESSAGES_REAL };
    let limit = usize::try_from(from_environment("CODEXD_CHAOS_MESSAGES", messages as u64)?)?;
    let seed = from_environment("CODEXD_CHAOS_SEED", 20_261_121)?;
    let fixture = GatewayFixture::open_with(server, &[("RUST_LOG", LOGGED)]).await?;
    let (harness, descriptors) = prepare(&fixture, limit).await?;
    let started = Instant::now();
    let (workers, ended) = open(&harness, seed);
    let samples = kill_at_random(&fixture, &harness, &mut Rng::new(seed), &ended).await;
    if samples.is_err() {
        harness.failed.store(true, Ordering::Relaxed);
    }
    for worker in workers {
        let outcome = worker.join().map_err(|_| anyhow::anyhow!("a worker panicked"))?;
        outcome.with_context(|| how_it_went(&fixture, &harness, seed))?;
    }
    let held = samples?.assert_flat(CLIENTS)?;
    println!("seed {seed}: {:?} in {:?}", harness.counts, started.elapsed());
    println!("{} servers and {} gateways killed", harness.servers.count(), harness.gateways.count());
    println!("the gateway, by quarters: {held}");
    watch::wait_descriptors(&fixture, descriptors)?;
    let events = std::fs::read_to_string(fixture.home.state("events.jsonl"))?;
    ensure!(!events.contains("client.cut"), "a client that reads was cut: {events}");
    let said = std::fs::read_to_string(fixture.home.state("server.stderr.log"))?;
    ensure!(!said.contains(UNWANTED_ANSWER), "a question was answered twice: {said}");
    let last = fixture.client("last").await?;
    let thread = fixture.thread(&last).await?;
    ensure!(!thread.is_empty(), "it serves as ever");
    fixture.close().await
}

/// The context of a failure: seed, counters, events, gateway log.
fn how_it_went(fixture: &GatewayFixture, harness: &Harness, seed: u64) -> String {
    let read = |name: &str| std::fs::read_to_string(fixture.home.state(name)).unwrap_or_default();
    let (events, log) = (read("events.jsonl"), read("gateway.log"));
    format!("seed {seed}, {:?}; the events:\n{events}\nthe gateway:\n{log}", harness.counts)
}

/// Makes the shared threads; returns the harness, and the descriptors of a gateway without clients.
async fn prepare(fixture: &GatewayFixture, limit: usize) -> anyhow::Result<(Arc<Harness>, usize)> {
    let maker = fixture.client("maker").await?;
    let mut shared_threads = Vec::new();
    for _ in 0..SHARED_THREADS {
        let thread = maker.start_thread(&fixture.work()).await?;
        let done = maker.turn(&thread, "[[deltas=1]]").await?;
        let turn = done["params"]["turn"]["id"].as_str().context("a turn")?.to_owned();
        shared_threads.push(SharedThread { thread, turn });
    }
    let descriptors = watch::descriptors(fixture)? - 1;
    maker.close().await?;
    let harness = Harness {
        socket: fixture.socket(),
        work: fixture.work(),
        shared_threads,
        limit,
        counts: Counts::default(),
        servers: Deaths::default(),
        gateways: Deaths::default(),
        question: 0.into(),
        failed: false.into(),
    };
    Ok((Arc::new(harness), descriptors))
}

type Worker = thread::JoinHandle<anyhow::Result<()>>;

/// Starts the workers. The receiver is disconnected when all workers have ended.
fn open(harness: &Arc<Harness>, seed: u64) -> (Vec<Worker>, mpsc::Receiver<()>) {
    let (present, ended) = mpsc::channel();
    let share = (CLIENTS - APPROVAL_GROUPS * approval_group::CLIENTS) / WORKERS;
    let worker = |number: usize| {
        let (harness, present) = (harness.clone(), present.clone());
        thread::spawn(move || {
            let number = number as u64;
            let outcome = match number.checked_sub(WORKERS as u64) {
                None => chaos_client::work(&harness, number, share, seed),
                Some(number) => approval_group::sit(&harness, number, seed),
            };
            if outcome.is_err() {
                harness.failed.store(true, Ordering::Relaxed);
            }
            drop(present);
            outcome
        })
    };
    ((0..WORKERS + APPROVAL_GROUPS).map(worker).collect(), ended)
}

/// Consecutive kills of one kind that the supervisor counts together.
#[derive(Debug, Default)]
struct Series {
    length: usize,
    last: Option<Instant>,
}

impl Series {
    /// Whether one more kill is not a crash loop yet.
    fn may_go_on(&mut self) -> bool {
        if self.last.is_some_and(|last| last.elapsed() > FORGOTTEN_AFTER) {
            *self = Series::default();
        }
        self.length < SERIES
    }

    fn goes_on(&mut self) {
        *self = Series { length: self.length + 1, last: Some(Instant::now()) };
    }
}

/// Kills server and gateway at random until all workers have ended.
async fn kill_at_random(
    fixture: &GatewayFixture,
    harness: &Harness,
    rng: &mut Rng,
    ended: &mpsc::Receiver<()>,
) -> anyhow::Result<Samples> {
    let calm = |rng: &mut Rng| Duration::from_millis(CALM_MS[0] + rng.below(CALM_MS[1] - CALM_MS[0]));
    let (mut samples, mut servers, mut gateways) = (Samples::default(), Series::default(), Series::default());
    let mut next = Instant::now() + calm(rng);
    while ended.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
        samples.look(fixture, harness);
        if Instant::now() < next || harness.is_over() {
            continue;
        }
        // The kind that was killed less often is usually killed next.
        let early = harness.gateways.count() == 0 || harness.sent() * 4 < harness.limit;
        if early
            && gateways.may_go_on()
            && (harness.gateways.count() <= harness.servers.count() || rng.one_in(2))
        {
            kill_gateway(fixture, harness).await.context("while a gateway was killed")?;
            gateways.goes_on();
        } else if servers.may_go_on() {
            kill_server(fixture, harness).await.context("while a server was killed")?;
            servers.goes_on();
        }
        next = Instant::now() + calm(rng);
    }
    Ok(samples)
}

async fn kill_gateway(fixture: &GatewayFixture, harness: &Harness) -> anyhow::Result<()> {
    let gateway = until(TIMEOUT, "a gateway", || fixture.gateway().ok())?;
    harness.gateways.begin();
    gateway.signal(Signal::KILL)?;
    gone(&gateway).await?;
    harness.gateways.end();
    Ok(())
}

async fn kill_server(fixture: &GatewayFixture, harness: &Harness) -> anyhow::Result<()> {
    harness.servers.begin();
    fixture.kill_server().await?;
    // Requests from now on are not answered with `appServerRestarted` because of this kill.
    let about = json!({"threadId": harness.shared_threads[0].thread});
    let mut last = None;
    let served = until(TIMEOUT, "a server", || {
        let answer = Wire::connect(&fixture.socket()).and_then(|mut wire| wire.call("thread/read", &about));
        answer.map_err(|error| last = Some(error)).ok()
    });
    served.with_context(|| format!("{last:?}"))?;
    harness.servers.end();
    Ok(())
}
