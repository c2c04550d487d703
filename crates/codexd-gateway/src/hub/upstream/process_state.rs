//! Process-wide state of an app-server that may differ in its successor: it is compared, and clients receive
//! upstream's own notifications for what changed.
//!
//! Upstream has such notifications for the login, the sign-in of a model provider's gateway, and skills; not for
//! models, providers, configuration, permission profiles or experimental features, which clients read. The successor
//! itself reports configuration warnings and remote control when its first connection opens
//! ([`Hub::on_connect_notification`]); the state of MCP servers, limits and apps belongs to threads and turns.

use serde_json::{Value, json};

use crate::hub::event::{Connection, ServerId};
use crate::hub::requests::pending::{InternalRequest, Part};
use crate::hub::{Hub, text};

const ACCOUNT_UPDATED: &str = "account/updated";

/// In the order of the requests: the sign-in mode is known before the account.
const PARTS: [Part; 4] = [Part::AuthMode, Part::Account, Part::GatewayOAuth, Part::Skills];

/// The state that an app-server reported last.
#[derive(Debug, Default)]
pub(in crate::hub) struct ProcessState {
    auth_mode: Option<Value>,
    account: Option<Value>,
    gateway_oauth: Option<Value>,
    /// A fingerprint: a list of skills is long.
    skills: Option<u64>,
    /// Parts that the current app-server reported as changed since they were requested.
    heard: Vec<Part>,
}

impl Part {
    fn request(self) -> (&'static str, Value) {
        match self {
            Part::Account => ("account/read", json!({"refreshToken": false})),
            Part::AuthMode => ("getAuthStatus", json!({"includeToken": false, "refreshToken": false})),
            Part::GatewayOAuth => ("account/gatewayOAuth/read", json!({})),
            Part::Skills => ("skills/list", json!({})),
        }
    }
}

impl Hub {
    /// An app-server has become the current one: requests every part that may differ from the previous one.
    pub(in crate::hub) fn request_process_state(&mut self, server: ServerId) {
        self.process_state.heard.clear();
        for part in PARTS {
            self.request_part(server, part);
        }
    }

    fn request_part(&mut self, server: ServerId, part: Part) {
        let (method, params) = part.request();
        self.send_internal(Connection::Shared(server), InternalRequest::ProcessState(part), method, &params);
    }

    /// The current app-server reports a change: the known state is out of date.
    pub(in crate::hub) fn on_process_state_changed(&mut self, server: ServerId, method: &str) {
        let parts: &[Part] = match method {
            ACCOUNT_UPDATED => &[Part::AuthMode, Part::Account],
            "account/gatewayOAuth/changed" => &[Part::GatewayOAuth],
            "skills/changed" => &[Part::Skills],
            _ => return,
        };
        if self.servers.current() == Some(server) {
            for part in parts {
                self.process_state.heard.push(*part);
                self.request_part(server, *part);
            }
        }
    }

    /// An app-server reported a part of its state: clients are notified if it has changed.
    pub(in crate::hub) fn on_process_state_read(
        &mut self,
        server: ServerId,
        part: Part,
        outcome: Result<&str, &str>,
    ) {
        let Some(reported) = outcome.ok().and_then(|result| serde_json::from_str::<Value>(result).ok())
        else {
            return;
        };
        if self.servers.current() != Some(server) {
            return;
        }
        // It has sent its own warnings by now.
        self.connect_notifications.keep_those_of(server);
        let state = &mut self.process_state;
        let was_reported = match state.heard.iter().position(|heard| *heard == part) {
            Some(at) => {
                state.heard.remove(at);
                true
            }
            None => false,
        };
        let (method, params) = match part {
            Part::AuthMode => {
                state.auth_mode = Some(reported["authMethod"].clone());
                return;
            }
            Part::Account => {
                let account = reported["account"].clone();
                let plan = account.get("planType").cloned().unwrap_or(Value::Null);
                let mode = state.auth_mode.clone().unwrap_or(Value::Null);
                // The sign-in mode is part of the account.
                let now = json!([mode, account, reported["requiresOpenaiAuth"]]);
                if state.account.replace(now.clone()).is_none_or(|before| before == now) {
                    return;
                }
                (ACCOUNT_UPDATED, json!({"authMode": mode, "planType": plan}))
            }
            Part::GatewayOAuth => {
                if state.gateway_oauth.replace(reported.clone()).is_none_or(|before| before == reported) {
                    return;
                }
                let (provider, status) = (&reported["providerId"], &reported["status"]);
                if status.is_null() {
                    // The notification cannot express that there is none; the configuration has changed with it.
                    return;
                }
                let params = json!({"providerId": provider, "status": status, "error": reported["error"]});
                ("account/gatewayOAuth/changed", params)
            }
            Part::Skills => {
                let now = text::fingerprint(&reported.to_string());
                if state.skills.replace(now).is_none_or(|before| before == now) {
                    return;
                }
                ("skills/changed", json!({}))
            }
        };
        if !was_reported {
            self.send_to_all(method, &text::notification(method, &params));
        }
    }
}
