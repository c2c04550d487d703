//! Attack suite: 50 clients send malformed, oversized and endless traffic, stall and flood, beside 10 good clients. The good clients see no
//! error and hardly a delay, and the memory of the gateway and of the supervisor is bounded.
//!
//! `CODEXD_ATTACK_SECONDS` sets how long the attack lasts (1,800 is the full length; every attack takes part if it is set, also those that the brief runs leave out),
//! `CODEXD_ATTACK_SEED` the seed, `CODEXD_ATTACK_KINDS` names attacks, such as `Floods,Churn`, that alone take part, and
//! `CODEXD_ATTACK_REAL=1` takes the real app-server in place of the embedded one. With `CODEXD_ATTACK_DIRECT=1` all clients connect to the
//! app-server itself: what the good clients wait for then is the floor below which no gateway can bring it.

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use codexd_testkit::home::Config;
use codexd_testkit::{Process, Server, until};
use serde_json::json;

use super::chaos::Rng;
use super::fixture::{GatewayFixture, TIMEOUT, from_environment};

mod good;
mod hostile;
mod pipe;
mod traffic;

use good::Latencies;
use hostile::Kind;

const GOOD_CLIENTS: usize = 10;
const HOSTILE_CLIENTS: usize = 50;
/// Threads of this program that play the hostile clients.
const HOSTILE_WORKERS: usize = 2;
/// How long the good clients are alone before the attack.
const CALM: Duration = Duration::from_secs(3);
/// How long the attack lasts by default.
const ATTACK_SECONDS: u64 = 6;
/// The 99th percentile of the good clients may be so many times that of the calm part of the same run.
const P99_FACTOR: u32 = 10;
/// What the gateway may hold after the attack beyond what it held before.
const GROWTH_MAX_KIB: u64 = 2 * 1024;
/// What the supervisor may hold at any time.
const SUPERVISOR_MAX_KIB: u64 = 6 * 1024;
/// The pause between two looks at the processes.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What all clients share.
#[derive(Debug)]
struct Field {
    control_socket: PathBuf,
    /// The control socket is that of the app-server itself.
    is_direct: bool,
    supervisor_socket: PathBuf,
    tcp: std::net::SocketAddr,
    work: PathBuf,
    /// A thread that hostile clients name in requests.
    thread: String,
    /// The threads of the good clients, which hostile clients may watch.
    watched: std::sync::Mutex<Vec<String>>,
    kinds: Vec<Kind>,
    part: AtomicU8,
    /// How many hostile clients came.
    came: AtomicUsize,
    /// Connections that hold a large message now.
    large: AtomicUsize,
    failed: AtomicBool,
}

/// The parts of a run.
const CALM_PART: u8 = 0;
const ATTACK_PART: u8 = 1;
const AFTERMATH_PART: u8 = 2;
const OVER: u8 = 3;

impl Field {
    fn part(&self) -> u8 {
        self.part.load(Ordering::SeqCst)
    }

    fn begin(&self, part: u8) {
        self.part.store(part, Ordering::SeqCst);
    }
}

/// The attacks that are named, or all in a run of some length; `None` if the environment asks for no such run.
fn asked_for() -> anyhow::Result<Option<Vec<Kind>>> {
    let Ok(names) = std::env::var("CODEXD_ATTACK_KINDS") else {
        return Ok(std::env::var_os("CODEXD_ATTACK_SECONDS").map(|_| Kind::ALL.to_vec()));
    };
    let known = |name: &str| Kind::ALL.into_iter().find(|kind| format!("{kind:?}") == name);
    let known = |name: &str| known(name).with_context(|| format!("no attack is named {name}"));
    names.split(',').map(known).collect::<anyhow::Result<_>>().map(Some)
}

#[tokio::test]
async fn good_clients_are_served_and_memory_is_bounded_while_others_attack() -> anyhow::Result<()> {
    run(asked_for()?.unwrap_or(Kind::BRIEF.to_vec())).await
}

#[tokio::test]
async fn good_clients_are_served_and_memory_is_bounded_while_others_flood() -> anyhow::Result<()> {
    run(Kind::FLOODS.to_vec()).await
}

