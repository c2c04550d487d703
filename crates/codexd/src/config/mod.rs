//! The configuration of a command: the files of the home, the environment and the options together.

mod args;
mod shared;

use std::io::{self, ErrorKind};
use std::path::Path;

use codexd_core::config::{Config, FlagValues, Levels, Origin, ParsedSettings, Problem, resolve};
use codexd_core::contract::{ErrorCode, Failure};
use codexd_host::{Home, config_file, settings_file};
use serde_json::Value;

use crate::context::Context;
use crate::{failures, output};

pub use args::ConfigArgs;

/// The configuration as it was found.
#[derive(Debug)]
pub struct Found {
    /// The values; where one is refused, that of the level below.
    pub config: Config,
    /// What is refused in `codexd.toml`, the environment and the options.
    pub problems: Vec<Problem>,
    /// `settings.json`, with what is wrong in it.
    pub shared: ParsedSettings,
    /// `codexd.toml`, if there is one.
    pub file: Option<Vec<u8>>,
    /// Why files cannot be read, and what kind of error that is.
    pub unreadable: Vec<(Failure, ErrorKind)>,
}

impl Context {
    /// The configuration, as far as it can be read. Nothing is changed.
    pub fn config_as_found(&self) -> Found {
        load(&self.home, &[])
    }

    /// The configuration for a changing command.
    ///
    /// # Errors
    /// See [`Context::config_with`].
    pub fn config(&self) -> Result<Config, Failure> {
        self.config_with(&ConfigArgs::default())
    }

    /// The configuration for a changing command with options. A defective `settings.json` is kept aside first, and what could be read of it
    /// counts; keys of codexd in it are moved to `codexd.toml`. The operation lock is held.
    ///
    /// # Errors
    /// `settings-invalid`, or `bad-arguments` for an option: what is refused, and where; what the file system said.
    pub fn config_with(&self, args: &ConfigArgs) -> Result<Config, Failure> {
        let found = load(&self.home, &args.values).usable()?;
        self.put_right(found, &args.values)
    }

    /// The configuration for a command that must succeed whatever is in the files: what is refused is reported on stderr.
    ///
    /// # Errors
    /// What the file system said.
    pub fn config_to_stop(&self) -> Result<Config, Failure> {
        let mut found = load(&self.home, &[]);
        if let Some((failure, _)) = found.unreadable.pop() {
            return Err(failure);
        }
        for problem in &found.problems {
            output::say(&format!("warning: {problem}"));
        }
        self.put_right(found, &[])
    }

    /// What an edit of `codexd.toml` begins with: keys of codexd in `settings.json` are moved first, so that none of them comes
    /// after what is set now. The operation lock is held.
    ///
    /// # Errors
    /// What the file system said.
    pub fn config_to_edit(&self) -> Result<Found, Failure> {
        let mut found = load(&self.home, &[]);
        if let Some((failure, _)) = found.unreadable.pop() {
            return Err(failure);
        }
        self.put_right(found, &[])?;
        Ok(load(&self.home, &[]))
    }
}

impl Found {
    /// The same, if nothing is refused and everything could be read.
    ///
    /// # Errors
    /// See [`Context::config_with`].
    pub fn usable(mut self) -> Result<Self, Failure> {
        if let Some((failure, _)) = self.unreadable.pop() {
            return Err(failure);
        }
        match invalid(&self.problems) {
            Some(failure) => Err(failure),
            None => Ok(self),
        }
    }
}

/// Reads the files and resolves the configuration.
pub fn load(home: &Home, flags: &[FlagValues]) -> Found {
    let mut unreadable = Vec::new();
    let mut failed = |what: &str, path: &Path, error: &io::Error| {
        unreadable.push((failures::state(what, path, error), error.kind()));
    };
    let shared = settings_file::read(home).unwrap_or_else(|error| {
        failed("read the settings", &home.settings(), &error);
        ParsedSettings::default()
    });
    let file = config_file::read(home).unwrap_or_else(|error| {
        failed("read the configuration", &home.config(), &error);
        None
    });
    let (config, problems) = resolve_with(home, &shared, file.as_deref(), flags);
    Found { config, problems, shared, file, unreadable }
}

/// Resolves the configuration as if `file` were the contents of `codexd.toml`.
pub fn resolve_with(
    home: &Home,
    shared: &ParsedSettings,
    file: Option<&[u8]>,
    flags: &[FlagValues],
) -> (Config, Vec<Problem>) {
    let path = home.config();
    resolve(&Levels {
        facts: &config_file::facts(home),
        shared: (&shared.settings, &home.settings()),
        file: file.map(|contents| (contents, path.as_path())),
        environment: &|name| std::env::var_os(name),
        flags,
    })
}

/// The text of `codexd.toml` for an edit.
///
/// # Errors
/// A sentence, if it is not text.
pub fn text_of(file: Option<&[u8]>) -> Result<&str, String> {
    std::str::from_utf8(file.unwrap_or_default()).map_err(|error| format!("the file is not text: {error}"))
}

/// The failure for what is refused, if anything is.
pub fn invalid(problems: &[Problem]) -> Option<Failure> {
    let first = problems.first()?;
    let is_flag = |problem: &Problem| matches!(problem.origin, Origin::Flag(_));
    let code =
        if problems.iter().all(is_flag) { ErrorCode::BadArguments } else { ErrorCode::SettingsInvalid };
    let hint = match first.origin {
        Origin::CodexdToml(..) => {
            "correct the file, or remove the key with `codexd config unset KEY`; docs/configuration.md lists the keys"
        }
        Origin::Variable(_) => {
            "correct or unset the variable; `codexd config` shows every value and its origin"
        }
        _ => "`codexd config --help` lists the options",
    };
    let more = match problems.len() {
        1 => String::new(),
        count => format!(" (and {} more)", count - 1),
    };
    let list: Vec<Value> = problems.iter().map(|problem| problem.to_string().into()).collect();
    Some(Failure::new(code, format!("{first}{more}")).hint(hint).with("problems", list))
}
