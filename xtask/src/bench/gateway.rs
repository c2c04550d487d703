//! `cargo xtask bench gateway`: the same app-server directly and through the gateway, in turns.

use std::path::PathBuf;

use anyhow::Context;
use codexd_testkit::MockModel;

use super::floor::Floor;
use super::samples::Samples;
use super::{machine, page};
use crate::needs;
use crate::release_build;

pub mod copier;
mod cost;
mod latency;
mod measure;
mod recovery;
mod stage;
mod table;
mod viewers;

use stage::Stage;
use table::{Aim, Row, Unit};

/// Deltas of one turn.
const DELTAS: usize = 20_000;
/// How many viewers a turn has, one measurement each.
const VIEWERS: [usize; 2] = [1, 20];
/// Many viewers, through the gateway alone: directly the server needs minutes for as many.
const MANY_VIEWERS: usize = 1_000;
/// What loads the machine for long is not repeated more often.
const FEW_ROUNDS: usize = 3;
/// Idle threads in a handover.
const IDLE_THREADS: usize = 20;
/// What the gateway may add to a small request at p50, beyond a process that only copies bytes, in µs.
const ADDED_US_MAX: f64 = 30.0;
/// A request about any thread is answered so long after a new app-server answers, in ms, and twice the floor.
const RECOVERED_MS_MAX: f64 = 250.0;

/// How to measure.
#[derive(clap::Args)]
pub struct Options {
    /// How often everything is measured.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Small requests of each kind in a round.
    #[arg(long, default_value_t = 2_000)]
    calls: usize,
    /// Idle clients at once.
    #[arg(long, default_value_t = 2_000)]
    idle: usize,
    /// Measure only these, parted by commas: latency, cost, deltas, many, idle, crash, kill,
    /// handover, recovery.
    #[arg(long)]
    only: Option<String>,
    /// Put the table into docs/benchmarks.md.
    #[arg(long)]
    write: bool,
    /// Measure this codexd, instead of building one for release.
    #[arg(long)]
    codexd: Option<PathBuf>,
}

impl Options {
    fn wants(&self, name: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only.split(',').any(|part| name == part))
    }
}

/// One figure both ways.
#[derive(Default)]
struct Pair {
    direct: Samples,
    through: Samples,
}

impl Pair {
    fn side(&mut self, place: usize) -> &mut Samples {
        if place == DIRECT { &mut self.direct } else { &mut self.through }
    }

    fn row(&self, label: impl Into<String>, unit: Unit) -> Row {
        let there = |samples: &'_ Samples| !samples.is_empty();
        let direct = Some(&self.direct).filter(|samples| there(samples));
        Row::new(label, direct, Some(&self.through).filter(|samples| there(samples)), unit)
    }
}

const DIRECT: usize = 0;
const THROUGH: usize = 1;
const COPIED: usize = 2;

/// Everything measured.
#[derive(Default)]
struct Results {
    hub: [Pair; 2],
    own: [Pair; 2],
    /// Through a process that only copies bytes, the same two requests.
    copied: [Samples; 2],
    rates: [Pair; 2],
    many: Pair,
    arrival: Pair,
    idle_client: Pair,
    idle_gateway: Samples,
    crash: Pair,
    kill: Samples,
    restart: Samples,
    pause: Samples,
    worst_pause: Samples,
    /// In the gateway, and in the process that copies.
    costs: [cost::Cost; 2],
    floor: recovery::Floor,
    recoveries: Vec<recovery::Recovery>,
}

/// Measures, prints, and writes if asked to.
///
/// # Errors
/// One of the ways does not work.
pub fn gateway(options: &Options) -> anyhow::Result<()> {
    raise_open_files();
    let codexd = match &options.codexd {
        Some(path) => path.canonicalize().with_context(|| format!("{} is not there", path.display()))?,
        None => release_build::build()?,
    };
    let model = MockModel::start()?;
    let stages = [Stage::direct(&model)?, Stage::through(&model, &codexd)?];
    let copied = Stage::copied(&model)?;
    let load = machine::load();
    let mut results = Results::default();
    if options.wants("idle") {
        let gateway = stages[THROUGH].gateway()?;
        results.idle_gateway.push(megabytes(measure::settled(&gateway)?.resident_kib));
        // What they need can be seen only until a client has left memory behind.
        for (place, holder) in [(DIRECT, stages[DIRECT].server()?), (THROUGH, gateway)] {
            let crowd = measure::crowd(&stages[place], &holder, options.idle).context("idle clients")?;
            results.arrival.side(place).push(crowd.arrival_us);
            results.idle_client.side(place).push(crowd.kib_each);
        }
    }
    for round in 0..options.rounds {
        eprintln!("round {} of {}", round + 1, options.rounds);
        measure_round(options, &stages, &copied, round, &mut results)
            .with_context(|| format!("in round {}", round + 1))?;
    }
    if options.wants("recovery") {
        results.floor = recovery::floor(&model).context("cold resumes")?;
        let stage = Stage::through(&model, &codexd)?;
        results.recoveries = recovery::measure(&stage)?;
        stage.end()?;
    }
    let heading = format!("{}; {} rounds", machine::describe(&load), options.rounds);
    let section = format!("{heading}\n\n{}", table::markdown(&rows(&results, options.idle)));
    println!("{section}");
    if options.write {
        page::replace(&needs::workspace().join("docs/benchmarks.md"), "gateway", &section)?;
    }
    copied.end()?;
    stages.into_iter().try_for_each(Stage::end)
}

