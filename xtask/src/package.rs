//! `cargo xtask package`: the packages of codexd, from one release build.
//!
//! cargo-deb is not used: Debian has no package of it, and its installation takes minutes in each run. `dpkg-deb` builds the .deb.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, ensure};

use crate::{needs, release_build};

mod contents;
mod deb;
mod linkage;
mod npm;
mod tarball;
#[cfg(test)]
mod tests;

use contents::Contents;

/// What to build.
#[derive(clap::Args)]
pub struct Options {
    /// Folder for the packages
    #[arg(long, value_name = "DIR", default_value = "target/packages")]
    out: PathBuf,
    /// Pack this codexd, instead of building one for release
    #[arg(long, value_name = "PATH")]
    codexd: Option<PathBuf>,
}

/// How hard to compress.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Compression {
    /// For users.
    Best,
    /// For tests.
    #[cfg_attr(not(test), expect(dead_code, reason = "only tests are in a hurry"))]
    Fast,
}

impl Compression {
    /// The option of gzip and of `dpkg-deb -z`.
    fn level(self) -> &'static str {
        match self {
            Compression::Best => "-9",
            Compression::Fast => "-1",
        }
    }
}

/// Builds every package and prints what it built.
///
/// # Errors
/// A program is missing, or fails; the sentence names it.
pub fn package(options: &Options) -> anyhow::Result<ExitCode> {
    let codexd = match &options.codexd {
        Some(path) => path.canonicalize().with_context(|| format!("{} is not there", path.display()))?,
        None => release_build::build()?,
    };
    let out = needs::workspace().join(&options.out);
    fs::create_dir_all(&out).with_context(|| format!("failed to create {}", out.display()))?;
    let contents = Contents::of(&codexd)?;
    let mut built = vec![
        deb::build(&contents, &out, Compression::Best)?,
        tarball::build(&contents, &out, Compression::Best)?,
        npm::build(&contents, &out)?,
    ];
    for package in built.clone() {
        built.push(write_sha256(&package)?);
    }
    built.push(tarball::copy_installer(&out)?);
    println!("codexd {}: {}", contents.version, contents.linkage);
    for file in built {
        println!("{:>10}  {}", fs::metadata(&file)?.len(), file.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes `FILE.sha256` in the form of `sha256sum`.
fn write_sha256(file: &Path) -> anyhow::Result<PathBuf> {
    let (folder, name) = file.parent().zip(file.file_name()).context("a file in a folder")?;
    let sum = output(Command::new("sha256sum").arg(name).current_dir(folder))?;
    let path = file.with_added_extension("sha256");
    fs::write(&path, sum).with_context(|| format!("failed to write {}", path.display()))?;
    Ok(path)
}

/// A file of `packaging/`, with the values in place of `@WORD@`.
fn template(name: &str, values: &[(&str, &str)]) -> anyhow::Result<String> {
    let path = needs::workspace().join("packaging").join(name);
    let mut text = fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))?;
    for (word, value) in values {
        text = text.replace(&format!("@{word}@"), value);
    }
    Ok(text)
}

/// Copies a file with a mode; makes its folder.
fn copy(from: &Path, to: &Path, mode: u32) -> anyhow::Result<()> {
    let contents = fs::read(from).with_context(|| format!("failed to read {}", from.display()))?;
    write(to, &contents, mode)
}

/// Writes a file with a mode; makes its folder.
fn write(path: &Path, contents: &[u8], mode: u32) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let failed = || format!("failed to write {}", path.display());
    fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).with_context(failed)?;
    fs::write(path, contents).with_context(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).with_context(failed)
}

/// Runs a program to its end and gives its output.
fn output(command: &mut Command) -> anyhow::Result<Vec<u8>> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .with_context(|| format!("failed to run {program}"))?;
    ensure!(
        output.status.success(),
        "{program} failed ({}): {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(output.stdout)
}
