//! State of an app-server as a whole that may differ in its successor: it is compared, and clients are told what changed by
//! upstream's own notifications.
//!
//! Upstream has a notification for the login, the sign-in of a model provider's gateway, and skills. It has none for models,
//! model providers, the configuration, permission profiles, experimental features and the like: they are read, and clients
//! are told nothing. Warnings of the configuration and the state of remote control are told by the successor itself when its
//! first connection opens ([`Hub::on_connect_notification`]); the state of MCP servers, limits and apps belongs to threads and turns.

use serde_json::{Value, json};

use crate::hub::event::{Connection, ServerId};
use crate::hub::requests::pending::InternalRequest;
use crate::hub::{Hub, text};

const ACCOUNT_UPDATED: &str = "account/updated";

/// What is compared.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::hub) enum Part {
    /// Who is logged in.
    Account,
    /// How.
    AuthMode,
    /// The sign-in of the model provider's gateway; 0.131.0 does not know it.
    GatewayOAuth,
    /// The skills that are found without a thread.
    Skills,
}

/// In the order in which they are asked for: the sign-in mode is known before the account.
const PARTS: [Part; 4] = [Part::AuthMode, Part::Account, Part::GatewayOAuth, Part::Skills];

/// What an app-server said last.
#[derive(Debug, Default)]
pub(in crate::hub) struct ProcessState {
    auth_mode: Option<Value>,
    account: Option<Value>,
    gateway_oauth: Option<Value>,
    /// Only a fingerprint: a list of skills is long.
    skills: Option<u64>,
    /// Told since it was asked for: by the app-server that is current.
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
    /// An app-server has become the current one: asks for what may differ from the one before it.
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

    /// The current app-server tells of a change itself: what is known is out of date.
    pub(in crate::hub) fn on_process_state_changed(&mut self, server: ServerId, method: &str) {
        let parts: &[Part] = match method {
            ACCOUNT_UPDATED => &[Part::AuthMode, Part::Account],
            "account/gatewayOAuth/changed" => &[Part::GatewayOAuth],
            "skills/changed" => &[Part::Skills],
            _ => return,
        };
        if self.current == Some(server) {
            for part in parts {
                self.process_state.heard.push(*part);
                self.request_part(server, *part);
            }
        }
    }

    /// An app-server said how it stands: clients are told if it is not as before.
    pub(in crate::hub) fn on_process_state_read(
        &mut self,
        server: ServerId,
        part: Part,
        outcome: Result<&str, &str>,
    ) {
        let Some(told) = outcome.ok().and_then(|result| serde_json::from_str::<Value>(result).ok()) else {
            return;
        };
        if self.current != Some(server) {
            return;
        }
        // It has said by now what it warns of: what only those before it warned of holds no more.
        self.connect_notifications.retain(|(_, _, said_by)| *said_by == server);
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
                state.auth_mode = Some(told["authMethod"].clone());
                return;
            }
            Part::Account => {
                let account = told["account"].clone();
                let plan = account.get("planType").cloned().unwrap_or(Value::Null);
                let mode = state.auth_mode.clone().unwrap_or(Value::Null);
                // The sign-in mode belongs to it.
                let now = json!([mode, account, told["requiresOpenaiAuth"]]);
                if state.account.replace(now.clone()).is_none_or(|before| before == now) {
                    return;
                }
                (ACCOUNT_UPDATED, json!({"authMode": mode, "planType": plan}))
            }
            Part::GatewayOAuth => {
                if state.gateway_oauth.replace(told.clone()).is_none_or(|before| before == told) {
                    return;
                }
                let (provider, status) = (&told["providerId"], &told["status"]);
                if status.is_null() {
                    // The notification cannot say that there is none; the configuration has changed with it.
                    return;
                }
                let params = json!({"providerId": provider, "status": status, "error": told["error"]});
                ("account/gatewayOAuth/changed", params)
            }
            Part::Skills => {
                let now = crate::hub::threads::thread_settings::fingerprint(&told.to_string());
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
