//! What is measured, each once.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use codexd_testkit::Process;
use codexd_testkit::process::Memory;
use codexd_testkit::wire::{Wire, answers, is_result};
use rustix::process::Signal;
use serde_json::json;

use super::stage::{Stage, turn, until_turn_ends};
use super::viewers::{Seen, Viewers};

/// A process that has just worked gives memory back for a while: it is looked at until it no longer does.
const SETTLE_LOOKS: usize = 20;
/// The time between two such looks.
const SETTLE_EVERY: Duration = Duration::from_millis(250);
/// A client asks about a thread again so long after it was answered.
const ASK_EVERY: Duration = Duration::from_millis(5);
/// Asking goes on for so long before and after what is measured.
const ASK_AROUND: Duration = Duration::from_millis(300);

/// One turn with so many viewers.
///
/// # Errors
/// A viewer did not see all of it.
pub fn watched_turn(stage: &Stage, viewers: usize, deltas: usize) -> anyhow::Result<Seen> {
    let mut first = stage.client()?;
    let thread = stage.thread(&mut first)?;
    let mut read_loop = stage.client()?;
    let mut wires = vec![first];
    for _ in 1..viewers {
        let mut wire = stage.client()?;
        wire.call("thread/resume", &json!({"threadId": thread, "excludeTurns": true}))?;
        wires.push(wire);
    }
    let mut watching = Viewers::new(wires)?;
    let text = format!("[[deltas={deltas} batch=100]]");
    read_loop.request("turn/start", &turn(&thread, &text).to_string())?;
    let seen = watching.watch()?;
    ensure!(
        seen.cut == 0 && seen.fewest == deltas,
        "of {viewers} viewers {} were cut, and one saw only {} of {deltas} deltas",
        seen.cut,
        seen.fewest
    );
    Ok(seen)
}

/// Many clients who introduce themselves and then do nothing.
#[derive(Debug)]
pub struct Crowd {
    /// How long one took to connect and to be introduced, in microseconds.
    pub arrival_us: f64,
    /// What they cost the process in front of them, each, in KiB.
    pub kib_each: f64,
}

/// Lets a crowd in and looks at what `holder` needs for it.
///
/// # Errors
/// One is refused.
pub fn crowd(stage: &Stage, holder: &Process, size: usize) -> anyhow::Result<Crowd> {
    let before = settled(holder)?;
    let started = Instant::now();
    let clients: Vec<Wire> = (0..size)
        .map(|number| stage.client().with_context(|| format!("client {number}")))
        .collect::<Result<_, _>>()?;
    let arrived = started.elapsed();
    let after = settled(holder)?;
    drop(clients);
    #[expect(clippy::cast_precision_loss)]
    let (grown, count) = (after.resident_kib.saturating_sub(before.resident_kib) as f64, size as f64);
    Ok(Crowd { arrival_us: arrived.as_secs_f64() * 1e6 / count, kib_each: grown / count })
}

/// What a process holds when it has come to rest.
///
/// # Errors
/// It is gone.
pub fn settled(process: &Process) -> anyhow::Result<Memory> {
    let mut now = process.memory()?;
    for _ in 0..SETTLE_LOOKS {
        let before = now;
        codexd_testkit::wait::pause(SETTLE_EVERY);
        now = process.memory()?;
        if before == now {
            break;
        }
    }
    Ok(now)
}

/// From the death of the app-server until a request on a connection that was there before is answered.
///
/// The app-server is a fresh one each time: one that keeps dying is started again later and later.
///
/// # Errors
/// The connection does not outlive the server, or is never answered again.
pub fn crash_to_serving(stage: &Stage) -> anyhow::Result<Duration> {
    stage.command("stop")?;
    stage.command("start")?;
    let mut client = stage.client()?;
    let thread = stage.thread(&mut client)?;
    let server = stage.server()?;
    let killed = stage.kill_server()?;
    server.wait_gone(codexd_testkit::limits::PROCESS_GONE)?;
    let params = json!({"threadId": thread});
    while let Err(error) = client.call("thread/goal/get", &params) {
        // What was on its way when the server died is refused, and is ours to ask again.
        ensure!(killed.elapsed() < codexd_testkit::limits::SERVER_READY, "never answered again: {error:#}");
    }
    let served = killed.elapsed();
    client.call("turn/start", &turn(&thread, "[[deltas=1]]"))?;
    until_turn_ends(&mut client)?;
    Ok(served)
}

