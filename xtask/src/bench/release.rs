//! codexd as it is shipped.

use std::path::PathBuf;

use anyhow::{Context, ensure};

use crate::needs;

/// Builds it; gives where it lies.
///
/// # Errors
/// The build fails.
pub fn build() -> anyhow::Result<PathBuf> {
    let built = needs::cargo().args(["build", "--quiet", "--release", "--package", "codexd"]).status()?;
    ensure!(built.success(), "the release build of codexd failed");
    let own = std::env::current_exe()?;
    let target = own.ancestors().nth(2).context("cargo runs tasks out of its target folder")?;
    Ok(target.join("release/codexd"))
}
