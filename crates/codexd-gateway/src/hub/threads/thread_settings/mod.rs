//! What a thread was given by its clients and what an app-server does not restore from disk.
//!
//! Observed with a plain `thread/resume` in a fresh app-server: 0.169.0 and 0.171.0 lose the thread's `config`, its
//! `environments`, `experimentalRawEvents`, and a sandbox of the type `workspaceWrite`, which becomes what the user's
//! configuration says, even `dangerFullAccess`. 0.131.0 also loses `approvalPolicy`, `approvalsReviewer`, every sandbox,
//! `permissions`, `serviceTier`, `runtimeWorkspaceRoots`, and a `cwd` that a turn has changed. What is in effect is
//! given again in every `thread/resume` that the gateway composes ([`ThreadSettings::add_to_resume`]).
//!
//! A `config` may hold credentials: it is never written to disk, and not shown by `Debug`.

pub(in crate::hub) mod lifecycle;

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::hub::event::{Now, ServerId};

/// Keys of `config` whose effective value is restored from disk, or sent separately: as part of `config` they would
/// override a client's later changes.
const RESTORED: [&str; 13] = [
    "approval_policy",
    "approvals_reviewer",
    "default_permissions",
    "developer_instructions",
    "instructions",
    "model",
    "model_provider",
    "model_reasoning_effort",
    "model_reasoning_summary",
    "personality",
    "sandbox_mode",
    "sandbox_workspace_write",
    "service_tier",
];

/// Members of the responses to `thread/start`, `thread/resume` and `thread/fork` with the effective settings.
const IN_EFFECT: [&str; 10] = [
    "activePermissionProfile",
    "approvalPolicy",
    "approvalsReviewer",
    "cwd",
    "model",
    "modelProvider",
    "reasoningEffort",
    "runtimeWorkspaceRoots",
    "sandbox",
    "serviceTier",
];

/// Parameters of `thread/start` and `thread/fork` that no later request can restore.
const GIVEN_ONCE: [&str; 2] = ["deferGoalContinuation", "experimentalRawEvents"];

/// The settings of one thread.
#[derive(Clone, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ThreadSettings {
    /// The thread's own `config`, without [`RESTORED`].
    #[serde(skip_serializing_if = "Map::is_empty")]
    config: Map<String, Value>,
    /// Effective settings under the names of [`IN_EFFECT`], and `environments`.
    #[serde(skip_serializing_if = "Map::is_empty")]
    in_effect: Map<String, Value>,
    /// Names of parameters that cannot be restored on the next app-server. Viewers are warned then.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    not_restorable: BTreeSet<String>,
    /// A warning for the next viewer; `None` if it was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<String>,
    /// The app-server that has the thread loaded.
    #[serde(skip)]
    loaded_in: Option<ServerId>,
    /// The thread was unloaded by a migration or a crash while no client watched it. A client that resumes it before
    /// this time gets it with these settings.
    #[serde(skip)]
    parked_until: Option<Now>,
}

impl fmt::Debug for ThreadSettings {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<&String> = self.config.keys().collect();
        out.debug_struct("ThreadSettings").field("config", &keys).finish_non_exhaustive()
    }
}

impl ThreadSettings {
    /// From the parameters of a client's `thread/start`, `thread/fork` or `thread/resume` of a thread that was not loaded.
    pub(in crate::hub) fn of_request(params: &Value) -> Self {
        let mut settings = Self::default();
        match params {
            Value::Object(params) => {
                if let Some(Value::Object(config)) = params.get("config") {
                    let is_kept = |key: &str| {
                        let table = key.split('.').next().unwrap_or(key);
                        !RESTORED.contains(&table)
                    };
                    let kept = config.iter().filter(|(key, _)| is_kept(key));
                    settings.config = kept.map(|(key, value)| (key.clone(), value.clone())).collect();
                }
                // It was too large and was dropped before the response.
                if params.get("config") == Some(&Value::Bool(true)) {
                    settings.not_restorable.insert("config".to_owned());
                }
                let is_given = |name: &&&str| params.get(**name) == Some(&Value::Bool(true));
                let given = GIVEN_ONCE.iter().filter(is_given).map(|name| (*name).to_owned());
                settings.not_restorable.extend(given);
                if params.get("environments").is_some_and(|given| !given.is_null()) {
                    settings.not_restorable.insert("environments".to_owned());
                }
            }
            // Upstream accepts positional parameters; their order differs between releases.
            Value::Array(values) if values.len() > 1 => {
                settings.not_restorable.insert("config".to_owned());
            }
            _ => {}
        }
        settings
    }

    /// Settings of a thread that was loaded before this gateway started, if the previous one stored none.
    pub(in crate::hub) fn unknown() -> Self {
        Self { not_restorable: BTreeSet::from(["config".to_owned()]), ..Self::default() }
    }

    /// Applies the response to `thread/start`, `thread/resume` or `thread/fork`.
    pub(in crate::hub) fn learn_answer(&mut self, result: &Value) {
        for name in IN_EFFECT {
            if let Some(value) = result.get(name) {
                self.in_effect.insert(name.to_owned(), value.clone());
            }
        }
        if let Some(environments) =
            result.pointer("/thread/environments").filter(|reported| reported.is_array())
        {
            self.in_effect.insert("environments".to_owned(), environments.clone());
            self.not_restorable.remove("environments");
        }
    }

