//! Many clients who do what they like while server and gateway are killed: everybody gets their own answers, a question is
//! answered once and by one who was asked, nothing is lost without an error, and neither memory nor descriptors grow.
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

use super::front::{Front, PATIENCE, from_environment, gone};
use super::on_each_server;

mod arena;
mod council;
mod guest;
mod watch;

pub(super) use arena::Dice;
use arena::{Arena, Counts, Deaths, Room};
use watch::Samples;

on_each_server! {
    everybody_gets_their_own_answers_whoever_is_killed: chaos;
}

/// Clients at the same time.
const CLIENTS: usize = 200;
/// Threads of this program that play the crowd.
const WORKERS: usize = 8;
/// Threads about which there are questions.
const COUNCILS: usize = 2;
/// Threads that everybody reads.
const ROOMS: usize = 8;
/// Messages when nobody asks for more.
const MESSAGES: usize = 60_000;
/// The same for the real server, which is slower.
const MESSAGES_REAL: usize = 6_000;
/// The shortest and the longest between two kills.
const CALM_MS: [u64; 2] = [300, 1_800];
/// So many deaths of one kind follow each other: the fifth within a minute would count as a crash loop.
const SERIES: usize = 4;
/// The supervisor has forgotten what happened before to a process that has lived this long: it takes a minute.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(62);
/// The pause between two looks at the gateway.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// What the real server says on its standard error about an answer that it did not wait for.
const UNWANTED_ANSWER: &str = "could not find callback";
/// What the real server is to log: nothing but that.
const LOGGED: &str = "off,codex_app_server::outgoing_message=warn";

async fn chaos(server: Server) -> anyhow::Result<()> {
    let messages = if server == Server::Embedded { MESSAGES } else { MESSAGES_REAL };
    let limit = usize::try_from(from_environment("CODEXD_CHAOS_MESSAGES", messages as u64)?)?;
    let seed = from_environment("CODEXD_CHAOS_SEED", 20_261_121)?;
    let front = Front::open_with(server, &[("RUST_LOG", LOGGED)]).await?;
    let (arena, descriptors) = prepare(&front, limit).await?;
    let started = Instant::now();
    let (workers, ended) = open(&arena, seed);
    let samples = kill_at_random(&front, &arena, &mut Dice::new(seed), &ended).await;
    if samples.is_err() {
        arena.failed.store(true, Ordering::Relaxed);
    }
    for worker in workers {
        let outcome = worker.join().map_err(|_| anyhow::anyhow!("a worker panicked"))?;
        outcome.with_context(|| how_it_went(&front, &arena, seed))?;
    }
    let held = samples?.assert_flat(CLIENTS)?;
    println!("seed {seed}: {:?} in {:?}", arena.counts, started.elapsed());
    println!("{} servers and {} gateways killed", arena.servers.count(), arena.gateways.count());
    println!("the gateway, by quarters: {held}");
    watch::wait_descriptors(&front, descriptors)?;
    let events = std::fs::read_to_string(front.home.state("events.jsonl"))?;
    ensure!(!events.contains("client.cut"), "somebody who reads was cut: {events}");
    let said = std::fs::read_to_string(front.home.state("server.stderr.log"))?;
    ensure!(!said.contains(UNWANTED_ANSWER), "a question was answered twice: {said}");
    let last = front.client("last").await?;
    let thread = front.thread(&last).await?;
    ensure!(!thread.is_empty(), "it serves as ever");
    front.close().await
}

/// What is to be known of a failure.
fn how_it_went(front: &Front, arena: &Arena, seed: u64) -> String {
    let read = |name: &str| std::fs::read_to_string(front.home.state(name)).unwrap_or_default();
    let (events, log) = (read("events.jsonl"), read("gateway.log"));
    format!("seed {seed}, {:?}; the events:\n{events}\nthe gateway:\n{log}", arena.counts)
}

