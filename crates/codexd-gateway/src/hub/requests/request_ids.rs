//! Messages that refer to another request by id. Upstream knows each request under an id of the gateway, the client
//! under its own: the member given by [`routes::request_id_member`] is rewritten in both directions.

use codexd_protocol::RequestId;
use serde_json::value::RawValue;

use crate::hub::event::{ClientId, Connection, Text};
use crate::hub::requests::dispatch::DispatchOutcome;
use crate::hub::requests::pending::{Origin, RequestKind};
use crate::hub::{Hub, text};
use crate::routes::{self, Requester};

impl Hub {
    /// Forwards a request that refers to another one of the same client, over that one's connection.
    ///
    /// If that one is not pending, the request is forwarded with an unused id, so that upstream answers it.
    pub(in crate::hub) fn send_with_request_id(
        &mut self,
        id: ClientId,
        method: &str,
        raw: &str,
        text: &Text,
        params: Option<&RawValue>,
    ) -> DispatchOutcome {
        let named = request_id(method, params);
        let parsed = named.and_then(|named| serde_json::from_str::<RequestId>(named).ok());
        // Upstream refuses an id of another type.
        let (Some(named), Some(parsed)) = (named, parsed) else {
            return self.send_dedicated(id, method, raw, text, params);
        };
        let known = self.pending.iter().filter_map(|(number, pending)| match &pending.origin {
            Origin::Client { client, id: known, .. } if *client == id => (serde_json::from_str(known).ok()
                == Some(parsed.clone()))
            .then_some((number, pending.connection)),
            _ => None,
        });
        let (number, connection) = match known.max() {
            Some(known) => known,
            None => match self.dedicated_connection(id) {
                Some(connection) => (self.pending.take_id(), connection),
                None => return DispatchOutcome::Blocked,
            },
        };
        let upstream = self.pending.take_id();
        let (number, own) = (number.to_string(), upstream.to_string());
        let spliced = text::splice_all(text, [(raw, own.as_str()), (named, number.as_str())]);
        self.send_spliced(upstream, connection, id, RequestKind::Plain, None, raw, text, spliced);
        self.answer_is_due(upstream, method);
        DispatchOutcome::Done
    }

    /// Sends a notification about a client's request to that client, under the client's id. If the request was
    /// answered, the notification is dropped.
    pub(in crate::hub) fn send_to_requester(
        &mut self,
        connection: Connection,
        method: &str,
        params: Option<&RawValue>,
        text: &Text,
    ) {
        let Some(named) = request_id(method, params) else { return };
        let pending = named.parse().ok().and_then(|number: u64| self.pending.get(number));
        let Some(Origin::Client { client, id, .. }) =
            pending.filter(|pending| pending.connection == connection).map(|pending| &pending.origin)
        else {
            return;
        };
        if !self.wants(*client, method) {
            return;
        }
        let (client, id) = (*client, id.clone());
        let listed = self.with_statuses(connection, params, named, &id);
        let text = match (&listed, params) {
            (Some(listed), Some(params)) => text::splice(text, params.get(), listed),
            _ => text::splice(text, named, &id),
        };
        self.send_to_client(client, text);
    }

    /// Parameters of a thread list with corrected status.
    fn with_statuses(
        &self,
        connection: Connection,
        params: Option<&RawValue>,
        named: &str,
        id: &str,
    ) -> Option<Text> {
        let params = params.filter(|_| self.completes_lists())?;
        let params = text::splice(params.get(), named, id);
        let data = text::member(&params, "data")?;
        let mut threads: Vec<serde_json::Value> = serde_json::from_str(data.get()).ok()?;
        let listed = self.correct_statuses(connection.server(), &mut threads);
        listed.then(|| text::splice(&params, data.get(), &serde_json::Value::from(threads).to_string()))
    }
}

/// Whether a message refers to a client's request.
pub(in crate::hub) fn names_client_request(method: &str) -> bool {
    routes::request_id_member(method).is_some_and(|row| row.requester == Requester::Client)
}

/// The raw id of the client's request.
fn request_id<'a>(method: &str, params: Option<&'a RawValue>) -> Option<&'a str> {
    let row = routes::request_id_member(method).filter(|row| row.requester == Requester::Client)?;
    let params = params?.get();
    let named = match params.starts_with('[') {
        true => serde_json::from_str::<Vec<&RawValue>>(params).ok()?.into_iter().next(),
        false => text::member(params, row.member),
    };
    named.map(RawValue::get)
}
