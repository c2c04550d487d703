//! The `config.toml` of a home.

use std::fmt::Write;
use std::path::Path;

use crate::MockModel;

/// What a home's `config.toml` says.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the Responses API is, up to and without the last `/responses`.
    pub model_url: String,
    /// `model_provider`, and the name of its table.
    pub provider: String,
    /// `approval_policy`.
    pub approval_policy: String,
    /// `sandbox_mode`.
    pub sandbox_mode: String,
    /// More top-level lines, such as `thread_unload_delay_secs = 0`.
    pub top_level: String,
    /// More tables, after all others.
    pub tables: String,
}

impl Default for Config {
    /// A model at a port without a listener.
    fn default() -> Self {
        Config {
            model_url: "http://127.0.0.1:9/v1".to_owned(),
            provider: "mock".to_owned(),
            approval_policy: "on-request".to_owned(),
            sandbox_mode: "workspace-write".to_owned(),
            top_level: String::new(),
            tables: String::new(),
        }
    }
}

impl Config {
    /// The configuration that lets `model` answer the turns.
    pub fn for_model(model: &MockModel) -> Config {
        Config { model_url: model.url(), ..Config::default() }
    }

    /// The file's text, trusting the folder `work`.
    pub(super) fn to_toml(&self, work: &Path) -> String {
        let quoted = |text: &str| serde_json::to_string(text).expect("a string is always JSON");
        let provider = &self.provider;
        let mut text = format!("model = \"mock-model\"\nmodel_provider = \"{provider}\"\n");
        let mut line = |args: std::fmt::Arguments<'_>| {
            text.write_fmt(args).expect("a String takes everything");
            text.push('\n');
        };
        line(format_args!("approval_policy = {}", quoted(&self.approval_policy)));
        line(format_args!("sandbox_mode = {}", quoted(&self.sandbox_mode)));
        line(format_args!("check_for_update_on_startup = false"));
        // What lies above the folder of a test, such as a forgotten /tmp/.codex, is not its project.
        line(format_args!("project_root_markers = []"));
        line(format_args!("{}", self.top_level));
        line(format_args!("[model_providers.{provider}]\nname = \"mock\"\nwire_api = \"responses\""));
        line(format_args!("base_url = {}", quoted(&self.model_url)));
        line(format_args!("request_max_retries = 0\nstream_max_retries = 0"));
        line(format_args!("[analytics]\nenabled = false"));
        line(format_args!("[projects.{}]\ntrust_level = \"trusted\"", quoted(&work.to_string_lossy())));
        line(format_args!("{}", self.tables));
        text
    }
}