/// From the death of the gateway until a client that connected right after it is answered: it waits in the queue of the
/// listening socket, which the supervisor holds, for the next gateway.
///
/// # Errors
/// It is not answered.
pub fn gateway_kill_to_serving(stage: &Stage) -> anyhow::Result<Duration> {
    let gateway = stage.gateway()?;
    let killed = Instant::now();
    gateway.signal(Signal::KILL)?;
    stage.client()?;
    let served = killed.elapsed();
    ensure!(stage.gateway()? != gateway, "the gateway outlived SIGKILL");
    Ok(served)
}

/// How a replacement went.
#[derive(Debug)]
pub struct Handover {
    /// How long it took until the old app-server had left.
    pub command: Duration,
    /// The longest that each thread let its client wait, in milliseconds.
    pub pauses_ms: Vec<f64>,
}

/// Replaces the app-server under so many idle threads, while one client asks all of them all the time.
///
/// # Errors
/// A request fails, or the old server stays.
pub fn handover(stage: &Stage, threads: usize) -> anyhow::Result<Handover> {
    let mut owner = stage.client()?;
    let ids: Vec<String> = (0..threads).map(|_| stage.thread(&mut owner)).collect::<Result<_, _>>()?;
    let handover = handover_of(stage, &ids, codexd_testkit::limits::RUN)?;
    drop(owner);
    Ok(handover)
}

/// Replaces the app-server under threads with viewers, while one client sends requests about them all the time.
///
/// # Errors
/// A request fails, or it takes longer than `most`.
pub fn handover_of(stage: &Stage, ids: &[String], most: Duration) -> anyhow::Result<Handover> {
    let mut read_loop = ReadLoop::new(stage.client()?, ids);
    read_loop.ask_for(ASK_AROUND)?;
    let command = std::thread::scope(|scope| {
        let restart = scope.spawn(|| stage.restart(most));
        while !restart.is_finished() {
            read_loop.ask_for(ASK_EVERY)?;
        }
        restart.join().map_err(|_| anyhow::anyhow!("the command panicked"))?
    })?;
    read_loop.ask_for(ASK_AROUND)?;
    Ok(Handover { command, pauses_ms: read_loop.finish()? })
}

/// Asks about many threads, at most one question about each at a time.
struct ReadLoop {
    client: Wire,
    /// By thread: the question, when it was or will be asked, whether it is open, and the longest wait so far.
    threads: Vec<(String, Instant, Option<u64>, Duration)>,
}

impl ReadLoop {
    fn new(client: Wire, ids: &[String]) -> ReadLoop {
        let ask = |id: &String| (json!({"threadId": id}).to_string(), Instant::now(), None, Duration::ZERO);
        ReadLoop { client, threads: ids.iter().map(ask).collect() }
    }

    fn ask_for(&mut self, time: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            for (params, due, open, _) in &mut self.threads {
                if open.is_none() && *due <= Instant::now() {
                    *due = Instant::now();
                    *open = Some(self.client.request("thread/goal/get", params)?);
                }
            }
            self.client.fill_within(Duration::from_millis(1))?;
            self.take_answers()?;
        }
        Ok(())
    }

    fn take_answers(&mut self) -> anyhow::Result<()> {
        while let Some(message) = self.client.buffered()? {
            let Some(id) = answers(&message) else { continue };
            ensure!(is_result(&message), "refused: {}", String::from_utf8_lossy(&message));
            let thread = self.threads.iter_mut().find(|(_, _, open, _)| *open == Some(id));
            let (_, asked, open, longest) = thread.context("an answer to no question")?;
            *longest = (*longest).max(asked.elapsed());
            *open = None;
            *asked = Instant::now() + ASK_EVERY;
        }
        Ok(())
    }

    /// Waits for the last answers; gives the longest wait for each thread, in milliseconds.
    fn finish(mut self) -> anyhow::Result<Vec<f64>> {
        while self.threads.iter().any(|(_, _, open, _)| open.is_some()) {
            let message = self.client.fill_within(codexd_testkit::limits::MESSAGE)?;
            ensure!(message, "a question was never answered");
            self.take_answers()?;
        }
        Ok(self.threads.iter().map(|(.., longest)| longest.as_secs_f64() * 1e3).collect())
    }
}
