//! Clients that work as people do, and measure how long they wait.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use codexd_testkit::Wire;
use serde_json::{Value, json};

use super::super::fixture::said;
use super::{ATTACK_PART, CALM_PART, Field, OVER};

/// The pause between two requests of one client.
const PAUSE: Duration = Duration::from_millis(10);
/// Every so many requests a turn.
const TURN_EVERY: u64 = 16;
/// Pieces of text in a turn.
const PIECES: usize = 3;

/// How long requests took, by the part of the run in which they began.
#[derive(Debug, Default)]
pub(super) struct Latencies {
    calm: Vec<Duration>,
    attack: Vec<Duration>,
}

impl Latencies {
    pub(super) fn add(&mut self, other: Latencies) {
        self.calm.extend(other.calm);
        self.attack.extend(other.attack);
    }

    /// Fails if the good clients waited too long during the attack.
    pub(super) fn assert_held(mut self, factor: u32) -> anyhow::Result<()> {
        let (calm, attack) = (percentile(&mut self.calm, 99), percentile(&mut self.attack, 99));
        ensure!(
            attack < calm * factor,
            "the 99th percentile was {calm:?} before and {attack:?} during the attack"
        );
        Ok(())
    }
}

impl fmt::Display for Latencies {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, took) in [("calm", &self.calm), ("attack", &self.attack)] {
            let mut took = took.clone();
            let (half, most) = (percentile(&mut took, 50), percentile(&mut took, 99));
            write!(out, "{name}: {} requests, p50 {half:?}, p99 {most:?}; ", took.len())?;
        }
        Ok(())
    }
}

fn percentile(took: &mut [Duration], percent: usize) -> Duration {
    took.sort_unstable();
    took.get(took.len() * percent / 100).or(took.last()).copied().unwrap_or_default()
}

/// One client and its thread.
struct Client<'f> {
    field: &'f Field,
    wire: Wire,
    thread: String,
    latencies: Latencies,
}

/// The life of one client; any error is the gateway's.
pub(super) fn work(field: &Field, number: usize) -> anyhow::Result<Latencies> {
    let mut client = Client::come(field).with_context(|| format!("good client {number} came"))?;
    let mut asked = 0;
    while field.part() != OVER {
        client.ask(asked).with_context(|| format!("good client {number}, request {asked}"))?;
        asked += 1;
        codexd_testkit::wait::pause(PAUSE);
    }
    Ok(client.latencies)
}

impl Client<'_> {
    fn come(field: &Field) -> anyhow::Result<Client<'_>> {
        let mut wire = Wire::connect(&field.control_socket)?;
        let started = wire.call("thread/start", &json!({"cwd": field.work}))?;
        let thread = started["thread"]["id"].as_str().context("a thread")?.to_owned();
        let mut client = Client { field, wire, thread, latencies: Latencies::default() };
        client.turn()?;
        field.watched.lock().expect("no worker panics here").push(client.thread.clone());
        Ok(client)
    }

    fn ask(&mut self, number: u64) -> anyhow::Result<()> {
        let thread = json!(self.thread);
        let (method, params) = match number % TURN_EVERY {
            0 => return self.turn(),
            1..=4 => ("thread/loaded/list", json!({})),
            5..=8 => ("thread/turns/list", json!({"threadId": thread, "limit": 1})),
            _ => ("thread/read", json!({"threadId": thread})),
        };
        let answer = self.timed(method, &params)?;
        match method {
            "thread/read" => ensure!(answer["thread"]["id"] == thread, "{answer}"),
            "thread/turns/list" => ensure!(answer["data"][0]["id"].is_string(), "{answer}"),
            _ => {
                ensure!(answer["data"].as_array().is_some_and(|loaded| loaded.contains(&thread)), "{answer}");
            }
        }
        Ok(())
    }

    fn timed(&mut self, method: &str, params: &Value) -> anyhow::Result<Value> {
        let (part, began) = (self.field.part(), Instant::now());
        let answer = self.wire.call(method, params)?;
        match part {
            CALM_PART => self.latencies.calm.push(began.elapsed()),
            ATTACK_PART => self.latencies.attack.push(began.elapsed()),
            _ => {}
        }
        Ok(answer)
    }

    /// A turn that must come whole.
    fn turn(&mut self) -> anyhow::Result<()> {
        let input = json!([{"type": "text", "text": format!("[[deltas={PIECES}]]")}]);
        let started = self.timed("turn/start", &json!({"threadId": self.thread, "input": input}))?;
        let turn = started["turn"]["id"].as_str().context("a turn")?.to_owned();
        let mut text = String::new();
        loop {
            let message: Value = serde_json::from_slice(&self.wire.message()?)?;
            let params = &message["params"];
            match message["method"].as_str() {
                Some("item/agentMessage/delta") if params["turnId"] == turn => {
                    text += params["delta"].as_str().context("text")?;
                }
                Some("turn/completed") if params["turn"]["id"] == turn => {
                    ensure!(params["turn"]["status"] == "completed", "{message}");
                    ensure!(text == said(PIECES), "not the whole text: {text}");
                    return Ok(());
                }
                _ => {}
            }
        }
    }
}
