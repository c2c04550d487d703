//! `cargo xtask bench lifecycle`: the commands of codexd and of the real daemons, side by side and interleaved.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context;
use codexd_testkit::Version;

use super::contestant::{Contestant, Daemon};
use super::floor::Floor;
use super::samples::Samples;
use super::{machine, page};
use crate::needs;
use crate::release_build;

mod table;

/// How to measure.
#[derive(clap::Args)]
pub struct Options {
    /// How often everything is measured.
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Put the table into docs/benchmarks.md.
    #[arg(long)]
    write: bool,
    /// Leave codexd out.
    #[arg(long)]
    without_codexd: bool,
    /// Measure this codexd, instead of building one for release.
    #[arg(long)]
    codexd: Option<PathBuf>,
}

/// One thing that is measured, in the order of the table.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Operation {
    Version,
    Status,
    StartCold,
    StartRunning,
    StopNothing,
    Stop,
    Restart,
    CrashToReady,
    FloorStart,
    FloorStop,
    FloorRestart,
    VersionPeak,
    StartPeak,
    ResidentCount,
    Resident,
    ResidentPrivate,
    ResidentAnonymous,
}

/// Everything measured: by operation, then by the contestant's place (the floors have a place of their own).
pub(super) type Results = BTreeMap<Operation, BTreeMap<usize, Samples>>;

/// Measures, prints, and writes if asked to.
///
/// # Errors
/// A contestant or the bare server fails.
pub fn lifecycle(options: &Options) -> anyhow::Result<()> {
    let contestants = contestants(options)?;
    let floor = Floor::of(Version::NEWEST).context("the bare app-server does not work")?;
    let load = machine::load();
    let mut results = Results::new();
    for round in 0..options.rounds {
        eprintln!("round {} of {}", round + 1, options.rounds);
        for turn in 0..contestants.len() {
            let place = (round + turn) % contestants.len();
            measure_round(&contestants[place], place, &mut results)
                .with_context(|| format!("in round {}", round + 1))?;
        }
        let (start, stop) = floor.measure()?;
        let mut add = |operation, time| sample(&mut results, operation, contestants.len()).push_time(time);
        add(Operation::FloorStart, start);
        add(Operation::FloorStop, stop);
        add(Operation::FloorRestart, start + stop);
    }
    for (place, contestant) in contestants.iter().enumerate() {
        measure_resident(contestant, place, &mut results)
            .with_context(|| format!("measuring what {} keeps", contestant.name()))?;
    }
    let names: Vec<String> = contestants.iter().map(Contestant::name).collect();
    let ours = contestants.iter().position(Contestant::is_ours);
    let heading = format!("{}; {} rounds", machine::describe(&load), options.rounds);
    let section = format!("{heading}\n\n{}", table::markdown(&names, ours, &results));
    println!("{section}");
    if options.write {
        page::replace(&needs::workspace().join("docs/benchmarks.md"), "lifecycle", &section)?;
    }
    Ok(())
}

fn contestants(options: &Options) -> anyhow::Result<Vec<Contestant>> {
    let mut daemons: Vec<Daemon> = Version::ALL.map(Daemon::Upstream).to_vec();
    let codexd = if options.without_codexd {
        PathBuf::new()
    } else {
        daemons.insert(0, Daemon::Codexd);
        match &options.codexd {
            Some(path) => path.canonicalize().with_context(|| format!("{} is not there", path.display()))?,
            None => release_build::build()?,
        }
    };
    daemons.into_iter().map(|daemon| Contestant::new(daemon, &codexd)).collect()
}

fn sample(results: &mut Results, operation: Operation, place: usize) -> &mut Samples {
    results.entry(operation).or_default().entry(place).or_default()
}

/// Every operation once, from nothing running to nothing running.
fn measure_round(contestant: &Contestant, place: usize, results: &mut Results) -> anyhow::Result<()> {
    let mut time = |operation, command: &str| -> anyhow::Result<()> {
        sample(results, operation, place).push_time(contestant.ok(command)?);
        Ok(())
    };
    time(Operation::StopNothing, "stop")?;
    time(Operation::StartCold, "start")?;
    time(Operation::Version, "version")?;
    if contestant.is_ours() {
        time(Operation::Status, "status")?;
    }
    time(Operation::StartRunning, "start")?;
    time(Operation::Restart, "restart")?;
    measure_peaks(contestant, place, results)?;
    if contestant.is_ours() {
        let ready = contestant.crash_to_ready()?;
        sample(results, Operation::CrashToReady, place).push_time(ready);
    }
    sample(results, Operation::Stop, place).push_time(contestant.ok("stop")?);
    Ok(())
}

/// While its server runs: the most memory that its commands take, in MiB.
fn measure_peaks(contestant: &Contestant, place: usize, results: &mut Results) -> anyhow::Result<()> {
    for (operation, command) in [(Operation::VersionPeak, "version"), (Operation::StartPeak, "start")] {
        sample(results, operation, place).push(mib(contestant.peak_kib(command)?)?);
    }
    Ok(())
}

/// What stays besides the server.
fn measure_resident(contestant: &Contestant, place: usize, results: &mut Results) -> anyhow::Result<()> {
    let (count, memory) = contestant.resident()?;
    let count = u32::try_from(count).context("more than 4 billion processes")?;
    sample(results, Operation::ResidentCount, place).push(f64::from(count));
    sample(results, Operation::Resident, place).push(mib(memory.resident_kib)?);
    sample(results, Operation::ResidentPrivate, place).push(mib(memory.private_kib)?);
    sample(results, Operation::ResidentAnonymous, place).push(mib(memory.anonymous_kib)?);
    Ok(())
}

fn mib(kib: u64) -> anyhow::Result<f64> {
    Ok(f64::from(u32::try_from(kib).context("more than 4 TiB")?) / 1024.0)
}
