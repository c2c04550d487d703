//! `cargo xtask schema`: the gateway's tables beside the schema of the releases of Codex.

use std::path::PathBuf;
use std::process::ExitCode;

use codexd_testkit::{Version, codex};

use crate::needs;

mod check;
mod gates;
mod release;
mod request_ids;
#[cfg(test)]
mod tests;

use release::Release;

/// Whose schema.
#[derive(clap::Args)]
pub struct Options {
    /// Look at this Codex, too, beside the reference releases; can be given several times.
    #[arg(long, value_name = "PATH")]
    codex: Vec<PathBuf>,
}

/// Holds the tables against the schema, and lists what is not in order.
///
/// # Errors
/// A release is not there, or prints no schema.
pub fn schema(options: &Options) -> anyhow::Result<ExitCode> {
    needs::releases()?;
    let mut binaries = references()?;
    binaries.extend(options.codex.iter().cloned());
    let releases = Release::print_all(&binaries)?;
    let complaints = check::check(&releases);
    for complaint in &complaints {
        eprintln!("error: {complaint}");
    }
    let versions: Vec<_> = releases.iter().map(Release::version).collect();
    let versions = versions.join(" and ");
    if complaints.is_empty() {
        println!("the tables of the gateway and the schema of {versions} say the same");
        return Ok(ExitCode::SUCCESS);
    }
    println!("the tables of the gateway and the schema of {versions} differ in {} places", complaints.len());
    Ok(ExitCode::FAILURE)
}

fn references() -> anyhow::Result<Vec<PathBuf>> {
    Version::ALL.into_iter().map(codex::binary).collect()
}
