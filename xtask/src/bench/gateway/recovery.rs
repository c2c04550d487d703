//! How an app-server that had many threads is recovered, and how it is replaced.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use codexd_testkit::wire::Wire;
use codexd_testkit::{AppServer, Home, MockModel, Server, block_on, limits, until};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::super::samples::Samples;
use super::measure::{self, Handover};
use super::stage::{self, SERVER, Stage};

/// Threads that are loaded when the app-server is killed or replaced.
pub const THREADS: [usize; 3] = [10, 100, 1_000];
/// Cold loads that make the floor.
const FLOOR_LOADS: usize = 20;
/// Threads that are asked about, spread over all of them.
const ASKED: usize = 50;
/// Threads whose pauses are measured.
const WATCHED: usize = 20;
/// How long everything may take that grows with the number of threads.
const LONG: Duration = Duration::from_secs(900);

/// With one number of threads.
#[derive(Debug, Default)]
pub struct Recovery {
    /// The wait for the answer to a request about one thread, in milliseconds, the first of them from the moment at which the
    /// new app-server answered `initialize`.
    pub answers: Samples,
    /// Until every thread is loaded again, in milliseconds.
    pub total: Samples,
    /// A `restart` until the old app-server has left, in milliseconds.
    pub restart: Samples,
    /// The longest pause of an idle thread in it, in milliseconds.
    pub pause: Samples,
}

/// The times of single cold `thread/resume`s without a gateway, in milliseconds.
///
/// # Errors
/// The server's.
pub fn floor(model: &MockModel) -> anyhow::Result<Samples> {
    let home = stage::home(model)?;
    let server = block_on(AppServer::start(&home, Server::Real(SERVER)))?;
    let mut client = Wire::connect(&home.bare_socket())?;
    let ids: Vec<String> =
        (0..FLOOR_LOADS).map(|_| thread(&mut client, &home)).collect::<anyhow::Result<_>>()?;
    server.end(Signal::TERM)?;
    let server = block_on(AppServer::start(&home, Server::Real(SERVER)))?;
    let mut client = Wire::connect(&home.bare_socket())?;
    let mut times = Samples::default();
    for id in ids {
        let started = Instant::now();
        client.call("thread/resume", &json!({"threadId": id, "excludeTurns": true}))?;
        times.push_time(started.elapsed());
    }
    server.end(Signal::TERM)?;
    Ok(times)
}

/// Kills and replaces the app-server of a fresh home under more and more threads.
///
/// # Errors
/// A request is refused, or something takes too long.
pub fn measure(stage: &Stage) -> anyhow::Result<Vec<Recovery>> {
    let mut owner = stage.client()?;
    let mut ids: Vec<String> = Vec::new();
    let mut all = Vec::new();
    for count in THREADS {
        eprintln!("recovery with {count} threads");
        while ids.len() < count {
            ids.push(thread(&mut owner, stage.home())?);
        }
        let mut recovery = Recovery::default();
        kill(stage, &ids, &mut recovery).with_context(|| format!("a crash under {count} threads"))?;
        let watched: Vec<String> = spread(&ids, WATCHED).cloned().collect();
        let Handover { verb, pauses_ms } =
            measure::handover_of(stage, &watched, LONG).with_context(|| format!("restart with {count}"))?;
        recovery.restart.push_time(verb);
        recovery.pause.push(pauses_ms.into_iter().fold(0.0, f64::max));
        let (loaded, pause) = (recovery.total.median(), recovery.pause.median());
        eprintln!("  all loaded again after {loaded:.0} ms; longest pause in restart {pause:.0} ms");
        all.push(recovery);
    }
    Ok(all)
}

/// A thread that is on disk: no turn is needed for that.
fn thread(client: &mut Wire, home: &Home) -> anyhow::Result<String> {
    let started = client.call("thread/start", &json!({"cwd": home.work()}))?;
    let thread = started["thread"]["id"].as_str().context("a thread has an id")?.to_owned();
    let item =
        json!({"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]});
    client.call("thread/inject_items", &json!({"threadId": thread, "items": [item]}))?;
    Ok(thread)
}

fn spread(ids: &[String], count: usize) -> impl Iterator<Item = &String> {
    ids.iter().step_by(ids.len().div_ceil(count).max(1))
}

fn kill(stage: &Stage, ids: &[String], recovery: &mut Recovery) -> anyhow::Result<()> {
    let mut asker = stage.client()?;
    let before = recovered(stage);
    let server = stage.server()?;
    server.signal(Signal::KILL)?;
    server.wait_gone(limits::PROCESS_GONE)?;
    stage.until_another_answers(&server)?;
    for id in spread(ids, ASKED) {
        let asked = Instant::now();
        asker.call("thread/goal/get", &json!({"threadId": id}))?;
        recovery.answers.push_time(asked.elapsed());
    }
    let (p50, worst) = (recovery.answers.median(), recovery.answers.quantile(1.0));
    eprintln!("  a request about a thread: p50 {p50:.0} ms, at most {worst:.0} ms");
    let events = until(LONG, "every thread to be loaded again", || {
        let events = recovered(stage);
        (events.len() > before.len()).then_some(events)
    })?;
    let last = events.last().context("one")?;
    ensure!(last["threads"].as_u64() >= Some(ids.len() as u64), "not all were loaded again: {last}");
    recovery.total.push(last["tookMs"].as_f64().context("a time")?);
    Ok(())
}

/// What the event log says of recoveries.
fn recovered(stage: &Stage) -> Vec<Value> {
    let text = std::fs::read_to_string(stage.home().state("events.jsonl")).unwrap_or_default();
    let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events.filter(|event| event["type"] == "threads.recovered").map(|event| event["detail"].clone()).collect()
}
