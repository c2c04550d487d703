//! Bounds on what one client can make the hub keep.

use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use codexd_protocol::envelope::{self, Message};

use crate::hub::clients::client::ReplayableRequest;
use crate::hub::clients::replayed_settings;
use crate::hub::event::{ClientId, Connection, Text};
use crate::hub::requests::pending::{InternalRequest, Origin, PendingRequest, RequestKind};
use crate::hub::upstream::connection_bound;
use crate::hub::{Hub, text};
use crate::limits::{
    CONNECTION_BOUND_BYTES_MAX, CONNECTION_BOUND_MAX, EVENT_STREAMS_MAX, REPLAYED_BYTES_MAX, REPLAYED_MAX,
    STORED_MEMBER_BYTES_MAX, STORED_PARAMS_BYTES_MAX, STORED_REQUEST_BYTES_MAX, THREAD_SETTINGS_BYTES_MAX,
};
use codexd_protocol::methods::Resource;

impl Hub {
    /// A client disconnected: drop the texts of its pending requests, which are neither sent again nor answered.
    pub(in crate::hub) fn drop_request_texts(&mut self, id: ClientId) {
        for pending in self.pending.values_mut() {
            if let Origin::Client { client, id: raw, .. } = &mut pending.origin
                && *client == id
            {
                *raw = Box::default();
                pending.shorten();
            }
        }
    }

    /// Why a request is refused because the client reached a bound, if it is.
    pub(in crate::hub) fn exceeds_client_bound(
        &self,
        id: ClientId,
        method: &str,
        named: Option<(Resource, &str)>,
        params: Option<&RawValue>,
    ) -> Option<String> {
        let length = params.map_or(0, |params| params.get().len());
        if replayed_settings::is_setting(method) && length > STORED_PARAMS_BYTES_MAX {
            return Some(format!("codexd keeps settings of at most {STORED_PARAMS_BYTES_MAX} bytes"));
        }
        let ((resource, name), client) = (named?, self.clients.get(&id)?);
        if resource.ends() {
            return None;
        }
        if resource.is_replayed() {
            let bytes: usize = client.replayable.iter().map(|kept| kept.params.len() + kept.name.len()).sum();
            let is_full = resource.begins() && client.replayable.len() >= REPLAYED_MAX;
            return (is_full || bytes + length > REPLAYED_BYTES_MAX).then(|| {
                format!(
                    "this client has {} watches and searches, {bytes} bytes of parameters",
                    client.replayable.len()
                )
            });
        }
        let bytes: usize = client.bound_resources.iter().map(|(_, name, _)| name.len()).sum();
        let is_full = client.bound_resources.len() >= CONNECTION_BOUND_MAX
            || bytes + name.len() > CONNECTION_BOUND_BYTES_MAX;
        (resource.begins() && is_full)
            .then(|| format!("this client has {} commands and processes", client.bound_resources.len()))
    }

    /// Why no more event streams may be started by a client, if so.
    pub(in crate::hub) fn too_many_streams(&self, id: ClientId, request: &str) -> Option<String> {
        if request.len() > STORED_PARAMS_BYTES_MAX {
            return Some(format!("codexd keeps parameters of at most {STORED_PARAMS_BYTES_MAX} bytes"));
        }
        let count = self.replayed.event_streams().iter().filter(|stream| stream.owner == id).count();
        (count >= EVENT_STREAMS_MAX).then(|| format!("this client has {count} streams of events"))
    }

