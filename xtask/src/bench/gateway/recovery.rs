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
pub const THREADS: [usize; 4] = [10, 100, 300, 1_000];
/// With more threads than these only the answers after a crash are measured: each load costs the app-server more the more
/// threads it has, so that the rest takes half an hour.
const WHOLE_MAX: usize = 300;
/// Cold loads at each end of the floor.
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

/// What an app-server needs without a gateway, after a kill -9, when one client loads threads one by one.
#[derive(Debug, Default)]
pub struct Floor {
    /// A cold `thread/resume` while few threads are loaded, in milliseconds.
    pub first: Samples,
    /// The same while nearly all are loaded.
    pub last: Samples,
    /// All of them, in milliseconds.
    pub total: Samples,
}

impl Floor {
    /// How many threads it is measured with.
    pub const THREADS: usize = WHOLE_MAX;
}

/// Measures the floor.
///
/// # Errors
/// The server's.
pub fn floor(model: &MockModel) -> anyhow::Result<Floor> {
    eprintln!("cold loads without a gateway, {} threads", Floor::THREADS);
    let home = stage::home(model)?;
    let server = block_on(AppServer::start(&home, Server::Real(SERVER)))?;
    let mut client = Wire::connect(&home.bare_socket())?;
    let ids: Vec<String> =
        (0..Floor::THREADS).map(|_| thread(&mut client, &home)).collect::<anyhow::Result<_>>()?;
    server.end(Signal::KILL)?;
    let server = block_on(AppServer::start(&home, Server::Real(SERVER)))?;
    let mut client = Wire::connect(&home.bare_socket())?;
    let mut floor = Floor::default();
    let all = Instant::now();
    for (number, id) in ids.iter().enumerate() {
        let started = Instant::now();
        client.call("thread/resume", &json!({"threadId": id, "excludeTurns": true}))?;
        if number < FLOOR_LOADS {
            floor.first.push_time(started.elapsed());
        } else if number >= ids.len() - FLOOR_LOADS {
            floor.last.push_time(started.elapsed());
        }
    }
    floor.total.push_time(all.elapsed());
    server.end(Signal::TERM)?;
    Ok(floor)
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
        if count > WHOLE_MAX {
            all.push(recovery);
            break;
        }
        let watched: Vec<String> = spread(&ids, WATCHED).cloned().collect();
        let Handover { command, pauses_ms } =
            measure::handover_of(stage, &watched, LONG).with_context(|| format!("restart with {count}"))?;
        recovery.restart.push_time(command);
        recovery.pause.push(pauses_ms.into_iter().fold(0.0, f64::max));
        let (loaded, pause) = (recovery.total.median(), recovery.pause.median());
        eprintln!("  all loaded again after {loaded:.0} ms; longest pause in restart {pause:.0} ms");
        all.push(recovery);
    }
    Ok(all)
}

/// A thread that has had a turn. Of one without a turn the app-server keeps no row in its database: it then reads the files of
/// all threads for every load (0.171.0).
fn thread(client: &mut Wire, home: &Home) -> anyhow::Result<String> {
    let started = client.call("thread/start", &json!({"cwd": home.work()}))?;
    let thread = started["thread"]["id"].as_str().context("a thread has an id")?.to_owned();
    client.call("turn/start", &stage::turn(&thread, "[[deltas=1]]"))?;
    stage::until_turn_ends(client)?;
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
    if ids.len() > WHOLE_MAX {
        return Ok(());
    }
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
