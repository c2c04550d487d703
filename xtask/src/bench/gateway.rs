//! `cargo xtask bench gateway`: the same app-server directly and through the gateway, in turns.

use std::path::PathBuf;

use anyhow::Context;
use codexd_testkit::MockModel;

use super::floor::Floor;
use super::samples::Samples;
use super::{machine, page, release};
use crate::needs;

pub mod copier;
mod latency;
mod measure;
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
    /// Measure only these, parted by commas: latency, deltas, many, idle, crash, kill, handover.
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
}

/// Measures, prints, and writes if asked to.
///
/// # Errors
/// One of the ways does not work.
pub fn gateway(options: &Options) -> anyhow::Result<()> {
    raise_open_files();
    let codexd = match &options.codexd {
        Some(path) => path.canonicalize().with_context(|| format!("{} is not there", path.display()))?,
        None => release::build()?,
    };
    let model = MockModel::start()?;
    let stages = [Stage::direct(&model)?, Stage::through(&model, &codexd)?];
    let copied = Stage::copied(&model)?;
    let load = machine::load();
    let mut results = Results::default();
    if options.wants("idle") {
        let gateway = stages[THROUGH].gateway()?;
        results.idle_gateway.push(megabytes(measure::settled(&gateway)?.resident_kib));
        // What they need can be seen only as long as nobody has left memory behind.
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
    if wanted("many") && round < FEW_ROUNDS {
        let seen = measure::watched_turn(&stages[THROUGH], MANY_VIEWERS, DELTAS).context("many viewers")?;
        results.many.through.push(rate(DELTAS, seen.streaming));
    }
    if wanted("crash") {
        results.crash.direct.push_time(Floor::new()?.measure()?.0);
        results.crash.through.push_time(measure::crash_to_serving(&stages[THROUGH]).context("a crash")?);
    }
    if wanted("kill") {
        results
            .kill
            .push_time(measure::gateway_kill_to_serving(&stages[THROUGH]).context("a killed gateway")?);
    }
    if wanted("handover") {
        let handover = measure::handover(&stages[THROUGH], IDLE_THREADS).context("a handover")?;
        results.restart.push_time(handover.verb);
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
    let mut rows = vec![
        results.hub[0].row("`thread/goal/get` (hub), p50", Unit::Us).aiming(Aim::Added(25.0)),
        copied("the same through a process that only copies bytes", 0, &results.hub[0]),
        results.hub[1].row("`thread/goal/get` (hub), p99", Unit::Us).aiming(Aim::Times(2.0)),
        results.own[0].row("`thread/loaded/list` (own connection), p50", Unit::Us).aiming(Aim::Added(25.0)),
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
