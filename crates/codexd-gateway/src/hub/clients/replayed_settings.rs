//! Event streams and process-wide settings, which an app-server keeps in memory only and which the gateway replays on
//! its successor.
//!
//! Settings live as long as the gateway: a new gateway does not know them.

use serde_json::json;
use serde_json::value::RawValue;

use crate::hub::event::{ClientId, Connection, ServerId, Text, ThreadId};
use crate::hub::requests::pending::InternalRequest;
use crate::hub::{Hub, text};
use crate::limits::REPLAYED_SETTINGS_MAX;
use crate::routes::methods::{self, RequestKind};

/// The member that names an event stream.
const STREAM: &str = "subscriptionId";
const BEGIN: &str = "mcpServer/event/stream/start";

/// An MCP event stream of a client.
#[derive(Clone, Debug)]
pub struct EventStream {
    /// Its name, raw JSON.
    pub name: Box<str>,
    pub owner: ClientId,
    thread: ThreadId,
    /// The parameters that started it.
    params: Text,
}

/// What is replayed on another app-server.
#[derive(Debug, Default)]
pub struct ReplayedSettings {
    event_streams: Vec<EventStream>,
    /// Process-wide settings that app-servers keep in memory only: method and parameters.
    process_settings: Vec<(Box<str>, Text)>,
}

impl ReplayedSettings {
    /// The MCP event streams of clients.
    pub fn event_streams(&self) -> &[EventStream] {
        &self.event_streams
    }

    pub fn client_disconnected(&mut self, client: ClientId) {
        self.event_streams.retain(|stream| stream.owner != client);
    }

    /// A thread is not loaded any more.
    pub fn thread_gone(&mut self, thread: &ThreadId) {
        self.event_streams.retain(|stream| stream.thread != *thread);
    }
}

impl EventStream {
    /// The thread that it belongs to.
    pub fn thread(&self) -> &ThreadId {
        &self.thread
    }
}

impl Hub {
    pub(in crate::hub) fn add_event_stream(&mut self, owner: ClientId, thread: &ThreadId, text: &str) {
        let params = text::member(text, "params");
        let Some((params, name)) =
            params.and_then(|params| Some((params, text::member(params.get(), STREAM)?)))
        else {
            return;
        };
        self.replayed.event_streams.retain(|stream| !(stream.owner == owner && *stream.name == *name.get()));
        let (name, params) = (name.get().into(), params.get().into());
        self.replayed.event_streams.push(EventStream { name, owner, thread: thread.clone(), params });
    }

    /// An event stream was refused or stopped. Returns its thread.
    pub(in crate::hub) fn remove_event_stream(&mut self, owner: ClientId, request: &str) -> Option<ThreadId> {
        let params = text::member(request, "params")?;
        let name = text::member(params.get(), STREAM)?.get();
        let at = self
            .replayed
            .event_streams
            .iter()
            .position(|stream| stream.owner == owner && *stream.name == *name)?;
        Some(self.replayed.event_streams.remove(at).thread)
    }

    /// A thread was loaded again: restart its event streams.
    pub(in crate::hub) fn replay_event_streams(&mut self, id: &ThreadId) {
        let Some(connection) = self.threads.get(id).map(crate::hub::threads::thread::Thread::connection)
        else {
            return;
        };
        let of_it = self.replayed.event_streams.iter().filter(|stream| stream.thread == *id);
        let all: Vec<Text> = of_it.map(|stream| stream.params.clone()).collect();
        for params in all {
            let params = serde_json::from_str(&params).unwrap_or_else(|_| json!({}));
            self.send_internal(connection, InternalRequest::IgnoreResponse, BEGIN, &params);
        }
    }

    /// A setting was accepted: its successor is given it as well.
    pub(in crate::hub) fn record_setting(&mut self, request: &str) {
        let Some(method) = text::string(request, "method") else { return };
        let params = text::member(request, "params").map_or("{}", RawValue::get);
        // Skill roots are replaced as a whole; features and environments accumulate.
        let replaces = *method == *"skills/extraRoots/set";
        self.replayed
            .process_settings
            .retain(|(known, before)| **known != *method || !(replaces || **before == *params));
        if self.replayed.process_settings.len() >= REPLAYED_SETTINGS_MAX {
            self.replayed.process_settings.remove(0);
        }
        self.replayed.process_settings.push((method.as_ref().into(), params.into()));
    }

    /// Replays all settings on a new app-server.
    pub(in crate::hub) fn replay_settings(&mut self, server: ServerId) {
        for (method, params) in self.replayed.process_settings.clone() {
            let params = serde_json::from_str(&params).unwrap_or_else(|_| json!({}));
            self.send_internal(Connection::Shared(server), InternalRequest::IgnoreResponse, &method, &params);
        }
    }
}

/// Whether a request changes a setting that is replayed. Remote control belongs to the host.
pub(in crate::hub) fn is_setting(method: &str) -> bool {
    methods::kind(method) == RequestKind::Setting
}