fn measure_round(
    options: &Options,
    stages: &[Stage; 2],
    copied: &Stage,
    round: usize,
    results: &mut Results,
) -> anyhow::Result<()> {
    let wanted = |name: &str| options.wants(name);
    let order = if round.is_multiple_of(2) { [DIRECT, THROUGH] } else { [THROUGH, DIRECT] };
    for place in order {
        let stage = &stages[place];
        if wanted("deltas") {
            for (at, viewers) in VIEWERS.into_iter().enumerate() {
                let seen = measure::watched_turn(stage, viewers, DELTAS).context("deltas")?;
                results.rates[at].side(place).push(rate(DELTAS, seen.streaming));
            }
        }
    }
    if wanted("latency") {
        measure_latency(&[&stages[DIRECT], &stages[THROUGH], copied], options.calls, results)
            .context("small requests")?;
    }
    if wanted("cost") {
        for (stage, cost) in [&stages[THROUGH], copied].into_iter().zip(&mut results.costs) {
            cost::measure(stage, options.calls, DELTAS, cost).context("cost")?;
        }
    }
    if wanted("many") && round < FEW_ROUNDS {
        let seen = measure::watched_turn(&stages[THROUGH], MANY_VIEWERS, DELTAS).context("many viewers")?;
        results.many.through.push(rate(DELTAS, seen.streaming));
    }
    if wanted("crash") {
        results.crash.direct.push_time(Floor::of(stage::SERVER)?.measure()?.0);
        results.crash.through.push_time(measure::crash_to_serving(&stages[THROUGH]).context("a crash")?);
    }
    if wanted("kill") {
        results
            .kill
            .push_time(measure::gateway_kill_to_serving(&stages[THROUGH]).context("a killed gateway")?);
    }
    if wanted("handover") {
        let handover = measure::handover(&stages[THROUGH], IDLE_THREADS).context("a handover")?;
        results.restart.push_time(handover.command);
        let mut pauses = Samples::default();
        handover.pauses_ms.iter().for_each(|&pause| pauses.push(pause));
        results.pause.push(pauses.median());
        results.worst_pause.push(pauses.quantile(1.0));
    }
    Ok(())
}

fn measure_latency(ways: &[&Stage; 3], calls: usize, results: &mut Results) -> anyhow::Result<()> {
    for (place, times) in latency::measure(ways, calls)?.into_iter().enumerate() {
        if place == COPIED {
            results.copied[0].push(times.hub.median());
            results.copied[1].push(times.own.median());
            continue;
        }
        for (pairs, times) in [(&mut results.hub, times.hub), (&mut results.own, times.own)] {
            pairs[0].side(place).push(times.median());
            pairs[1].side(place).push(times.quantile(0.99));
        }
    }
    Ok(())
}

