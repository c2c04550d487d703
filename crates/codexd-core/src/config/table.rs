//! The table of settings: the only place that names a key, its variables and its option. The reference in
//! docs/configuration.md is printed from it.

use super::facts::Fact;
use super::gateway::SubagentApprovals;
use super::value::Kind;
use crate::limits;

/// One setting.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Setting {
    /// Its name in the file and in answers; a dot parts a table from a key in it.
    pub key: &'static str,
    /// Its type and range.
    pub kind: Kind,
    /// What holds where it is not set.
    pub default: DefaultValue,
    /// The file that holds it.
    pub file: SettingFile,
    /// Environment variables; the first one that is set and not empty counts.
    pub variables: &'static [&'static str],
    /// The option of `codexd run` and `codexd config`, without dashes.
    pub flag: Option<&'static str>,
    /// When a change takes effect.
    pub effect: Effect,
    /// What it is, in one sentence.
    pub doc: &'static str,
}

/// What holds where a setting is not set.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DefaultValue {
    /// This value, in the form of the environment.
    Value(&'static str),
    /// A property of the machine or of the home.
    Fact(Fact),
    /// No value. The text says what that means.
    Unset(&'static str),
}

/// The file that holds a setting.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SettingFile {
    /// `CODEX_HOME/codexd.toml`.
    CodexdToml,
    /// `app-server-daemon/settings.json`, shared with upstream's daemon.
    SettingsJson,
}

/// When a change takes effect.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Effect {
    /// With the next command that uses it.
    NextCommand,
    /// With the next changing command, in the gateway that runs.
    NextChange,
    /// With `restart`, `reload` or another start of an app-server by a command.
    Restart,
    /// With the next start of an app-server, also one after a crash.
    ServerStart,
    /// With the next `codexd run`.
    NextRun,
    /// With the first start of an app-server after the next `bootstrap`.
    Bootstrap,
    /// No command of this version uses the value.
    NotYet,
    /// With `enable-remote-control` and `disable-remote-control` at once; else as `Restart`.
    RemoteControl,
    /// Upstream's updater reads it; codexd has no updater.
    Upstream,
}

impl Effect {
    /// The words for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Effect::NextCommand => "next command",
            Effect::NextChange => "next changing command",
            Effect::Restart => "`restart` or `reload`",
            Effect::ServerStart => "next start of an app-server, also after a crash",
            Effect::NextRun => "next `codexd run`",
            Effect::Bootstrap => "start of an app-server after `bootstrap`",
            Effect::NotYet => "not yet: no command of this version uses it",
            Effect::RemoteControl => "at once with the two commands, else `restart` or `reload`",
            Effect::Upstream => "never; upstream's updater reads it",
        }
    }
}

const TOML: SettingFile = SettingFile::CodexdToml;
const SHARED: SettingFile = SettingFile::SettingsJson;
const GRACE: Kind = Kind::Integer { min: 0, max: limits::SHUTDOWN_GRACE_MAX_SECONDS };
const UPSTREAM_GRACE: Kind = Kind::Integer { min: 0, max: limits::UPSTREAM_GRACE_MAX_SECONDS };
const EVENTS: Kind = Kind::Integer { min: 1, max: limits::EVENT_CACHE_MAX };
const LIFETIME: Kind = Kind::Integer { min: 1, max: limits::RUN_LIFETIME_MAX_MS };
const MEBIBYTES: Kind = Kind::Integer { min: 1, max: limits::MEMORY_CEILING_MAX_MIB };
const TASKS: Kind = Kind::Integer { min: 1, max: limits::TASKS_MAX };
const MINUTES: Kind = Kind::Integer { min: 1, max: limits::UPDATE_INTERVAL_MAX_MINUTES };

macro_rules! settings {
    ($($key:literal: $kind:expr, $default:expr, $file:expr, [$($variable:literal),*], $flag:expr, $effect:ident, $doc:literal;)+) => {
        /// Every setting, in the order of the reference.
        pub const SETTINGS: &[Setting] = &[$(Setting {
            key: $key,
            kind: $kind,
            default: $default,
            file: $file,
            variables: &[$($variable),*],
            flag: $flag,
            effect: Effect::$effect,
            doc: $doc,
        },)+];
    };
}