async fn run(kinds: Vec<Kind>) -> anyhow::Result<()> {
    let seconds = from_environment("CODEXD_ATTACK_SECONDS", ATTACK_SECONDS)?;
    let seed = from_environment("CODEXD_ATTACK_SEED", 20_261_129)?;
    let server = match std::env::var_os("CODEXD_ATTACK_REAL") {
        Some(_) => super::SERVERS[0],
        None => Server::Embedded,
    };
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let fixture = GatewayFixture::configured(server, |home, model| {
        home.configure(&Config::for_model(model))?;
        let settings = json!({"gateway": {"listen": format!("ws://{port}")}});
        home.write("app-server-daemon/settings.json", settings.to_string())?;
        Ok(())
    })
    .await?;
    let maker = fixture.client("maker").await?;
    let thread = fixture.thread(&maker).await?;
    maker.close().await?;
    let is_direct = std::env::var_os("CODEXD_ATTACK_DIRECT").is_some();
    let field = Arc::new(Field {
        control_socket: match is_direct {
            true => fixture.home.path().join("app-server-control/app-server-1.sock"),
            false => fixture.socket(),
        },
        is_direct,
        supervisor_socket: fixture.home.state("supervisor.sock"),
        tcp: port,
        work: fixture.work(),
        thread,
        watched: std::sync::Mutex::default(),
        kinds,
        part: AtomicU8::new(CALM_PART),
        came: AtomicUsize::new(0),
        large: AtomicUsize::new(0),
        failed: AtomicBool::new(false),
    });
    let outcome = attack(&fixture, &field, seed, Duration::from_secs(seconds)).await;
    let events = std::fs::read_to_string(fixture.home.state("events.jsonl")).unwrap_or_default();
    outcome.with_context(|| {
        format!("seed {seed}, {:?}; the last events:\n{}", field.kinds, last_lines(&events))
    })?;
    ensure!(
        events.contains("gateway.started"),
        "the attack has erased what happened before it: {}",
        last_lines(&events)
    );
    fixture.close().await
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

async fn attack(
    fixture: &GatewayFixture,
    field: &Arc<Field>,
    seed: u64,
    length: Duration,
) -> anyhow::Result<()> {
    let (gateway, supervisor, server) = (fixture.gateway()?, supervisor(fixture)?, fixture.server().await?);
    let good: Vec<_> =
        (0..GOOD_CLIENTS).map(|number| play(field, move |field| good::work(field, number))).collect();
    hold_for(field, &supervisor, CALM)?;
    let before = gateway.memory()?;
    field.begin(ATTACK_PART);
    let hostile: Vec<_> = (0..HOSTILE_WORKERS)
        .map(|number| {
            play(field, move |field| {
                hostile::work(field, HOSTILE_CLIENTS / HOSTILE_WORKERS, Rng::new(seed + number as u64))
            })
        })
        .collect();
    let held = hold_for(field, &supervisor, length);
    // Commands are served in the middle of it.
    let started = fixture.any_command(&["start"]).await;
    field.begin(AFTERMATH_PART);
    for worker in hostile {
        join(worker)?;
    }
    let after = until_returned(field, &gateway, before.anonymous_kib);
    field.begin(OVER);
    let mut latencies = Latencies::default();
    for worker in good {
        latencies.add(join(worker)?);
    }
    let (came, peak) = (field.came.load(Ordering::Relaxed), gateway.memory().unwrap_or_default().peak_kib);
    // Of a run that fails, too.
    println!(
        "seed {seed}: {came} hostile clients; {latencies}the gateway held {} KiB before, {after:?} KiB after, {peak} KiB at most; the \
         supervisor {held:?} KiB at most",
        before.anonymous_kib
    );
    held?;
    after?;
    let (is_ok, answer) = started?;
    ensure!(is_ok && answer["status"] == "alreadyRunning", "start under attack: {answer}");
    ensure!(gateway.is_alive() && supervisor.is_alive() && server.is_alive(), "a process was lost");
    latencies.assert_held(P99_FACTOR)
}

type Worker<T> = JoinHandle<anyhow::Result<T>>;

/// Runs one worker; one that fails ends the run.
fn play<T: Send + 'static>(
    field: &Arc<Field>,
    work: impl FnOnce(&Field) -> anyhow::Result<T> + Send + 'static,
) -> Worker<T> {
    let field = field.clone();
    thread::spawn(move || {
        let outcome = work(&field);
        if outcome.is_err() {
            field.failed.store(true, Ordering::SeqCst);
        }
        outcome
    })
}

fn join<T>(worker: Worker<T>) -> anyhow::Result<T> {
    worker.join().map_err(|_| anyhow::anyhow!("a worker panicked"))?
}

/// The supervisor of the home.
fn supervisor(fixture: &GatewayFixture) -> anyhow::Result<Process> {
    let mut found = fixture.home.processes();
    found.retain(|process| process.command.split(' ').nth(1) == Some("supervisor"));
    match &found[..] {
        [supervisor] => Ok(supervisor.clone()),
        _ => bail!("not one supervisor but {found:?}"),
    }
}

/// Lets a part of the run last so long, unless a client fails; gives the most that the supervisor held.
fn hold_for(field: &Field, supervisor: &Process, length: Duration) -> anyhow::Result<u64> {
    let end = Instant::now() + length;
    let mut most = 0;
    while Instant::now() < end && !field.failed.load(Ordering::SeqCst) {
        most = most.max(supervisor.memory()?.anonymous_kib);
        // The length of the attack is what is asked for.
        codexd_testkit::wait::pause(LOOK_EVERY);
    }
    ensure!(most <= SUPERVISOR_MAX_KIB, "the supervisor held {most} KiB");
    Ok(most)
}

/// Waits until the gateway holds hardly more than before the attack; gives what it holds.
fn until_returned(field: &Field, gateway: &Process, before_kib: u64) -> anyhow::Result<u64> {
    let mut held = 0;
    let returned = until(TIMEOUT, "the memory of the gateway to be given back", || {
        held = gateway.memory().ok()?.anonymous_kib;
        let is_over = held <= before_kib + GROWTH_MAX_KIB || field.failed.load(Ordering::SeqCst);
        is_over.then_some(held)
    });
    returned.with_context(|| format!("it held {before_kib} KiB before the attack and holds {held} KiB"))
}
