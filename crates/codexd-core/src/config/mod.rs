//! The configuration of codexd: one table of settings, and one value for each from the defaults, `settings.json`, `codexd.toml`, the
//! environment and the command line, with its origin.
//!
//! [`table`] names the settings, [`resolve()`] puts the levels together, [`Config`] is what the rest of codexd reads.

mod codexd_toml;
mod facts;
mod gateway;
mod origin;
mod reference;
mod resolve;
mod scaffold;
mod settings_json;
mod suggest;
mod table;
mod value;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

pub use codexd_toml::{FileValue, parse as parse_toml, set, unset};
pub use facts::{Fact, Facts};
pub use gateway::{Gateway, SubagentApprovals};
pub use origin::{Origin, Problem};
pub use reference::reference;
pub use resolve::{FlagValues, Levels, from_text, resolve};
pub use settings_json::{ParsedSettings, SharedSettings, parse as parse_settings};
pub use table::{DefaultValue, Effect, SETTINGS, Setting, SettingFile, find, nearest_key};
pub use value::{BadValue, Kind, Value, is_release_url};

use crate::limits;

/// The value of a setting and where it comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The setting.
    pub setting: &'static Setting,
    /// Its value; `None` where it is not set and has no default.
    pub value: Option<Value>,
    /// Where it comes from.
    pub origin: Origin,
}

/// The folders and files of the record of codexd.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordFolders {
    /// `repoRoot`.
    pub repo_root: PathBuf,
    /// The folder that `logsDir` names.
    pub logs_root: PathBuf,
    /// The folder that `stateDir` names.
    pub state_root: PathBuf,
    /// The folder of the logs.
    pub logs: PathBuf,
    /// The folder of the state.
    pub state: PathBuf,
}

/// The resolved configuration of one CODEX_HOME.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    entries: Vec<Entry>,
    shared: SharedSettings,
    gateway: Gateway,
    folders: RecordFolders,
}

impl Config {
    fn new(entries: Vec<Entry>, gateway: Gateway, shared: SharedSettings, facts: &Facts) -> Self {
        let mut config = Self { entries, shared, gateway, folders: RecordFolders::unset() };
        let path = |key| config.text(key).map(Path::new);
        let repo = path("repoRoot").unwrap_or(&facts.codex_home).to_owned();
        let named = config.is_set("repoRoot").then_some(repo.as_path());
        let home = facts.codex_home.as_path();
        let (logs_root, logs) = resolve::record_folder(path("logsDir"), named, home, "logs");
        let (state_root, state) = resolve::record_folder(path("stateDir"), named, home, "state");
        config.folders = RecordFolders { logs_root, state_root, logs, state, repo_root: repo };
        config
    }

    /// Every setting, in the order of the table.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// `settings.json` as it was read.
    pub fn shared(&self) -> &SharedSettings {
        &self.shared
    }

    /// The gateway that is wanted.
    pub fn gateway(&self) -> Gateway {
        self.gateway
    }

    /// Whether the app-server is started with remote control.
    pub fn is_remote_control_enabled(&self) -> bool {
        self.value("remoteControlEnabled") == Some(&Value::Bool(true))
    }

    /// The same configuration with remote control on or off.
    #[must_use]
    pub fn with_remote_control(&self, enabled: bool) -> Self {
        let mut changed = self.clone();
        changed.shared = self.shared.with_remote_control(enabled);
        for entry in &mut changed.entries {
            if entry.setting.key == "remoteControlEnabled" {
                entry.value = Some(Value::Bool(enabled));
            }
        }
        changed
    }

    /// The time that running turns have to finish, in seconds.
    pub fn grace_seconds(&self) -> u64 {
        let grace = self.integer("stopGraceSeconds").or_else(|| self.integer("shutdownGraceSeconds"));
        grace.unwrap_or(limits::SHUTDOWN_GRACE_SECONDS)
    }

