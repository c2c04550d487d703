//! What the defaults of some settings are made of: properties of the machine, the user and the home.

use std::path::{Path, PathBuf};

/// A property that is the default of a setting.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fact {
    /// The name of the host.
    HostName,
    /// The home folder of the user.
    UserHome,
    /// CODEX_HOME.
    CodexHome,
    /// `<repoRoot>/logs` if `repoRoot` is set, else `CODEX_HOME/codexd/logs`.
    LogsRoot,
    /// The same for `state`.
    StateRoot,
}

impl Fact {
    /// The words for it in the reference.
    pub fn as_str(self) -> &'static str {
        match self {
            Fact::HostName => "the name of the host",
            Fact::UserHome => "the home folder of the user",
            Fact::CodexHome => "`CODEX_HOME`",
            Fact::LogsRoot => {
                "`<repoRoot>/logs` if `repoRoot` is set, else `CODEX_HOME/codexd/logs` with nothing appended"
            }
            Fact::StateRoot => "the same with `state`",
        }
    }
}

/// The properties of the machine, the user and the home.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The name of the host.
    pub host_name: String,
    /// The home folder of the user, if it is known.
    pub user_home: Option<PathBuf>,
    /// CODEX_HOME.
    pub codex_home: PathBuf,
    /// The folder that relative paths of the command line and the environment count from.
    pub current_dir: PathBuf,
}

impl Facts {
    /// The value of a property; `None` if it is unknown or depends on other settings.
    pub fn value(&self, fact: Fact) -> Option<String> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        match fact {
            Fact::HostName => Some(self.host_name.clone()).filter(|name| !name.is_empty()),
            Fact::UserHome => self.user_home.as_deref().map(text),
            Fact::CodexHome => Some(text(&self.codex_home)),
            Fact::LogsRoot | Fact::StateRoot => None,
        }
    }
}