/// Makes the rooms; gives what all share, and the descriptors of a gateway without clients.
async fn prepare(front: &Front, limit: usize) -> anyhow::Result<(Arc<Arena>, usize)> {
    let maker = front.client("maker").await?;
    let mut rooms = Vec::new();
    for _ in 0..ROOMS {
        let thread = maker.start_thread(&front.work()).await?;
        let done = maker.turn(&thread, "[[deltas=1]]").await?;
        let turn = done["params"]["turn"]["id"].as_str().context("a turn")?.to_owned();
        rooms.push(Room { thread, turn });
    }
    let descriptors = watch::descriptors(front)? - 1;
    maker.close().await?;
    let arena = Arena {
        socket: front.socket(),
        work: front.work(),
        rooms,
        limit,
        counts: Counts::default(),
        servers: Deaths::default(),
        gateways: Deaths::default(),
        question: 0.into(),
        failed: false.into(),
    };
    Ok((Arc::new(arena), descriptors))
}

type Worker = thread::JoinHandle<anyhow::Result<()>>;

/// Lets everybody in; the receiver is cut off when all have left.
fn open(arena: &Arc<Arena>, seed: u64) -> (Vec<Worker>, mpsc::Receiver<()>) {
    let (present, ended) = mpsc::channel();
    let share = (CLIENTS - COUNCILS * council::CLIENTS) / WORKERS;
    let worker = |number: usize| {
        let (arena, present) = (arena.clone(), present.clone());
        thread::spawn(move || {
            let number = number as u64;
            let outcome = match number.checked_sub(WORKERS as u64) {
                None => guest::work(&arena, number, share, seed),
                Some(number) => council::sit(&arena, number, seed),
            };
            if outcome.is_err() {
                arena.failed.store(true, Ordering::Relaxed);
            }
            drop(present);
            outcome
        })
    };
    ((0..WORKERS + COUNCILS).map(worker).collect(), ended)
}

/// Deaths of one kind that the supervisor takes for belonging together.
#[derive(Debug, Default)]
struct Series {
    length: usize,
    last: Option<Instant>,
}

impl Series {
    /// Whether one more is no crash loop.
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

/// Kills server and gateway until everybody has left.
async fn kill_at_random(
    front: &Front,
    arena: &Arena,
    dice: &mut Dice,
    ended: &mpsc::Receiver<()>,
) -> anyhow::Result<Samples> {
    let calm = |dice: &mut Dice| Duration::from_millis(CALM_MS[0] + dice.roll(CALM_MS[1] - CALM_MS[0]));
    let (mut samples, mut servers, mut gateways) = (Samples::default(), Series::default(), Series::default());
    let mut next = Instant::now() + calm(dice);
    while ended.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
        samples.look(front, arena);
        if Instant::now() < next || arena.is_over() {
            continue;
        }
        // Whoever died less often dies next, mostly.
        let early = arena.gateways.count() == 0 || arena.sent() * 4 < arena.limit;
        if early
            && gateways.may_go_on()
            && (arena.gateways.count() <= arena.servers.count() || dice.one_in(2))
        {
            kill_gateway(front, arena).await.context("while a gateway was killed")?;
            gateways.goes_on();
        } else if servers.may_go_on() {
            kill_server(front, arena).await.context("while a server was killed")?;
            servers.goes_on();
        }
        next = Instant::now() + calm(dice);
    }
    Ok(samples)
}

async fn kill_gateway(front: &Front, arena: &Arena) -> anyhow::Result<()> {
    let gateway = until(PATIENCE, "a gateway", || front.gateway().ok())?;
    arena.gateways.begin();
    gateway.signal(Signal::KILL)?;
    gone(&gateway).await?;
    arena.gateways.end();
    Ok(())
}

async fn kill_server(front: &Front, arena: &Arena) -> anyhow::Result<()> {
    arena.servers.begin();
    front.kill_server().await?;
    // Whoever asks from now on is not told of this death any more.
    let about = json!({"threadId": arena.rooms[0].thread});
    let mut last = None;
    let served = until(PATIENCE, "a server", || {
        let answer = Wire::connect(&front.socket()).and_then(|mut wire| wire.call("thread/read", &about));
        answer.map_err(|error| last = Some(error)).ok()
    });
    served.with_context(|| format!("{last:?}"))?;
    arena.servers.end();
    Ok(())
}
