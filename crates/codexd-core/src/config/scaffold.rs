//! The configuration object of the scaffold that codexd grew from, under the scaffold's names.

use serde_json::{Value as Json, json};

use super::Config;

impl Config {
    /// The configuration object of the scaffold.
    pub fn scaffold(&self) -> Json {
        let folders = &self.folders;
        let shown = |path: &std::path::Path| path.to_string_lossy().into_owned();
        let log = |name: &str| shown(&folders.logs.join(name));
        let state = |name: &str| shown(&folders.state.join(name));
        json!({
            "nodeId": self.text("nodeId").unwrap_or("localhost"),
            "version": self.text("versionLabel"),
            "paths": {
                "repoRoot": shown(&folders.repo_root),
                "logsRootDir": shown(&folders.logs_root),
                "stateRootDir": shown(&folders.state_root),
                "logsDir": shown(&folders.logs),
                "stateDir": shown(&folders.state),
                "structuredEventLogPath": log("events.jsonl"),
                "stdoutLogPath": log("stdout.log"),
                "stderrLogPath": log("stderr.log"),
                "identityPath": state("identity.json"),
                "daemonStatePath": state("daemon-state.json"),
                "sessionRegistryPath": state("session-registry.json"),
                "recentEventsPath": state("recent-events.json"),
            },
            "server": {
                "mode": self.text("server.mode"),
                "childStrategy": self.text("server.strategy"),
                "childCommand": self.text("codexBin").unwrap_or("codex"),
                "childArgs": self.server_args(),
                "childCwd": self.text("workingDirectory"),
                "endpoint": self.text("server.endpoint"),
            },
            "eventCacheSize": self.integer("eventCacheSize"),
            "smokeLifetimeMs": self.integer("smokeLifetimeMs"),
        })
    }
}