settings! {
    "codexBin": Kind::Program, DefaultValue::Unset("the managed Codex, else the one on `PATH`"), TOML,
        ["CODEXD_SERVER_COMMAND", "BAA_CODEXD_SERVER_COMMAND"], Some("server-command"), Restart,
        "The Codex to run: an absolute path, or a name that is looked up on `PATH`. `codex` means: as if not set.";
    "workingDirectory": Kind::Path, DefaultValue::Fact(Fact::UserHome), TOML,
        ["CODEXD_SERVER_CWD", "BAA_CODEXD_SERVER_CWD"], Some("server-cwd"), Restart,
        "The working directory of the app-server, and of threads whose client names none.";
    "umask": Kind::Umask, DefaultValue::Value("022"), TOML, ["CODEXD_UMASK"], None, ServerStart,
        "The umask of the app-server and its tools.";
    "stopGraceSeconds": GRACE, DefaultValue::Unset("`shutdownGraceSeconds`"), TOML,
        ["CODEXD_STOP_GRACE_SECONDS"], None, NextCommand,
        "The time that running turns have to finish in `stop` and `restart`, in seconds.";
    "memoryCeiling": MEBIBYTES, DefaultValue::Unset("no ceiling"), TOML, ["CODEXD_MEMORY_CEILING"], None, Restart,
        "The resident memory of the app-server, in MiB, above which it is replaced; running turns finish.";
    "service.memoryHigh": MEBIBYTES, DefaultValue::Unset("no limit"), TOML, ["CODEXD_SERVICE_MEMORY_HIGH"], None, Bootstrap,
        "The memory of an app-server and its tools, in MiB, above which systemd slows them down (`MemoryHigh`).";
    "service.memoryMax": MEBIBYTES, DefaultValue::Unset("no limit"), TOML, ["CODEXD_SERVICE_MEMORY_MAX"], None, Bootstrap,
        "The memory of an app-server and its tools, in MiB, above which the kernel ends one of them (`MemoryMax`).";
    "service.tasksMax": TASKS, DefaultValue::Unset("as systemd decides"), TOML, ["CODEXD_SERVICE_TASKS_MAX"], None, Bootstrap,
        "The number of processes and threads that an app-server and its tools may have (`TasksMax`).";
    "gateway.enabled": Kind::Bool, DefaultValue::Value("true"), TOML, ["CODEXD_GATEWAY_ENABLED"], None, Restart,
        "Whether the app-server is behind the gateway.";
    "gateway.listen": Kind::WebSocketUrl, DefaultValue::Unset("no TCP listener"), TOML,
        ["CODEXD_GATEWAY_LISTEN"], None, NextChange,
        "Where the gateway also listens for WebSocket clients on TCP.";
    "gateway.allowNonLoopback": Kind::Bool, DefaultValue::Value("false"), TOML,
        ["CODEXD_GATEWAY_ALLOW_NON_LOOPBACK"], None, NextChange,
        "Whether `gateway.listen` may be an address other than loopback.";
    "gateway.subagentApprovals": Kind::Choice(SubagentApprovals::WORDS), DefaultValue::Value("viewers"), TOML,
        ["CODEXD_GATEWAY_SUBAGENT_APPROVALS"], None, NextChange,
        "Which clients get the requests of a sub-agent: the viewers of its thread and of the threads that it descends from, or all clients.";
    "install.source": Kind::ReleaseSource, DefaultValue::Unset("the source of the current release, else `npm`, or `official` without one on `PATH`"), TOML,
        ["CODEXD_INSTALL_SOURCE"], None, NextCommand,
        "Where `install` gets Codex from: `npm`, `official` (the official server), `official:URL`, `script` (the official installer), `script:PATH`, `directory:PATH` with an unpacked release, or `file:PATH` with a package.";
    "server.mode": Kind::Choice(&["app-server", "exec"]), DefaultValue::Value("app-server"), TOML,
        ["CODEXD_MODE", "BAA_CODEXD_MODE"], Some("mode"), NextRun,
        "What `codexd run` runs: an app-server, or nothing (`exec`).";
    "server.strategy": Kind::Choice(&["spawn", "external"]), DefaultValue::Value("spawn"), TOML,
        ["CODEXD_SERVER_STRATEGY", "BAA_CODEXD_SERVER_STRATEGY"], Some("server-strategy"), NextRun,
        "Whether `codexd run` starts the app-server, or uses one that another program started.";
    "server.endpoint": Kind::Text, DefaultValue::Value("stdio://codex-app-server"), TOML,
        ["CODEXD_SERVER_ENDPOINT", "BAA_CODEXD_SERVER_ENDPOINT"], Some("server-endpoint"), NotYet,
        "The name of the endpoint of an app-server that another program started.";
    "server.args": Kind::Words, DefaultValue::Value("app-server"), TOML,
        ["CODEXD_SERVER_ARGS", "BAA_CODEXD_SERVER_ARGS"], Some("server-arg"), Restart,
        "The first arguments of the Codex that serves; codexd adds its own after them.";
    "nodeId": Kind::Text, DefaultValue::Fact(Fact::HostName), TOML,
        ["CODEXD_NODE_ID", "BAA_CODEXD_NODE_ID", "BAA_NODE_ID"], Some("node-id"), NextCommand,
        "The name of this node, in the answers of `status`, `config` and `run`.";
    "repoRoot": Kind::Path, DefaultValue::Fact(Fact::CodexHome), TOML,
        ["CODEXD_REPO_ROOT", "BAA_CODEXD_REPO_ROOT"], Some("repo-root"), NextCommand,
        "The repository that the answers of `status`, `config` and `run` name; the folders of logs and state are in it unless they are set.";
    "logsDir": Kind::Path, DefaultValue::Fact(Fact::LogsRoot), TOML,
        ["CODEXD_LOGS_DIR", "BAA_CODEXD_LOGS_DIR", "BAA_LOGS_DIR"], Some("logs-dir"), NextRun,
        "The folder in which `codexd run` links to the logs; `codexd/` is appended to it.";
    "stateDir": Kind::Path, DefaultValue::Fact(Fact::StateRoot), TOML,
        ["CODEXD_STATE_DIR", "BAA_CODEXD_STATE_DIR", "BAA_STATE_DIR"], Some("state-dir"), NextRun,
        "The state folder that `codexd run` creates; `codexd/` is appended to it.";
    "eventCacheSize": EVENTS, DefaultValue::Value("50"), TOML,
        ["CODEXD_EVENT_CACHE_SIZE", "BAA_CODEXD_EVENT_CACHE_SIZE"], Some("event-cache-size"), NotYet,
        "How many of the newest events the record of codexd has at hand.";
    "smokeLifetimeMs": LIFETIME, DefaultValue::Value("100"), TOML,
        ["CODEXD_SMOKE_LIFETIME_MS", "BAA_CODEXD_SMOKE_LIFETIME_MS"], Some("smoke-lifetime-ms"), NextRun,
        "How long `codexd run --run-once` runs, in milliseconds.";
    "versionLabel": Kind::Text, DefaultValue::Unset("no label"), TOML,
        ["CODEXD_VERSION_LABEL", "BAA_CODEXD_VERSION_LABEL", "BAA_CODEXD_VERSION"], Some("version-label"), NextCommand,
        "A version of your own, in the answers of `status`, `config` and `run`.";
    "remoteControlEnabled": Kind::Bool, DefaultValue::Value("false"), SHARED, [], None, RemoteControl,
        "Whether the app-server is started with remote control.";
    "shutdownGraceSeconds": UPSTREAM_GRACE, DefaultValue::Value("60"), SHARED, [], None, NextCommand,
        "The same as `stopGraceSeconds`, also for upstream's daemon.";
    "updater.autoUpdateEnabled": Kind::Bool, DefaultValue::Unset("as upstream decides"), SHARED, [], None, Upstream,
        "Whether upstream's daemon updates Codex.";
    "updater.updateIntervalMinutes": MINUTES, DefaultValue::Unset("as upstream decides"), SHARED, [], None, Upstream,
        "How often upstream's daemon looks for an update, in minutes.";
}