    /// The same, if the environment or the command line sets it: a supervisor reads the files alone.
    pub fn grace_seconds_of_environment(&self) -> Option<u64> {
        self.is_of_environment("stopGraceSeconds").then(|| self.grace_seconds())
    }

    /// The resident memory of an app-server above which it is replaced, in MiB.
    pub fn memory_ceiling_mib(&self) -> Option<u64> {
        self.integer("memoryCeiling")
    }

    /// The limits of an app-server as a service, in the form of systemd.resource-control(5).
    pub fn service_limits(&self) -> Vec<(String, String)> {
        let keys = [
            ("service.memoryHigh", "MemoryHigh", "M"),
            ("service.memoryMax", "MemoryMax", "M"),
            ("service.tasksMax", "TasksMax", ""),
        ];
        let limit = |(key, name, unit): (&str, &str, &str)| {
            Some((name.to_owned(), format!("{}{unit}", self.integer(key)?)))
        };
        keys.into_iter().filter_map(limit).collect()
    }

    /// Whether `codexd run` has an app-server.
    pub fn has_server(&self) -> bool {
        self.text("server.mode") != Some("exec")
    }

    /// Whether another program starts that app-server.
    pub fn has_external_server(&self) -> bool {
        self.text("server.strategy") == Some("external")
    }

    /// How long `codexd run --run-once` runs, in milliseconds.
    pub fn run_lifetime_ms(&self) -> Option<u64> {
        self.integer("smokeLifetimeMs")
    }

    /// The Codex to run: an absolute path, or a name to look up; `None` if codexd is to find one.
    pub fn codex_bin(&self) -> Option<&Path> {
        self.text("codexBin").filter(|program| *program != "codex").map(Path::new)
    }

    /// The working directory of the app-server, if it is set.
    pub fn working_directory(&self) -> Option<&Path> {
        self.is_set("workingDirectory").then(|| self.text("workingDirectory").map(Path::new))?
    }

    /// The first arguments of the app-server.
    pub fn server_args(&self) -> &[String] {
        match self.value("server.args") {
            Some(Value::Words(words)) => words,
            _ => &[],
        }
    }

    /// The umask of the app-server.
    pub fn umask(&self) -> u32 {
        self.text("umask").and_then(value::umask).unwrap_or(limits::SERVER_UMASK)
    }

    /// The umask, if this command's environment sets it: a supervisor reads the files alone.
    pub fn umask_of_environment(&self) -> Option<u32> {
        self.is_of_environment("umask").then(|| self.umask())
    }

    /// Where releases come from, if it is set.
    pub fn install_source(&self) -> Option<&str> {
        self.text("install.source")
    }

    /// The folders of the record of codexd.
    pub fn folders(&self) -> &RecordFolders {
        &self.folders
    }

    /// The text of a setting, if it has one.
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.value(key) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// The number of a setting, if it has one.
    pub fn integer(&self, key: &str) -> Option<u64> {
        match self.value(key) {
            Some(Value::Integer(number)) => Some(*number),
            _ => None,
        }
    }

    fn value(&self, key: &str) -> Option<&Value> {
        self.entries.iter().find(|entry| entry.setting.key == key).and_then(|entry| entry.value.as_ref())
    }

    fn is_of_environment(&self, key: &str) -> bool {
        let entry = self.entries.iter().find(|entry| entry.setting.key == key);
        entry.is_some_and(|entry| matches!(entry.origin, Origin::Variable(_) | Origin::Flag(_)))
    }

    fn is_set(&self, key: &str) -> bool {
        let entry = self.entries.iter().find(|entry| entry.setting.key == key);
        entry.is_some_and(|entry| entry.origin != Origin::Default)
    }
}

impl RecordFolders {
    fn unset() -> Self {
        let [repo_root, logs_root, state_root, logs, state] = [const { PathBuf::new() }; 5];
        Self { repo_root, logs_root, state_root, logs, state }
    }
}

#[cfg(test)]
pub(crate) use tests::samples;
