//! codexd as it is shipped: one release build, linked statically. Packages carry it, and the benchmarks measure it.

use std::path::PathBuf;

use anyhow::{Context, ensure};

use crate::needs;

/// Builds it; gives where it lies.
///
/// # Errors
/// The build fails.
pub fn build() -> anyhow::Result<PathBuf> {
    // `cargo rustc` hands the option to the link of the binary only: RUSTFLAGS would reach procedural macros, which cannot be static.
    let built = needs::cargo()
        .args(["rustc", "--quiet", "--release", "--package", "codexd", "--bin", "codexd", "--"])
        .args(["-C", "target-feature=+crt-static"])
        .status()?;
    ensure!(built.success(), "the release build of codexd failed");
    let own = std::env::current_exe()?;
    let target = own.ancestors().nth(2).context("cargo runs tasks out of its target folder")?;
    Ok(target.join("release/codexd"))
}
