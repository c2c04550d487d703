//! What of a thread decides whether an app-server loads it: its working directory and its model provider.

use serde_json::value::RawValue;

use crate::hub::text;

/// The profile of a thread. Threads with the same profile load, or are refused, together.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Profile {
    pub cwd: Option<Box<str>>,
    pub provider: Option<Box<str>>,
}

impl Profile {
    /// Whether only a load shows if a thread loads, after `config/read` succeeded: its result does not name the
    /// provider, or an MCP server is required.
    pub fn only_a_load_tells(&self, result: &str) -> bool {
        let Some(config) = text::member(result, "config").map(RawValue::get) else { return false };
        let current = text::string(config, "model_provider");
        let current = current.as_deref().unwrap_or(DEFAULT_PROVIDER);
        let is_named = |provider: &str| {
            let providers = text::member(config, "model_providers");
            provider == current || providers.is_some_and(|all| text::member(all.get(), provider).is_some())
        };
        let servers = text::member(config, "mcp_servers").map(RawValue::get).unwrap_or("{}");
        let is_set = |server: &RawValue, name: &str, to: &str| {
            text::member(server.get(), name).is_some_and(|flag| flag.get() == to)
        };
        let is_required =
            |server: &RawValue| is_set(server, "required", "true") && !is_set(server, "enabled", "false");
        self.provider.as_deref().is_some_and(|provider| !is_named(provider))
            || text::members(servers).iter().any(|(_, server)| is_required(server))
    }
}

/// Upstream's provider if the configuration names none. `config/read` fails if the configured one does not exist.
const DEFAULT_PROVIDER: &str = "openai";

#[cfg(test)]
mod tests {
    use super::Profile;
    use serde_json::json;

    #[test]
    fn only_an_unnamed_provider_or_a_required_mcp_server_takes_a_load() {
        let profile = Profile { cwd: None, provider: Some("m".into()) };
        let takes =
            |config: serde_json::Value| profile.only_a_load_tells(&json!({"config": config}).to_string());
        assert!(!takes(json!({"model_provider": "m"})));
        assert!(!takes(json!({"model_provider": "x", "model_providers": {"m": {}}})));
        assert!(takes(json!({"model_provider": "x", "model_providers": {"y": {}}})));
        assert!(takes(json!({"model_provider": null})));
        let server = |required: bool, enabled: bool| json!({"model_provider": "m", "mcp_servers": {"a": {"required": required, "enabled": enabled}}});
        assert!(takes(server(true, true)) && !takes(server(false, true)) && !takes(server(true, false)));
        let openai = Profile { cwd: None, provider: Some("openai".into()) };
        assert!(!openai.only_a_load_tells(r#"{"config":{"model_provider":null,"model_providers":{}}}"#));
    }
}
