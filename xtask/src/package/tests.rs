//! Each package is built from the codexd under test, installed into a scratch folder, and run.

#![allow(
    clippy::disallowed_methods,
    reason = "the ban protects the product; a test may run programs and wait for them"
)]

mod deb_package;
mod install_script;
mod npm_package;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use codexd_testkit::{Codexd, Home, Run, codexd, run};
use tempfile::TempDir;

use super::contents::Contents;
use super::{Compression, output};
use crate::package::{deb, npm, tarball};

/// Packing and installing compress and copy tens of megabytes.
const SOON: Duration = Duration::from_secs(120);

/// A folder for the packages, a scratch root, and a home.
struct Fixture {
    folder: TempDir,
    home: Home,
    contents: Contents,
}

impl Fixture {
    fn new() -> anyhow::Result<Fixture> {
        let folder = tempfile::Builder::new().prefix("codexd-package-test-").tempdir()?;
        let binary = folder.path().join("codexd");
        // Less to compress.
        output(Command::new("strip").arg("-o").arg(&binary).arg(codexd::binary()?))?;
        Ok(Fixture { contents: Contents::of(&binary)?, home: Home::new()?, folder })
    }

    /// A folder that is there.
    fn folder(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(&path)?;
        Ok(path)
    }

    /// Checks that an installed codexd runs.
    fn assert_runs(&self, binary: &Path) -> anyhow::Result<()> {
        let codexd = Codexd::at(&self.home, binary);
        let version = codexd.run(&["--version"])?;
        ensure!(version.stdout.trim() == format!("codexd {}", self.contents.version), "{version}");
        let status = codexd.json(&["status", "--json"])?;
        ensure!(status["status"] == "notRunning", "{status}");
        Ok(())
    }

    /// Runs a program to its end.
    fn run(&self, program: &str, arguments: &[&str]) -> anyhow::Result<Run> {
        let mut command = self.home.command(program);
        command.args(arguments);
        run::run(command, SOON)
    }
}

/// The text of a gzipped file.
fn gunzipped(path: &Path) -> anyhow::Result<String> {
    String::from_utf8(output(Command::new("gzip").args(["--decompress", "--stdout"]).arg(path))?)
        .with_context(|| format!("{} is not text", path.display()))
}

fn text_of(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

#[test]
fn packing_a_binary_twice_gives_the_same_bytes() -> anyhow::Result<()> {
    let fixture = Fixture::new()?;
    let build = |folder: &str| -> anyhow::Result<Vec<(PathBuf, Vec<u8>)>> {
        let out = fixture.folder(folder)?;
        let packages = [
            deb::build(&fixture.contents, &out, Compression::Fast)?,
            tarball::build(&fixture.contents, &out, Compression::Fast)?,
            npm::build(&fixture.contents, &out)?,
        ];
        let read = |path: PathBuf| Ok((path.file_name().unwrap_or_default().into(), std::fs::read(&path)?));
        packages.into_iter().map(read).collect()
    };
    for ((name, first), (_, second)) in build("first")?.into_iter().zip(build("second")?) {
        ensure!(first == second, "{} differs", name.display());
    }
    Ok(())
}

#[test]
fn every_command_has_a_man_page() -> anyhow::Result<()> {
    let fixture = Fixture::new()?;
    let help = fixture.run(text_of(&fixture.contents.codexd), &["--help"])?.stdout;
    let listed = help.lines().skip_while(|line| !line.starts_with("Commands:")).skip(1);
    let commands: Vec<&str> =
        listed.map_while(|line| line.starts_with("  ").then(|| line.split_whitespace().next())?).collect();
    ensure!(commands.contains(&"self-update"), "{commands:?}");
    let pages: Vec<&str> =
        fixture.contents.man_pages.iter().filter_map(|page| page.file_name()?.to_str()).collect();
    for command in commands {
        ensure!(pages.contains(&format!("codexd-{command}.1").as_str()), "no page of {command} in {pages:?}");
    }
    ensure!(pages.contains(&"codexd.1"));
    ensure!(
        !pages.iter().any(|page| page.contains("error-table")),
        "an internal command has a page: {pages:?}"
    );
    Ok(())
}
