//! The tarball: a folder `codexd-VERSION-TARGET` with `bin`, `share` and the licenses, the same bytes in each build.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

use super::{Compression, Contents, copy, output};
use crate::needs;

/// The target that the one toolchain builds for.
pub fn target() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

/// Builds it in `out`.
///
/// # Errors
/// `tar` or `gzip` is missing or fails.
pub fn build(contents: &Contents, out: &Path, compression: Compression) -> anyhow::Result<PathBuf> {
    let scratch = tempfile::Builder::new().prefix("codexd-tarball-").tempdir()?;
    let name = format!("codexd-{}-{}", contents.version, target());
    let root = scratch.path().join(&name);
    copy(&contents.codexd, &root.join("bin/codexd"), 0o755)?;
    for page in &contents.man_pages {
        let file = page.file_name().context("a man page has a name")?;
        copy(page, &root.join("share/man/man1").join(file), 0o644)?;
    }
    contents.write_completions(&root.join("share"), "site-functions")?;
    for license in ["LICENSE-MIT", "LICENSE-APACHE"] {
        copy(&needs::workspace().join(license), &root.join("share/doc/codexd").join(license), 0o644)?;
    }
    let tar = scratch.path().join("codexd.tar");
    output(
        Command::new("tar")
            .args(["--format=gnu", "--sort=name", "--owner=0", "--group=0", "--numeric-owner"])
            .arg(format!("--mtime=@{}", contents.epoch))
            .arg("--file")
            .arg(&tar)
            .arg("--directory")
            .arg(scratch.path())
            .args(["--create", &name]),
    )?;
    let package = out.join(format!("{name}.tar.gz"));
    let file = File::create(&package).with_context(|| format!("failed to write {}", package.display()))?;
    let status = Command::new("gzip")
        .args(["--no-name", "--stdout", compression.level()])
        .arg(&tar)
        .stdin(Stdio::null())
        .stdout(file)
        .status()
        .context("failed to run gzip")?;
    ensure!(status.success(), "gzip failed ({status})");
    Ok(package)
}

/// Puts `install.sh` beside it.
///
/// # Errors
/// It cannot be written.
pub fn copy_installer(out: &Path) -> anyhow::Result<PathBuf> {
    let to = out.join("install.sh");
    let _ = fs::remove_file(&to);
    copy(&needs::workspace().join("packaging/install.sh"), &to, 0o755)?;
    Ok(to)
}