    /// A watch or search was accepted: replay it on the next connection.
    pub(in crate::hub) fn add_replayable(&mut self, id: ClientId, connection: Connection, request: &str) {
        let Ok(Message::Request { method, params, .. }) = envelope::parse(request) else { return };
        let Some(resource) = connection_bound::of_request(method) else { return };
        let (Some(name), Some(client)) =
            (connection_bound::name(&resource, params), self.clients.get_mut(&id))
        else {
            return;
        };
        let is_same = |kept: &ReplayableRequest| kept.kind == resource.kind && *kept.name == *name;
        // At most one request starts it and one changes it.
        client.replayable.retain(|kept| {
            !is_same(kept) || !(resource.begins() || resource.ends() || *kept.method == *method)
        });
        if resource.ends() || !(resource.begins() || client.replayable.iter().any(is_same)) {
            return;
        }
        let params = params.map_or("{}", RawValue::get);
        let (kind, text) = (resource.kind, Text::from(params));
        client.replayable.push(ReplayableRequest {
            kind,
            name: name.into(),
            method: method.into(),
            params: text,
        });
        // It was sent to an outgoing app-server, and the next connection is already open.
        let next = client.dedicated.open().filter(|server| *server != connection.server());
        if let Some(server) = next {
            let params = serde_json::from_str(params).unwrap_or_else(|_| json!({}));
            self.send_internal(
                Connection::Dedicated(id, server),
                InternalRequest::IgnoreResponse,
                method,
                &params,
            );
        }
    }

    /// A watch or search ends before its start was answered.
    pub(in crate::hub) fn forget_pending_replayable(&mut self, id: ClientId, resource: Resource, name: &str) {
        for pending in self.pending.values_mut() {
            let Origin::Client { client, kind, text, .. } = &mut pending.origin else { continue };
            if *client == id && *kind == RequestKind::Replayed {
                let params = text::member(text, "params");
                if connection_bound::name(&resource, params) == Some(name) {
                    *kind = RequestKind::Plain;
                }
            }
        }
    }
}

impl PendingRequest {
    /// Drops the large members of a client's request: it has left upstream's queue and will not be sent again.
    pub(in crate::hub) fn shorten(&mut self) {
        let Origin::Client { kind, text, .. } = &mut self.origin else { return };
        let (request_max, member_max) = match kind {
            // The response handler reads its settings.
            RequestKind::NewThread | RequestKind::Resume => {
                (THREAD_SETTINGS_BYTES_MAX, THREAD_SETTINGS_BYTES_MAX / 2)
            }
            _ => (STORED_REQUEST_BYTES_MAX, STORED_MEMBER_BYTES_MAX),
        };
        if text.len() > request_max {
            *text = truncated(text, member_max);
            self.is_truncated = true;
        }
    }
}

/// A request with its small parameters only. A `config` that is too large becomes `true`, which no client sends.
fn truncated(request: &str, member_max: usize) -> Text {
    let Ok(Message::Request { method, params, .. }) = envelope::parse(request) else {
        return Text::default();
    };
    let params = params.map_or("{}", RawValue::get);
    let read = |raw: &RawValue| serde_json::from_str::<Value>(raw.get()).unwrap_or_default();
    let is_small = |raw: &RawValue| raw.get().len() <= member_max;
    let kept = match params.starts_with('[') {
        true => {
            let values: Vec<&RawValue> = serde_json::from_str(params).unwrap_or_default();
            values
                .into_iter()
                .take(2)
                .map(|raw| if is_small(raw) { read(raw) } else { Value::Null })
                .collect()
        }
        false => {
            let mut kept = Map::new();
            for (name, raw) in text::members(params) {
                match (is_small(raw), &*name) {
                    (true, _) => _ = kept.insert(name.into_owned(), read(raw)),
                    (false, "config") => _ = kept.insert(name.into_owned(), true.into()),
                    (false, _) => {}
                }
            }
            Value::Object(kept)
        }
    };
    text::request(0, method, &kept)
}

#[cfg(test)]
mod tests {
    use super::truncated;

    #[test]
    fn what_is_small_in_a_request_is_kept() {
        let large = "x".repeat(5_000);
        let text = format!(
            r#"{{"id":"{large}","method":"m","params":{{"threadId":"t","input":"{large}","config":{{"a":"{large}"}}}}}}"#
        );
        let expected = r#"{"id":0,"method":"m","params":{"threadId":"t","config":true}}"#;
        let same = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON");
        assert_eq!(same(&truncated(&text, 1_024)), same(expected));
        let array = format!(r#"{{"id":1,"method":"m","params":["t","{large}",3]}}"#);
        assert_eq!(truncated(&array, 1_024).as_str(), r#"{"id":0,"method":"m","params":["t",null]}"#);
    }
}
