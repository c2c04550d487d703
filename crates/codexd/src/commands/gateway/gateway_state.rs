//! `gateway.json`: what the gateway publishes about itself for `status` and for the next command.

use std::path::PathBuf;

use codexd_core::config::SubagentApprovals;
use codexd_core::identity::Process;
use codexd_gateway::state_writer::StateWriter;
use codexd_host::Home;
use codexd_host::atomic::{self, Durability};
use serde_json::{Map, Value, json};
use tokio::sync::oneshot;

/// The members of a report that are published.
const PUBLISHED: [&str; 3] = ["handover", "notLoaded", "listener"];

/// The file and its contents.
#[derive(Debug)]
pub struct GatewayStateFile {
    path: PathBuf,
    gateway: Process,
    state_writer: StateWriter,
    contents: Map<String, Value>,
}

impl GatewayStateFile {
    /// The file of `gateway`, which is not written yet.
    pub fn new(home: &Home, gateway: Process, state_writer: StateWriter) -> Self {
        Self { path: home.gateway_state(), gateway, state_writer, contents: Map::new() }
    }

    /// Writes the published members of `report`, if it has any, and the settings in force. Returns after the write, because a client
    /// of the supervisor reads the file as soon as it gets the report. A write that fails is ignored.
    pub async fn write(&mut self, report: &Value, subagent_approvals: SubagentApprovals) {
        let published = PUBLISHED.iter().filter_map(|&name| Some((name, report.get(name)?)));
        let published: Vec<(&str, &Value)> = published.collect();
        if published.is_empty() {
            return;
        }
        self.contents.insert("gateway".to_owned(), json!(self.gateway));
        self.contents.insert("subagentApprovals".to_owned(), subagent_approvals.as_str().into());
        for (name, value) in published {
            self.contents.insert(name.to_owned(), value.clone());
        }
        let contents = Value::Object(self.contents.clone()).to_string();
        let (path, (done, is_done)) = (self.path.clone(), oneshot::channel());
        self.state_writer.replace("gateway.json", move || {
            let _ = atomic::replace(&path, contents.as_bytes(), Durability::Process);
            let _ = done.send(());
        });
        let _ = is_done.await;
    }
}