/// The setting of a key.
pub fn find(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}

/// The key of codexd.toml that is nearest to one that is not there.
pub fn nearest_key(key: &str) -> Option<&'static str> {
    // The name of a table leads to its first key.
    let inside =
        SETTINGS.iter().find(|setting| setting.key.split_once('.').is_some_and(|(table, _)| table == key));
    let near = || super::suggest::nearest(key, SETTINGS.iter().map(|setting| setting.key));
    inside.map(|setting| setting.key).or_else(near)
}

#[cfg(test)]
mod tests {
    use super::{DefaultValue, SETTINGS, SettingFile};
    use std::collections::HashSet;

    #[test]
    fn no_key_variable_or_option_stands_for_two_settings() {
        let mut names = HashSet::new();
        for setting in SETTINGS {
            let flag = setting.flag.map(|flag| format!("--{flag}"));
            let all = [setting.key.to_owned()].into_iter().chain(flag);
            for name in all.chain(setting.variables.iter().map(|name| (*name).to_owned())) {
                assert!(names.insert(name.clone()), "{name} twice");
            }
        }
    }

    #[test]
    fn every_key_of_the_file_has_a_variable_and_every_default_is_valid() {
        for setting in SETTINGS {
            let is_ours = setting.file == SettingFile::CodexdToml;
            let first = setting.variables.first().is_some_and(|name| name.starts_with("CODEXD_"));
            assert_eq!(first, is_ours, "{}", setting.key);
            assert!(setting.doc.ends_with('.') && setting.doc.len() > 10, "{}", setting.key);
            if let DefaultValue::Value(text) = setting.default {
                assert!(setting.kind.from_text(text).is_ok(), "{}", setting.key);
            }
        }
    }

    #[test]
    fn the_name_of_a_table_leads_to_a_key_in_it() {
        assert_eq!(super::nearest_key("gateway"), Some("gateway.enabled"));
        assert_eq!(super::nearest_key("stopGraceSecond"), Some("stopGraceSeconds"));
    }
}
