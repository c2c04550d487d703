//! The setting `gateway`: whether a gateway runs, on which TCP address it listens, and which clients get approval requests.

use std::net::SocketAddr;

use serde_json::{Map, Value};

const LISTEN: &str = "listen";
const ALLOW_NON_LOOPBACK: &str = "allowNonLoopback";
const SUBAGENT_APPROVALS: &str = "subagentApprovals";
const SCHEME: &str = "ws://";

/// Which clients decide what a sub-agent asks: approvals, input, tool calls.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum SubagentApprovals {
    /// Those that watch the thread of the sub-agent or one that it descends from.
    #[default]
    Viewers,
    /// Every client that is connected, as without a gateway.
    All,
}

impl SubagentApprovals {
    /// The word for it in the settings.
    pub fn as_str(self) -> &'static str {
        match self {
            SubagentApprovals::Viewers => "viewers",
            SubagentApprovals::All => "all",
        }
    }

    /// Reads the word.
    pub fn from_word(word: &str) -> Option<SubagentApprovals> {
        [SubagentApprovals::Viewers, SubagentApprovals::All].into_iter().find(|known| known.as_str() == word)
    }
}

/// The gateway that is wanted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Gateway {
    /// None: the app-server makes the control socket itself.
    Off,
    /// One that owns the control socket.
    On {
        /// Where it listens for WebSocket clients over TCP besides.
        listen: Option<SocketAddr>,
        /// Which clients decide what a sub-agent asks.
        subagent_approvals: SubagentApprovals,
    },
}

impl Default for Gateway {
    fn default() -> Self {
        Gateway::On { listen: None, subagent_approvals: SubagentApprovals::default() }
    }
}

impl Gateway {
    /// Whether there is to be one.
    pub fn is_on(self) -> bool {
        matches!(self, Gateway::On { .. })
    }

    /// Where it listens over TCP, if anywhere.
    pub fn listen(self) -> Option<SocketAddr> {
        match self {
            Gateway::On { listen, .. } => listen,
            Gateway::Off => None,
        }
    }

    /// Which clients decide what a sub-agent asks.
    pub fn subagent_approvals(self) -> SubagentApprovals {
        match self {
            Gateway::On { subagent_approvals, .. } => subagent_approvals,
            Gateway::Off => SubagentApprovals::All,
        }
    }

    /// Reads the value of the setting. Fields of others in it are none of our business.
    ///
    /// # Errors
    /// What was expected instead.
    pub fn parse(value: &Value) -> Result<Gateway, &'static str> {
        match value {
            Value::Bool(true) => Ok(Gateway::default()),
            Value::Bool(false) => Ok(Gateway::Off),
            Value::Object(fields) => {
                Ok(Gateway::On { listen: listen(fields)?, subagent_approvals: subagent_approvals(fields)? })
            }
            _ => Err("true, false, or an object with listen, allowNonLoopback and subagentApprovals"),
        }
    }
}

fn subagent_approvals(fields: &Map<String, Value>) -> Result<SubagentApprovals, &'static str> {
    match fields.get(SUBAGENT_APPROVALS) {
        None => Ok(SubagentApprovals::default()),
        Some(word) => word
            .as_str()
            .and_then(SubagentApprovals::from_word)
            .ok_or("subagentApprovals to be \"viewers\" or \"all\""),
    }
}

fn listen(fields: &Map<String, Value>) -> Result<Option<SocketAddr>, &'static str> {
    let anywhere = match fields.get(ALLOW_NON_LOOPBACK) {
        None => false,
        Some(Value::Bool(anywhere)) => *anywhere,
        Some(_) => return Err("allowNonLoopback to be true or false"),
    };
    let address = match fields.get(LISTEN) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(url)) => url.strip_prefix(SCHEME).map(|rest| rest.trim_end_matches('/')),
        Some(_) => None,
    };
    let address: SocketAddr = address
        .and_then(|address| address.parse().ok())
        .ok_or("listen to be ws:// with an IP address and a port, such as ws://127.0.0.1:4500")?;
    if !anywhere && !address.ip().is_loopback() {
        return Err("listen to be a loopback address, or allowNonLoopback to be true");
    }
    Ok(Some(address))
}

#[cfg(test)]
mod tests {
    use super::{Gateway, SubagentApprovals};
    use serde_json::json;

    #[test]
    fn there_is_one_unless_the_setting_says_no() {
        assert!(Gateway::default().is_on() && Gateway::default().listen().is_none());
        for on in [json!(true), json!({}), json!({"listen": null}), json!({"later": [1]})] {
            assert_eq!(Gateway::parse(&on), Ok(Gateway::default()), "{on}");
        }
        assert_eq!(Gateway::parse(&json!(false)), Ok(Gateway::Off));
    }

    #[test]
    fn only_a_loopback_address_is_listened_on_unless_asked_for() {
        let parse = |value| Gateway::parse(&value).map(Gateway::listen);
        assert_eq!(parse(json!({"listen": "ws://127.0.0.1:4500"})), Ok(Some(([127, 0, 0, 1], 4500).into())));
        assert!(parse(json!({"listen": "ws://[::1]:1/"})).is_ok_and(|listen| listen.is_some()));
        assert!(parse(json!({"listen": "ws://0.0.0.0:1"})).is_err());
        assert!(parse(json!({"listen": "ws://0.0.0.0:1", "allowNonLoopback": true})).is_ok());
    }

    #[test]
    fn viewers_decide_about_subagents_unless_the_setting_says_all() {
        let parse = |value| Gateway::parse(&value).map(Gateway::subagent_approvals);
        for viewers in [json!({}), json!(true), json!({"subagentApprovals": "viewers"})] {
            assert_eq!(parse(viewers), Ok(SubagentApprovals::Viewers));
        }
        assert_eq!(parse(json!({"subagentApprovals": "all"})), Ok(SubagentApprovals::All));
        for other in [json!("everyone"), json!("All"), json!(true), json!(null)] {
            let error = parse(json!({"subagentApprovals": other})).expect_err("no such value");
            assert!(error.contains("viewers") && error.contains("all"), "{error}");
        }
    }

    #[test]
    fn what_is_no_address_is_told() {
        for value in [
            json!("on"),
            json!(1),
            json!(null),
            json!({"listen": "127.0.0.1:1"}),
            json!({"listen": "ws://localhost:1"}),
            json!({"listen": "wss://127.0.0.1:1"}),
            json!({"listen": 4500}),
            json!({"allowNonLoopback": "yes"}),
        ] {
            assert!(Gateway::parse(&value).is_err(), "{value}");
        }
    }
}
