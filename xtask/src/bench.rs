//! `cargo xtask bench`.

use std::process::ExitCode;

use clap::Subcommand;

use crate::{needs, reaping};

mod contestant;
mod floor;
mod gateway;
mod lifecycle;
mod machine;
mod page;
mod samples;

/// What to measure.
#[derive(Subcommand)]
pub enum Bench {
    /// The commands of codexd beside the same commands of the real daemons.
    Lifecycle(lifecycle::Options),
    /// The real app-server through the gateway beside the same directly.
    Gateway(gateway::Options),
    /// Copies bytes between two sockets: what `gateway` compares itself with.
    #[command(hide = true)]
    Copier(gateway::copier::Ends),
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
        let mut again = measuring(bench)?;
        again.args(std::env::args_os().skip(1)).env(BELOW_REAPER, "1");
        let status = reaping::run(&mut again)?;
        return Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    match bench {
        Bench::Lifecycle(options) => lifecycle::lifecycle(options)?,
        Bench::Gateway(options) => gateway::gateway(options)?,
        Bench::Copier(ends) => gateway::copier::copy(ends)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// This program once more. What measures messages by the microsecond is built with optimisation first: it must not be
/// what is measured.
fn measuring(bench: &Bench) -> anyhow::Result<std::process::Command> {
    if cfg!(debug_assertions) && matches!(bench, Bench::Gateway(_)) {
        let mut optimised = needs::cargo();
        optimised.args(["run", "--quiet", "--profile", "measure", "--package", "xtask", "--"]);
        return Ok(optimised);
    }
    Ok(std::process::Command::new(std::env::current_exe()?))
}
