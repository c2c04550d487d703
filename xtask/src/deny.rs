//! `cargo xtask deny`: licenses, bans, duplicate versions and advisories, by cargo-deny.

use std::process::{Command, ExitCode};

use anyhow::Context;

/// Runs cargo-deny where it is installed. Its installation takes minutes, so nothing else depends on it.
pub fn deny() -> anyhow::Result<ExitCode> {
    let installed = Command::new("cargo").args(["deny", "--version"]).output();
    if !installed.is_ok_and(|output| output.status.success()) {
        println!("cargo-deny is not installed; `cargo install --locked cargo-deny` installs it");
        return Ok(ExitCode::SUCCESS);
    }
    let status =
        Command::new("cargo").args(["deny", "check"]).status().context("failed to run cargo deny")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
