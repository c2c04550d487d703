//! Many clients who do what they like while server and gateway are killed: everybody gets their own answers, nothing is
//! lost without an error, and memory does not grow.
//!
//! `CODEXD_CHAOS_MESSAGES` sets how many messages there are (the number is 1,000,000), `CODEXD_CHAOS_SEED` the seed.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use codexd_testkit::{Process, Server, Wire, until};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::front::{Front, PATIENCE, gone};

/// Clients at the same time.
const CLIENTS: usize = 200;
/// They share so many threads of this program.
const WORKERS: usize = 8;
/// Messages when nobody asks for more.
const MESSAGES: usize = 40_000;
/// Requests that a flooder sends before it reads.
const FLOOD: usize = 100;
/// The longest between two kills.
const CALM_MS: u64 = 1_500;
/// What the gateway may hold in the end beyond what it held in the middle.
const GROWTH_MAX_KIB: u64 = 8 * 1024;

/// xorshift64*: one seed, one story.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides
    }
}

/// What all workers share.
struct Arena {
    socket: PathBuf,
    thread: String,
    messages: AtomicUsize,
    limit: usize,
    answered: AtomicUsize,
    refused: AtomicUsize,
    cut: AtomicUsize,
    over: AtomicBool,
}

impl Arena {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed) || self.messages.load(Ordering::Relaxed) >= self.limit
    }
}

/// One client and what it waits for: by id, the nonce that the answer must carry.
struct Guest {
    wire: Wire,
    open: HashMap<u64, u64>,
}

impl Guest {
    fn come(socket: &Path) -> anyhow::Result<Guest> {
        Ok(Guest { wire: Wire::connect(socket)?, open: HashMap::new() })
    }

    /// Asks for something whose answer names the nonce: a thread that does not exist.
    fn ask(&mut self, arena: &Arena, dice: &mut Dice) -> anyhow::Result<()> {
        let nonce = dice.roll(1 << 31);
        let (method, params) = match dice.roll(4) {
            0 => ("thread/loaded/list", json!({})),
            1 => ("thread/read", json!({"threadId": arena.thread})),
            _ => ("thread/read", json!({"threadId": nonce_thread(nonce)})),
        };
        let echoes = params["threadId"] == nonce_thread(nonce);
        let id = self.wire.request(method, &params.to_string())?;
        self.open.insert(id, if echoes { nonce } else { u64::MAX });
        arena.messages.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Reads until everything is answered.
    fn settle(&mut self, arena: &Arena) -> anyhow::Result<Result<(), Wrong>> {
        while !self.open.is_empty() {
            let message: Value = serde_json::from_slice(&self.wire.message()?)?;
            if message.get("method").is_some() {
                continue;
            }
            let Some(nonce) = message["id"].as_u64().and_then(|id| self.open.remove(&id)) else {
                return Ok(Err(Wrong(format!("an answer to nothing that was asked: {message}"))));
            };
            if message["error"]["data"]["reason"] == "appServerRestarted"
                || message["error"]["code"] == -32001
            {
                arena.refused.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let sentence = message["error"]["message"].as_str().unwrap_or_default();
            let retryable = sentence.contains("retry") || sentence.contains("restart");
            if nonce != u64::MAX && !sentence.contains(&nonce_thread(nonce)) && !retryable {
                return Ok(Err(Wrong(format!(
                    "somebody else's answer: {message} for {}",
                    nonce_thread(nonce)
                ))));
            }
            arena.answered.fetch_add(1, Ordering::Relaxed);
        }
        Ok(Ok(()))
    }
}

/// A promise that was broken.
#[derive(Debug)]
struct Wrong(String);

fn nonce_thread(nonce: u64) -> String {
    format!("01a1f753-6b57-7b12-90c4-{nonce:012x}")
}

/// The life of one worker: its share of the clients, one after the other in random order.
fn work(arena: &Arena, seed: u64) -> anyhow::Result<()> {
    let mut dice = Dice(seed | 1);
    let mut guests: Vec<Guest> = Vec::new();
    while !arena.is_over() {
        if guests.len() < CLIENTS / WORKERS {
            match Guest::come(&arena.socket) {
                Ok(guest) => guests.push(guest),
                // None may be refused; one that was let in may lose its gateway before it is answered.
                Err(error) if error.to_string().starts_with("failed to connect") => return Err(error),
                Err(_cut) => {
                    arena.cut.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
            }
        }
        let at = usize::try_from(dice.roll(guests.len() as u64))?;
        let guest = &mut guests[at];
        let burst = if dice.roll(20) == 0 { FLOOD } else { 1 + usize::try_from(dice.roll(5))? };
        let done = (0..burst).try_for_each(|_| guest.ask(arena, &mut dice));
        let leaves = dice.roll(12);
        match (done, leaves) {
            // Leaves in the middle of everything, or closes only its sending half.
            (Ok(()), 0) => drop(guests.swap_remove(at)),
            (Ok(()), 1) => {
                let _cut_already = guests[at].wire.send("{");
                drop(guests.swap_remove(at));
            }
            (Ok(()), _) => match guests[at].settle(arena) {
                Ok(Ok(())) => {}
                Ok(Err(Wrong(what))) => {
                    arena.over.store(true, Ordering::Relaxed);
                    anyhow::bail!(what);
                }
                // Only the death of the gateway cuts a connection; then what was open has no answer, and that is seen.
                Err(_cut) => {
                    arena.cut.fetch_add(1, Ordering::Relaxed);
                    drop(guests.swap_remove(at));
                }
            },
            (Err(_cut), _) => {
                arena.cut.fetch_add(1, Ordering::Relaxed);
                drop(guests.swap_remove(at));
            }
        }
    }
    Ok(())
}

fn from_environment(name: &str, default: u64) -> anyhow::Result<u64> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name} is no number: {text}")),
        Err(_) => Ok(default),
    }
}

