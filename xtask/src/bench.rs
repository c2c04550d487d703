//! `cargo xtask bench`.

use std::process::ExitCode;

use clap::Subcommand;

use crate::{needs, reaping};

mod contestant;
mod floor;
mod lifecycle;
mod machine;
mod page;
mod samples;

/// What to measure.
#[derive(Subcommand)]
pub enum Bench {
    /// The verbs of codexd beside the same verbs of the real daemons.
    Lifecycle(lifecycle::Options),
}

/// Set in the process that measures, below the one that reaps what daemons leave behind.
const BELOW_REAPER: &str = "CODEXD_BENCH_BELOW_REAPER";

/// Measures and prints.
///
/// # Errors
/// Something that is measured does not work.
pub fn bench(bench: &Bench) -> anyhow::Result<ExitCode> {
    if std::env::var_os(BELOW_REAPER).is_none() {
        needs::releases()?;
        let mut again = std::process::Command::new(std::env::current_exe()?);
        again.args(std::env::args_os().skip(1)).env(BELOW_REAPER, "1");
        let status = reaping::run(&mut again)?;
        return Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    match bench {
        Bench::Lifecycle(options) => lifecycle::lifecycle(options)?,
    }
    Ok(ExitCode::SUCCESS)
}
