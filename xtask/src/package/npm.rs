//! The npm package. Its command is the binary itself: no Node.js process stands between a shell and codexd.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Contents, copy, output, template, write};
use crate::needs;

/// Builds it in `out` with `npm pack`.
///
/// # Errors
/// `npm` is missing or fails.
pub fn build(contents: &Contents, out: &Path) -> anyhow::Result<PathBuf> {
    let scratch = tempfile::Builder::new().prefix("codexd-npm-").tempdir()?;
    let root = scratch.path().join("package");
    let cpu = match std::env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => other,
    };
    let manifest = template("npm/package.json", &[("VERSION", &contents.version), ("CPU", cpu)])?;
    write(&root.join("package.json"), manifest.as_bytes(), 0o644)?;
    copy(&needs::workspace().join("packaging/npm/README.md"), &root.join("README.md"), 0o644)?;
    for license in ["LICENSE-MIT", "LICENSE-APACHE"] {
        copy(&needs::workspace().join(license), &root.join(license), 0o644)?;
    }
    copy(&contents.codexd, &root.join("bin/codexd"), 0o755)?;
    let package = out.join(format!("codexd-{}.tgz", contents.version));
    match fs::remove_file(&package) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    output(npm(scratch.path()).args(["pack", "--pack-destination"]).arg(out).current_dir(&root))?;
    anyhow::ensure!(package.is_file(), "npm pack did not write {}", package.display());
    Ok(package)
}

/// npm without network, with its files in a scratch folder.
pub fn npm(scratch: &Path) -> Command {
    let mut command = Command::new("npm");
    command
        .env("npm_config_cache", scratch.join("cache"))
        .env("npm_config_update_notifier", "false")
        .env("npm_config_offline", "true")
        .env("npm_config_audit", "false")
        .env("npm_config_fund", "false");
    command
}