#[tokio::test]
async fn everybody_gets_their_own_answers_whoever_is_killed() -> anyhow::Result<()> {
    let limit = usize::try_from(from_environment("CODEXD_CHAOS_MESSAGES", MESSAGES as u64)?)?;
    let seed = from_environment("CODEXD_CHAOS_SEED", 20_261_121)?;
    let front = Front::open(Server::Embedded).await?;
    let alice = front.client("alice").await?;
    let thread = front.thread(&alice).await?;
    let counts = AtomicUsize::default;
    let arena = Arc::new(Arena {
        socket: front.socket(),
        thread,
        messages: counts(),
        limit,
        answered: counts(),
        refused: counts(),
        cut: counts(),
        over: AtomicBool::default(),
    });
    let workers: Vec<_> = (0..WORKERS as u64)
        .map(|number| {
            let arena = arena.clone();
            thread::spawn(move || {
                let outcome = work(&arena, seed.wrapping_mul(number + 1));
                if outcome.is_err() {
                    arena.over.store(true, Ordering::Relaxed);
                }
                outcome
            })
        })
        .collect();
    let mut dice = Dice(seed | 1);
    let (mut server_kills, mut gateway_kills, mut middle) = (0, 0, None);
    let started = Instant::now();
    while !arena.is_over() {
        let calm = Instant::now() + Duration::from_millis(300 + dice.roll(CALM_MS));
        let _over = until_or_over(&arena, calm);
        // Half of the time nobody kills the gateway any more, so that its memory can be looked at.
        let late = arena.messages.load(Ordering::Relaxed) * 2 > limit;
        // Few enough kills of either that nobody takes it for a crash loop.
        let kills_max = 1 + usize::try_from(started.elapsed().as_secs() / 15)?;
        if !late && dice.roll(4) == 0 && gateway_kills < kills_max {
            let gateway = until(PATIENCE, "a gateway", || front.gateway().ok())?;
            gateway.signal(Signal::KILL)?;
            gone(&gateway).await?;
            gateway_kills += 1;
        } else if dice.roll(3) == 0 && server_kills < kills_max {
            front.kill_server().await?;
            server_kills += 1;
        }
        if late && middle.is_none() {
            middle = Some(memory_of(&front)?);
        }
    }
    for worker in workers {
        worker.join().map_err(|_| anyhow::anyhow!("a worker panicked"))??;
    }
    let (held, now) = (middle.context("half of it was over at some time")?, memory_of(&front)?);
    let count = |number: &AtomicUsize| number.load(Ordering::Relaxed);
    println!(
        "seed {seed}: {} messages, {} answered, {} refused, {} clients cut; {server_kills} servers and \
         {gateway_kills} gateways killed in {:?}; gateway {held} KiB in the middle, {now} KiB at the end",
        count(&arena.messages),
        count(&arena.answered),
        count(&arena.refused),
        count(&arena.cut),
        started.elapsed()
    );
    ensure!(
        count(&arena.cut) <= gateway_kills * (CLIENTS + WORKERS),
        "more clients were cut than gateways died"
    );
    ensure!(now <= held + GROWTH_MAX_KIB, "the gateway grew from {held} KiB to {now} KiB");
    let last = front.client("last").await?;
    last.call("thread/loaded/list", json!({})).await?;
    let thread = front.thread(&last).await?;
    ensure!(!thread.is_empty(), "it serves as ever");
    front.close().await
}

/// Waits until a moment, or until everything is over.
fn until_or_over(arena: &Arena, moment: Instant) -> anyhow::Result<()> {
    until(PATIENCE, "the next kill", || (arena.is_over() || Instant::now() >= moment).then_some(()))
}

fn memory_of(front: &Front) -> anyhow::Result<u64> {
    let gateway = until(PATIENCE, "a gateway", || front.gateway().ok())?;
    Ok(Process::memory(&gateway)?.resident_kib)
}
