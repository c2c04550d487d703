//! The built `codexd`, run against a home.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use serde_json::Value;

use crate::run::Running;
use crate::{Home, Run, limits, run};

/// `codexd` in one home.
#[derive(Clone, Debug)]
pub struct Codexd<'h> {
    home: &'h Home,
    binary: PathBuf,
    variables: Vec<(String, String)>,
}

impl<'h> Codexd<'h> {
    /// The binary that was built with the running test.
    ///
    /// # Errors
    /// It was not built.
    pub fn new(home: &'h Home) -> anyhow::Result<Codexd<'h>> {
        Ok(Codexd::at(home, &binary()?))
    }

    /// The binary at a path.
    pub fn at(home: &'h Home, binary: &Path) -> Codexd<'h> {
        Codexd { home, binary: binary.to_owned(), variables: Vec::new() }
    }

    /// Sets an environment variable for every later run.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Codexd<'h> {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The command for these arguments.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = self.home.command(&self.binary);
        command.args(arguments).envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// It cannot be started or does not end.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> anyhow::Result<Run> {
        run::run(self.command(arguments), limits::RUN)
    }

    /// Runs it to its end and gives the one JSON object that it must have printed.
    ///
    /// # Errors
    /// The command failed, printed anything else, or left a process that holds its output.
    pub fn json<S: AsRef<OsStr>>(&self, arguments: &[S]) -> anyhow::Result<Value> {
        let words: Vec<_> = arguments.iter().map(|word| word.as_ref().to_string_lossy()).collect();
        self.run(arguments)?.success_json().with_context(|| format!("codexd {}", words.join(" ")))
    }

    /// Starts it and does not wait.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn<S: AsRef<OsStr>>(&self, arguments: &[S]) -> anyhow::Result<Running> {
        Running::spawn(self.command(arguments))
    }
}

/// The `codexd` that belongs to the running test or task: `$CODEXD_TEST_BINARY`, else what cargo or nextest names, else
/// the one in the target folder that the running program lies in.
///
/// # Errors
/// There is none; the sentence says how to build it.
pub fn binary() -> anyhow::Result<PathBuf> {
    for name in ["CODEXD_TEST_BINARY", "NEXTEST_BIN_EXE_codexd", "CARGO_BIN_EXE_codexd"] {
        if let Some(path) = std::env::var_os(name) {
            return Ok(path.into());
        }
    }
    let own = std::env::current_exe()?;
    let beside = own.ancestors().skip(1).take(2).map(|folder| folder.join("codexd"));
    match beside.into_iter().find(|path| path.is_file()) {
        Some(path) => Ok(path),
        None => bail!("there is no codexd beside {}; run `cargo build --package codexd`", own.display()),
    }
}
