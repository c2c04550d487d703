//! Where a value comes from, and what is wrong with one.

use std::fmt;
use std::path::PathBuf;

/// Where a value comes from; later ones win.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Origin {
    /// The default.
    Default,
    /// `settings.json`.
    SettingsJson(PathBuf),
    /// `codexd.toml`, and the line, counted from 1.
    CodexdToml(PathBuf, usize),
    /// An environment variable.
    Variable(&'static str),
    /// An option of the command line, without dashes.
    Flag(&'static str),
}

impl Origin {
    /// The word for it in answers.
    pub fn level(&self) -> &'static str {
        match self {
            Origin::Default => "default",
            Origin::SettingsJson(_) => "settings",
            Origin::CodexdToml(..) => "file",
            Origin::Variable(_) => "environment",
            Origin::Flag(_) => "flag",
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::SettingsJson(path) => write!(f, "{}", path.display()),
            Origin::CodexdToml(path, line) => write!(f, "{}:{line}", path.display()),
            Origin::Variable(name) => write!(f, "environment variable {name}"),
            Origin::Flag(name) => write!(f, "option --{name}"),
        }
    }
}

/// A key or a value that is refused.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    /// Where it stands.
    pub origin: Origin,
    /// The key, as it was written; empty for a file that cannot be read at all.
    pub key: String,
    /// What is wrong.
    pub what: String,
    /// The nearest key or value that is valid.
    pub nearest: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.origin, self.what)?;
        match &self.nearest {
            Some(nearest) => write!(f, "; the nearest valid one is `{nearest}`"),
            None => Ok(()),
        }
    }
}
