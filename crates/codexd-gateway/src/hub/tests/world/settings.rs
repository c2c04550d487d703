//! What a thread is loaded with, as app-server 0.171.0 was seen to understand it.

use serde_json::{Value, json};

/// The settings of a thread that is loaded.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub config: Value,
    pub sandbox: Value,
    pub environments: Value,
}

impl Default for Settings {
    fn default() -> Self {
        Self::given(&Value::Null)
    }
}

impl Settings {
    /// From the parameters of `thread/start` or of a `thread/resume` that loads the thread. What is not given is as the user's
    /// configuration has it: here without a sandbox. Only `thread/start` takes environments.
    pub fn given(params: &Value) -> Self {
        let table = &params["config"]["sandbox_workspace_write"];
        let sandbox = match params["sandbox"].as_str() {
            Some("workspace-write") => {
                json!({"type": "workspaceWrite", "networkAccess": table["network_access"] == true,
                "writableRoots": table.get("writable_roots").cloned().unwrap_or_else(|| json!([]))})
            }
            Some("read-only") => json!({"type": "readOnly", "networkAccess": false}),
            _ => json!({"type": "dangerFullAccess"}),
        };
        let mut config = params["config"].clone();
        if let Some(config) = config.as_object_mut() {
            config.remove("sandbox_workspace_write");
        }
        let is_start = params.get("threadId").is_none();
        let given = params.get("environments").filter(|given| is_start && given.is_array());
        let environments = given.cloned().unwrap_or_else(|| json!([{"environmentId": "local"}]));
        Self { config, sandbox, environments }
    }
}
