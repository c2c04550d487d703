//! The setting `gateway`: whether one stands in front of the app-server, and which doors it opens.

use std::net::SocketAddr;

use serde_json::{Map, Value};

const LISTEN: &str = "listen";
const ALLOW_NON_LOOPBACK: &str = "allowNonLoopback";
const SCHEME: &str = "ws://";

/// The gateway that is wanted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Gateway {
    /// None: the app-server makes the control socket itself.
    Off,
    /// One that owns the control socket.
    On {
        /// Where it listens for WebSocket clients over TCP besides.
        listen: Option<SocketAddr>,
    },
}

impl Default for Gateway {
    fn default() -> Self {
        Gateway::On { listen: None }
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
            Gateway::On { listen } => listen,
            Gateway::Off => None,
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
            Value::Object(fields) => Ok(Gateway::On { listen: listen(fields)? }),
            _ => Err("true, false, or an object with listen and allowNonLoopback"),
        }
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
    use super::Gateway;
    use serde_json::json;

    #[test]
    fn there_is_one_unless_the_setting_says_no() {
        assert_eq!(Gateway::default(), Gateway::On { listen: None });
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
