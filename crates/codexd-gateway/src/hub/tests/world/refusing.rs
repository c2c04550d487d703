//! What keeps app-servers from loading threads until somebody mends it, as 0.131.0, 0.169.0 and 0.171.0 have it: what is
//! loaded stays so and works; only loads and the questions about the configuration are refused.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::summary::summary;
use super::World;
use crate::hub::ServerId;

/// What is wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Obstacle {
    /// config.toml cannot be loaded.
    Config,
    /// The provider of every second thread is not configured.
    Provider,
    /// A required MCP server does not start.
    RequiredServer,
    /// No app-server can read a rollout, which nothing tells but the load itself.
    Rollouts,
    /// The same, but only in app-servers from this one on.
    RolloutsFrom(ServerId),
}

impl Obstacle {
    pub fn code_of(message: &str) -> i64 {
        let is_internal = message.starts_with("failed to read") || message.starts_with("error ");
        if is_internal { -32603 } else { -32600 }
    }

    pub fn provider_of(thread: &str) -> &'static str {
        let number = thread.trim_start_matches('t').parse().unwrap_or(0_u64);
        if number.is_multiple_of(2) { "special" } else { "usual" }
    }
}

impl World {
    /// Why a server refuses something, if it does.
    pub(super) fn obstructed(&self, server: ServerId, method: &str, params: &Value) -> Option<String> {
        let thread = params["threadId"].as_str().unwrap_or_default();
        let loaded = self.servers.get(&server).is_some_and(|model| model.threads.contains_key(thread));
        let provider = match method {
            "thread/start" => params["modelProvider"].as_str().unwrap_or("usual"),
            "thread/resume" if !loaded && self.disk.contains_key(thread) => Obstacle::provider_of(thread),
            "config/read" => "usual",
            _ => return None,
        };
        let reads_rollout = method == "thread/resume";
        match self.obstacle? {
            Obstacle::Config if method == "config/read" => {
                Some("failed to read configuration layers: /h/config.toml:1:1: invalid".into())
            }
            Obstacle::Config => Some("failed to load configuration: /h/config.toml:1:1: invalid".into()),
            Obstacle::Provider if provider == "special" => Some(
                "This chat uses model provider \u{201c}special\u{201d}, which is no longer configured."
                    .into(),
            ),
            Obstacle::RequiredServer if method != "config/read" => Some(
                "error resuming thread: Fatal error: required MCP servers failed to initialize: a".into(),
            ),
            Obstacle::Rollouts if reads_rollout => Some("failed to read thread: cannot be read".into()),
            Obstacle::RolloutsFrom(first) if reads_rollout && server >= first => {
                Some("failed to read thread: cannot be read".into())
            }
            _ => None,
        }
    }

    pub(super) fn config(&self) -> Value {
        let providers = match self.obstacle {
            Some(Obstacle::Provider) => json!({}),
            _ => json!({"special": {}}),
        };
        let required = self.obstacle == Some(Obstacle::RequiredServer);
        json!({"model_provider": "usual", "model_providers": providers,
            "mcp_servers": {"a": {"required": required, "enabled": true}}})
    }

    /// For as long as anything is tried: what is on disk and watched is known, whoever refuses to load it. Then the obstacle goes.
    ///
    /// # Errors
    /// A thread is lost.
    pub fn outlast_the_obstacle(&mut self) -> Result<(), TestCaseError> {
        self.settle_for(45_000);
        for (id, seen) in self.clients.iter().filter(|(_, seen)| !seen.left) {
            for thread in seen.watching.iter().filter(|thread| self.disk.contains_key(*thread)) {
                let is_known = self.hub.threads.contains_key(thread);
                prop_assert!(is_known, "{id:?} watches {thread}, which is lost: {}", summary(&self.hub));
            }
        }
        self.obstacle = None;
        Ok(())
    }
}
