//! Notifications that an app-server sends on every new connection, and again when they change. The gateway keeps the last
//! of each kind and sends them to a client after its `initialize`.

use serde_json::value::RawValue;

use crate::hub::event::{Action, ClientId, ServerId, Text};
use crate::hub::{Hub, text};
use crate::limits::REPEATED_WARNINGS_MAX;

const REMOTE_CONTROL: &str = "remoteControl/status/changed";

/// The notifications that every new connection receives.
#[derive(Debug, Default)]
pub struct ConnectNotifications {
    /// Method, text, and the last app-server that sent it.
    known: Vec<(Box<str>, Text, ServerId)>,
}

impl ConnectNotifications {
    /// An app-server sent one. Returns whether it is new.
    fn record(&mut self, server: ServerId, method: &str, params: Option<&str>, text: &Text) -> bool {
        let same = |known: &Text| text::member(known, "params").map(RawValue::get) == params;
        let known = self.known.iter_mut().find(|(name, known, _)| **name == *method && same(known));
        if let Some((_, _, sent_by)) = known {
            *sent_by = server;
            return false;
        }
        // There is one state of remote control, and any number of warnings.
        self.known.retain(|(name, _, _)| method != REMOTE_CONTROL || **name != *method);
        if self.known.len() >= REPEATED_WARNINGS_MAX {
            self.known.remove(0);
        }
        self.known.push((method.into(), text.clone(), server));
        true
    }

    /// An app-server has sent all of its own by now: drops those that only its predecessors sent.
    pub fn keep_those_of(&mut self, server: ServerId) {
        self.known.retain(|(_, _, sent_by)| *sent_by == server);
    }
}

impl Hub {
    /// A notification that every connection receives when it opens, and when it changes.
    pub(in crate::hub) fn on_connect_notification(
        &mut self,
        server: ServerId,
        method: &str,
        params: Option<&RawValue>,
        text: &Text,
    ) {
        if self.connect_notifications.record(server, method, params.map(RawValue::get), text) {
            self.send_to_all(method, text);
        }
    }

    /// Sends what every connection receives right after its `initialize`.
    pub(super) fn send_connect_notifications(&mut self, id: ClientId) {
        let Some(client) = self.clients.get(&id) else { return };
        let wanted =
            self.connect_notifications.known.iter().filter(|(name, _, _)| client.capabilities.wants(name));
        self.out.extend(wanted.map(|(_, text, _)| Action::SendToClient(id, text.clone())));
    }
}
