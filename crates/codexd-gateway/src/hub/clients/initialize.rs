//! `initialize` of a client: answered from what the app-server reported, or by the app-server on the client's
//! dedicated connection.

use codexd_protocol::envelope::INVALID_REQUEST;

use crate::hub::clients::client::{InitializeParams, Stage, is_positional};
use crate::hub::event::{Action, ClientId, Connection, ServerId, Text};
use crate::hub::refusal::{Refusal, is_transient};
use crate::hub::text::unavailable;
use crate::hub::{Hub, Timer, text};
use crate::limits::QUEUED_MAX_MS;
use crate::routes;

/// The client name of readiness probes. It never becomes the client name of an app-server process.
pub(in crate::hub) const DAEMON: &str = "codex_app_server_daemon";

impl Hub {
    pub(in crate::hub) fn on_initialize(&mut self, id: ClientId, raw_id: &str, params: Option<&str>) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        if !matches!(client.stage, Stage::New) {
            return self
                .send_to_client(id, text::error(raw_id, INVALID_REQUEST, "Already initialized", None));
        }
        let params = params.unwrap_or("{}");
        if is_positional(params) {
            let message =
                "Invalid request: the params of initialize, clientInfo and capabilities must be objects";
            return self.send_to_client(id, text::error(raw_id, INVALID_REQUEST, message, None));
        }
        self.out.push(Action::Admit(id));
        client.initialize_params = Some(params.into());
        let read = InitializeParams::read(params);
        let plain = read.as_ref().is_some_and(|read| read.plain);
        client.stage = Stage::Initializing { id: raw_id.into(), asks_upstream: !plain };
        if let Some(read) = read {
            client.capabilities = read.capabilities;
            if plain && read.name != DAEMON {
                self.adopt_identity(params);
            }
        }
        self.set_timer(QUEUED_MAX_MS, Timer::InitializeTimeout(id));
        self.answer_initialize(id);
    }

    pub(in crate::hub) fn answer_waiting_initializes(&mut self) {
        let asked = |client: &&crate::hub::clients::client::Client| {
            matches!(client.stage, Stage::Initializing { .. })
        };
        let mut waiting: Vec<ClientId> =
            self.clients.values().filter(asked).map(|client| client.id).collect();
        waiting.sort_unstable();
        for id in waiting {
            self.answer_initialize(id);
        }
    }

    /// Answers a client's `initialize` as soon as an app-server's result is known.
    fn answer_initialize(&mut self, id: ClientId) {
        let Some(client) = self.clients.get(&id) else { return };
        let Stage::Initializing { id: raw_id, asks_upstream } = client.stage.clone() else { return };
        if asks_upstream {
            return self.open_dedicated(id);
        }
        let Some(params) = client.initialize_params.clone() else { return };
        let Some(read) = InitializeParams::read(&params) else { return };
        let Some(result) = self.initialize_result_for(&read.name, &read.version, read.name == DAEMON) else {
            return;
        };
        self.set_ready(id);
        self.send_to_client(id, text::result(&raw_id, &result));
        self.send_connect_notifications(id);
        self.join_run_queue(id);
    }

    /// No app-server has answered in time: the client may retry.
    pub(in crate::hub) fn on_client_initialize_timeout(&mut self, id: ClientId) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let Stage::Initializing { id: raw_id, .. } = client.stage.clone() else { return };
        client.stage = Stage::New;
        client.initialize_params = None;
        // A connection with these parameters must not be used for the next `initialize`.
        if let Some(server) = client.dedicated.current() {
            client.dedicated.lost(server);
            self.out.push(Action::Close(Connection::Dedicated(id, server)));
        }
        self.send_to_client(id, unavailable(&raw_id));
    }

    fn set_ready(&mut self, id: ClientId) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.stage = Stage::Ready;
        }
    }

    /// Opens a client's dedicated connection to the serving app-server if there is none.
    pub(in crate::hub) fn open_dedicated(&mut self, id: ClientId) {
        let Some(server) =
            self.servers.serving().or_else(|| self.servers.current().filter(|_| self.is_ready()))
        else {
            return;
        };
        let Some(client) = self.clients.get_mut(&id) else { return };
        let (of, backoff) = client.dedicated_backoff;
        if client.dedicated.current().is_none() && of == Some(server) && !backoff.may_try(self.now) {
            return;
        }
        let Some(params) = client.initialize_params.clone() else { return };
        let Some(switched) = client.dedicated.begin(server) else { return };
        if let Some(before) = switched.close {
            self.out.push(Action::Close(Connection::Dedicated(id, before)));
        }
        if switched.connect {
            self.out.push(Action::Connect(Connection::Dedicated(id, server), dedicated_initialize(&params)));
        } else {
            // It was draining in favor of an app-server that is gone, and stayed open.
            self.replay_requests(id, server);
            self.changes.dedicated_released(id);
        }
    }

    pub(in crate::hub) fn on_dedicated_opened(&mut self, id: ClientId, server: ServerId, result: &Text) {
        let Some(client) = self.clients.get_mut(&id) else {
            return self.out.push(Action::Close(Connection::Dedicated(id, server)));
        };
        if !client.dedicated.opened(server) {
            return;
        }
        client.dedicated_backoff.1.opened(self.now);
        if let Stage::Initializing { id: raw_id, .. } = client.stage.clone() {
            let params = client.initialize_params.clone().unwrap_or_default();
            self.set_ready(id);
            self.send_to_client(id, text::result(&raw_id, result));
            self.send_connect_notifications(id);
            self.adopt_identity(&params);
            self.join_run_queue(id);
        }
        self.replay_requests(id, server);
        self.changes.dedicated_released(id);
    }

    pub(in crate::hub) fn on_dedicated_refused(&mut self, id: ClientId, server: ServerId, error: &Text) {
        if is_transient(error) || Refusal::of(error) == Refusal::Draining {
            // The app-server is overloaded or draining.
            return self.on_connection_lost(Connection::Dedicated(id, server));
        }
        let Some(client) = self.clients.get_mut(&id) else { return };
        if !client.dedicated.lost(server) {
            return;
        }
        if let Stage::Initializing { id: raw_id, .. } = client.stage.clone() {
            // As upstream does: the client may try again.
            client.stage = Stage::New;
            client.initialize_params = None;
            self.send_to_client(id, format!(r#"{{"error":{error},"id":{raw_id}}}"#).into());
        } else {
            self.refuse_queued_dedicated(id, error);
        }
        self.changes.dedicated_released(id);
    }
}

/// The client's `initialize`, opted out of everything that the shared connection delivers.
fn dedicated_initialize(params: &str) -> Text {
    let capabilities = text::member(params, "capabilities").map(serde_json::value::RawValue::get);
    let mut members = text::members(capabilities.unwrap_or("{}"));
    let theirs = members.iter().position(|(name, _)| name == "optOutNotificationMethods");
    let theirs = theirs.map(|at| members.remove(at).1.get());
    let theirs: Vec<String> = theirs.and_then(|raw| serde_json::from_str(raw).ok()).unwrap_or_default();
    let names: Vec<String> = theirs.into_iter().chain(routes::sent_by_hub().map(str::to_owned)).collect();
    let mut merged = String::from("{");
    for (name, value) in members {
        merged.push_str(&format!("{}:{},", serde_json::Value::from(name), value.get()));
    }
    merged.push_str(&format!(r#""optOutNotificationMethods":{}}}"#, serde_json::Value::from(names)));
    let params = match capabilities {
        Some(capabilities) => text::splice(params, capabilities, &merged),
        None => with_member(params, "capabilities", &merged),
    };
    format!(r#"{{"id":0,"method":"initialize","params":{params}}}"#).into()
}

/// A JSON object with one more member.
fn with_member(object: &str, name: &str, value: &str) -> Text {
    let Some(end) = object.rfind('}').filter(|_| object.trim_start().starts_with('{')) else {
        return object.into();
    };
    let comma = if text::members(object).is_empty() { "" } else { "," };
    format!(r#"{}{comma}"{name}":{value}}}"#, &object[..end]).into()
}

#[cfg(test)]
mod tests {
    use super::dedicated_initialize;

    #[test]
    fn own_links_opt_out_of_what_the_shared_one_tells() {
        for params in [
            r#"{"clientInfo":{"name":"a","version":"1"}}"#,
            r#"{"clientInfo":{"name":"a","version":"1"},"capabilities":null}"#,
            r#"{"capabilities":{"x":1,"optOutNotificationMethods":["mine"]},"clientInfo":{}}"#,
        ] {
            let text = dedicated_initialize(params);
            let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            let names =
                value["params"]["capabilities"]["optOutNotificationMethods"].as_array().expect("names");
            assert!(names.iter().any(|name| name == "item/agentMessage/delta"), "{text}");
            assert_eq!(names.iter().any(|name| name == "mine"), params.contains("mine"));
            assert!(value["params"]["clientInfo"].is_object());
        }
    }
}
