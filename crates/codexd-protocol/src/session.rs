//! A short conversation with an app-server: `initialize`, then requests, one after the other, all by one deadline.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::{Message as Frame, WebSocket};

use crate::envelope::{self, Message};
use crate::probe::{Bounded, CLIENT_NAME};
use crate::unix;

/// A connection whose `initialize` is answered. Its name is that of upstream's daemon, which does not become the name of the
/// app-server's process.
#[derive(Debug)]
pub struct Session {
    socket: WebSocket<Bounded>,
    last_id: i64,
}

impl Session {
    /// Connects to the app-server at `path`. Everything that is asked is to be answered within `timeout` from now.
    ///
    /// # Errors
    /// Why there is no connection: a sentence.
    pub fn open(path: &Path, client_version: &str, timeout: Duration) -> Result<Self, String> {
        let mut session = Self::connect(path, timeout)?;
        let info = json!({"name": CLIENT_NAME, "title": null, "version": client_version});
        let params = json!({"clientInfo": info, "capabilities": {"experimentalApi": true}});
        match session.call("initialize", &params)? {
            Ok(_) => Ok(session),
            Err(error) => Err(format!("initialize was rejected: {error}")),
        }
    }

    fn connect(path: &Path, timeout: Duration) -> Result<Self, String> {
        let stream = unix::connect(path).map_err(|error| format!("failed to connect: {error}"))?;
        if let Ok(peer) = unix::peer(&stream)
            && !peer.is_trusted()
        {
            return Err(format!("the listener belongs to uid {}", peer.uid));
        }
        let stream = Bounded { stream, deadline: Instant::now() + timeout };
        let (socket, _) = tungstenite::client("ws://localhost/", stream)
            .map_err(|error| format!("the WebSocket handshake failed: {error}"))?;
        Ok(Self { socket, last_id: 0 })
    }

    /// Sends a request and waits for its answer: its result, or its error object.
    ///
    /// # Errors
    /// No answer: a sentence.
    pub fn call(&mut self, method: &str, params: &Value) -> Result<Result<Value, Value>, String> {
        self.last_id += 1;
        let text = json!({"id": self.last_id, "method": method, "params": params}).to_string();
        self.socket.send(Frame::text(text)).map_err(|error| format!("failed to send {method}: {error}"))?;
        loop {
            let frame = self.socket.read().map_err(|error| format!("no response to {method}: {error}"))?;
            let Frame::Text(text) = frame else { continue };
            let Ok(Message::Response { id, outcome }) = envelope::parse(&text) else { continue };
            if id.get() != self.last_id.to_string() {
                continue;
            }
            let value = |raw: &serde_json::value::RawValue| serde_json::from_str(raw.get());
            return match outcome {
                Ok(result) => value(result).map(Ok),
                Err(error) => value(error).map(Err),
            }
            .map_err(|error| format!("the response to {method} is not valid: {error}"));
        }
    }
}

/// Asks the gateway at `path` one question that it answers itself, also before `initialize`: its result, or its error object.
///
/// # Errors
/// No answer: a sentence.
pub fn ask_gateway(path: &Path, method: &str, timeout: Duration) -> Result<Result<Value, Value>, String> {
    Session::connect(path, timeout)?.call(method, &json!({}))
}