    /// Applies the `threadSettings` of `thread/settings/updated`.
    pub(in crate::hub) fn learn_update(&mut self, update: &Value) {
        for name in IN_EFFECT {
            let name_in_update = match name {
                "sandbox" => "sandboxPolicy",
                "reasoningEffort" => "effort",
                name => name,
            };
            if let Some(value) = update.get(name_in_update) {
                self.in_effect.insert(name.to_owned(), value.clone());
            }
        }
        if let Some(environments) = update.get("environments").filter(|reported| reported.is_array()) {
            // The roots are those of the first environment.
            let roots =
                environments.pointer("/0/runtimeWorkspaceRoots").cloned().unwrap_or_else(|| json!([]));
            self.in_effect.insert("runtimeWorkspaceRoots".to_owned(), roots);
            self.in_effect.insert("environments".to_owned(), environments.clone());
        }
    }

    /// Applies the parameters of a turn that also hold for later turns. App-servers that report environments report
    /// these by `thread/settings/updated`.
    pub(in crate::hub) fn learn_turn(&mut self, params: &Value) {
        if self.in_effect.contains_key("environments") {
            return;
        }
        let given = |name: &str| params.get(name).filter(|value| !value.is_null()).cloned();
        for name in ["approvalPolicy", "approvalsReviewer", "cwd", "runtimeWorkspaceRoots", "serviceTier"] {
            self.in_effect.extend(given(name).map(|value| (name.to_owned(), value)));
        }
        if let Some(sandbox) = given("sandboxPolicy") {
            self.in_effect.remove("activePermissionProfile");
            self.in_effect.insert("sandbox".to_owned(), sandbox);
        }
        if let Some(profile) = given("permissions") {
            self.in_effect.insert("activePermissionProfile".to_owned(), json!({"id": profile}));
        }
        if given("environments").is_some() {
            self.not_restorable.insert("environments".to_owned());
        }
    }

    /// A turn has started: parameters for the first turn do not apply any longer. Returns whether that changed
    /// anything.
    pub(in crate::hub) fn turn_began(&mut self) -> bool {
        self.not_restorable.remove("deferGoalContinuation")
    }

    /// Adds to a `thread/resume` what restores the settings on another app-server. One that has the thread loaded
    /// ignores these members (0.131.0 to 0.171.0).
    pub(in crate::hub) fn add_to_resume(&self, params: &mut Map<String, Value>) {
        for name in ["approvalPolicy", "approvalsReviewer", "cwd", "runtimeWorkspaceRoots", "serviceTier"] {
            let is_reported =
                |value: &&Value| !value.is_null() && value.as_array().is_none_or(|all| !all.is_empty());
            if let Some(value) = self.in_effect.get(name).filter(is_reported) {
                params.insert(name.to_owned(), value.clone());
            }
        }
        let mut config = self.config.clone();
        let profile = self.in_effect.get("activePermissionProfile").and_then(|profile| profile.get("id"));
        if let Some(profile) = profile {
            params.insert("permissions".to_owned(), profile.clone());
        } else if let Some((mode, details)) = self.in_effect.get("sandbox").and_then(sandbox_mode) {
            params.insert("sandbox".to_owned(), mode.into());
            config.extend(details.map(|details| ("sandbox_workspace_write".to_owned(), details)));
        }
        if !config.is_empty() {
            params.insert("config".to_owned(), Value::Object(config));
        }
    }

    /// Compares with the settings on another app-server. Returns the names of lost settings, and the environments to
    /// restore by `thread/settings/update`.
    fn compare(&mut self, result: &Value) -> (BTreeSet<String>, Option<Value>) {
        let mut now = Self::default();
        now.learn_answer(result);
        let mut lost = std::mem::take(&mut self.not_restorable);
        let differs = |name: &&&str| {
            let (before, now) = (self.in_effect.get(**name), now.in_effect.get(**name));
            before.is_some_and(|before| now.is_some_and(|now| essence(name, before) != essence(name, now)))
        };
        lost.extend(IN_EFFECT.iter().filter(differs).map(|name| (*name).to_owned()));
        let before = self.in_effect.get("environments");
        let environments =
            before.filter(|before| now.in_effect.get("environments").is_some_and(|now| now != *before));
        (lost, environments.cloned())
    }
}

/// The part of a member that is compared: upstream adds its own folders to lists of roots.
fn essence(name: &str, value: &Value) -> Value {
    match name {
        "sandbox" => json!([value.get("type"), value.get("networkAccess")]),
        "activePermissionProfile" => json!(value.get("id")),
        "runtimeWorkspaceRoots" => Value::Null,
        _ => value.clone(),
    }
}

/// A sandbox policy as a mode, with details for the table `sandbox_workspace_write`; `None` if no mode expresses it.
fn sandbox_mode(policy: &Value) -> Option<(&'static str, Option<Value>)> {
    match policy.get("type")?.as_str()? {
        "readOnly" if policy.get("networkAccess") != Some(&Value::Bool(true)) => Some(("read-only", None)),
        "dangerFullAccess" => Some(("danger-full-access", None)),
        "workspaceWrite" => {
            let is_set = |name: &str| policy.get(name).and_then(Value::as_bool).unwrap_or(false);
            let details = json!({
                "writable_roots": policy.get("writableRoots").cloned().unwrap_or_else(|| json!([])),
                "network_access": is_set("networkAccess"),
                "exclude_tmpdir_env_var": is_set("excludeTmpdirEnvVar"),
                "exclude_slash_tmp": is_set("excludeSlashTmp"),
            });
            Some(("workspace-write", Some(details)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::ThreadSettings;

    #[test]
    fn debug_shows_no_value_of_a_config() {
        let config = json!({"mcp_servers": {"s": {"env": {"TOKEN": "secret"}}}});
        let settings = ThreadSettings::of_request(&json!({"config": config}));
        let shown = format!("{settings:?}");
        assert!(shown.contains("mcp_servers") && !shown.contains("secret"), "{shown}");
    }
}