fn rows(results: &Results, idle: usize) -> Vec<Row> {
    let one_viewer = results.rates[0].through.median();
    let copied = |label: &str, at: usize, direct: &Pair| {
        Row::new(label, Some(&direct.direct), Some(&results.copied[at]), Unit::Us)
    };
    let beyond = |at: usize| Aim::Beyond(ADDED_US_MAX, results.copied[at].median(), "copying");
    let mut rows = vec![
        results.hub[0].row("`thread/goal/get` (hub), p50", Unit::Us).aiming(beyond(0)),
        copied("the same through a process that only copies bytes", 0, &results.hub[0]),
        results.hub[1].row("`thread/goal/get` (hub), p99", Unit::Us).aiming(Aim::Times(2.0)),
        results.own[0].row("`thread/loaded/list` (own connection), p50", Unit::Us).aiming(beyond(1)),
        copied("the same through a process that only copies bytes", 1, &results.own[0]),
        results.own[1].row("`thread/loaded/list` (own connection), p99", Unit::Us).aiming(Aim::Times(2.0)),
        results.rates[0].row("deltas at 1 viewer", Unit::Rate).aiming(Aim::Share(0.95)),
        results.rates[1].row("deltas at each of 20 viewers", Unit::Rate).aiming(Aim::ShareOf(
            0.9,
            one_viewer,
            "one viewer",
        )),
        results.many.row("deltas at each of 1,000 viewers", Unit::Rate),
        results.arrival.row(format!("connect and `initialize`, each of {idle}"), Unit::Us),
        results
            .idle_client
            .row(
                format!("resident memory for each of {idle} idle clients (direct: of the app-server)"),
                Unit::Kib,
            )
            .aiming(Aim::AtMost(12.0)),
    ];
    let ours = |label: &str, samples: &Samples, unit| Row::new(label, None, Some(samples), unit);
    rows.extend([
        ours("resident memory of the idle gateway", &results.idle_gateway, Unit::Mb)
            .aiming(Aim::AtMost(12.0)),
        results
            .crash
            .row("kill -9 until a held connection is answered (direct: spawn to `initialize`)", Unit::Ms),
        ours("kill -9 of the gateway until a new connection is answered", &results.kill, Unit::Ms)
            .aiming(Aim::AtMost(100.0)),
        ours("`restart` with 20 idle threads", &results.restart, Unit::Ms),
        ours("its longest pause of a thread, median thread", &results.pause, Unit::Ms),
        ours("its longest pause of a thread, worst thread", &results.worst_pause, Unit::Ms)
            .aiming(Aim::AtMost(250.0)),
    ]);
    rows.extend(cost_rows(&results.costs));
    rows.extend(recovery_rows(results));
    rows
}

/// The left column is the process that copies.
fn cost_rows([gateway, copier]: &[cost::Cost; 2]) -> [Row; 3] {
    let row = |what: &str, ours: &Samples, copiers: &Samples| {
        let there = Some(copiers).filter(|samples| !samples.is_empty());
        Row::new(
            format!("processor time for {what} (left: of the process that copies)"),
            there,
            Some(ours),
            Unit::Us,
        )
    };
    [
        row("a `thread/goal/get`", &gateway.hub, &copier.hub),
        row("a `thread/loaded/list`", &gateway.own, &copier.own),
        row("a delta at 1 viewer", &gateway.delta, &copier.delta),
    ]
}

fn recovery_rows(results: &Results) -> Vec<Row> {
    let floor = results.floor.first.median();
    let one = |value: f64| {
        let mut samples = Samples::default();
        samples.push(value);
        samples
    };
    let mut rows = Vec::new();
    if !results.floor.total.is_empty() {
        let all = recovery::Floor::THREADS;
        let direct = |label: String, samples: &Samples| Row::new(label, Some(samples), None, Unit::Ms);
        rows.extend([
            direct(
                "a cold `thread/resume` while few threads are loaded, p50".to_owned(),
                &results.floor.first,
            ),
            direct(format!("the same while nearly {all} are loaded, p50"), &results.floor.last),
            direct(format!("{all} of them one by one after kill -9"), &results.floor.total),
        ]);
    }
    let pause_of_few = results.recoveries.first().map_or(f64::NAN, |few| few.pause.median());
    for (count, seen) in recovery::THREADS.into_iter().zip(&results.recoveries) {
        let ours = |label: String, value: f64| Row::new(label, None, Some(&one(value)), Unit::Ms);
        let asked = "after kill -9 a request about one, p";
        rows.extend([
            ours(format!("{count} threads: {asked}50"), seen.answers.median()),
            ours(format!("{count} threads: {asked}99"), seen.answers.quantile(0.99)),
            ours(format!("{count} threads: the longest such wait"), seen.answers.quantile(1.0))
                .aiming(Aim::AtMost(RECOVERED_MS_MAX + 2.0 * floor)),
            ours(format!("{count} threads: kill -9 until all are loaded again"), seen.total.median()),
            ours(
                format!("{count} threads: `restart` until the old app-server has left"),
                seen.restart.median(),
            ),
            ours(format!("{count} threads: its longest pause of an idle thread"), seen.pause.median())
                .aiming(Aim::Beyond(pause_of_few, pause_of_few, "that with 10 threads")),
        ]);
    }
    rows
}

#[expect(clippy::cast_precision_loss)]
fn rate(deltas: usize, time: std::time::Duration) -> f64 {
    deltas as f64 / time.as_secs_f64()
}

#[expect(clippy::cast_precision_loss)]
fn megabytes(kib: u64) -> f64 {
    kib as f64 * 1024.0 / 1e6
}

/// Every client is a descriptor here, and the soft limit is often 1,024.
fn raise_open_files() {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    let _as_it_was = rustix::process::setrlimit(rustix::process::Resource::Nofile, limit);
}
