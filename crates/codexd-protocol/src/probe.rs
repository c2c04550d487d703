//! Asking whoever listens on a socket for its `initialize` answer. Only an answer proves that a server is ready.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::{Message as Frame, WebSocket};

use crate::envelope::{self, Message};
use crate::unix::{self, Peer};

/// The name that upstream's own daemon introduces itself by. App-server knows it and does not let it become the name of
/// the process, which every later client and every thread would carry (observed on 0.131.0 and 0.169.0).
pub(crate) const CLIENT_NAME: &str = "codex_app_server_daemon";
const REQUEST_ID: i64 = 1;

/// A server's answer to `initialize`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Answer {
    /// Who listens.
    pub peer: Peer,
    /// The server's `userAgent`.
    pub user_agent: String,
}

impl Answer {
    /// The server's version: what stands in `userAgent` between the first `/` and the next blank.
    pub fn version(&self) -> Option<&str> {
        let (_, rest) = self.user_agent.split_once('/')?;
        rest.split_whitespace().next()
    }
}

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Nobody listens: see [`unix::connect`] for the kinds.
    #[error("failed to connect: {0}")]
    Connect(io::Error),
    /// Somebody listens and did not answer in time, or left instead of answering.
    #[error("{why}")]
    Unresponsive {
        /// Who.
        peer: Option<Peer>,
        /// What happened.
        why: String,
    },
    /// A process of another user listens. It was told nothing.
    #[error("the listener belongs to uid {}", peer.uid)]
    OtherUser {
        /// The process and its user.
        peer: Peer,
    },
    /// Somebody listens and is not an app-server, or refuses.
    #[error("the listener is not an app-server: {why}")]
    Foreign {
        /// Who.
        peer: Option<Peer>,
        /// What it said.
        why: String,
    },
}

/// Connects to `path` and asks for the `initialize` answer, all within `patience`.
///
/// # Errors
/// See [`ProbeError`].
pub fn ask(path: &Path, client_version: &str, patience: Duration) -> Result<Answer, ProbeError> {
    let stream = unix::connect(path).map_err(ProbeError::Connect)?;
    ask_on(stream, client_version, patience)
}

/// As [`ask`], on a connection that stands already.
///
/// # Errors
/// See [`ProbeError`].
pub fn ask_on(stream: UnixStream, client_version: &str, patience: Duration) -> Result<Answer, ProbeError> {
    let peer = unix::peer(&stream).ok();
    if let Some(peer) = peer.filter(|peer| !peer.is_trusted()) {
        return Err(ProbeError::OtherUser { peer });
    }
    let unresponsive = |why: String| ProbeError::Unresponsive { peer, why };
    let stream = Bounded { stream, deadline: Instant::now() + patience };
    let (mut socket, _) = tungstenite::client("ws://localhost/", stream).map_err(|error| match error {
        tungstenite::HandshakeError::Failure(tungstenite::Error::Http(response)) => ProbeError::Foreign {
            peer,
            why: format!("the WebSocket upgrade was answered with {}", response.status()),
        },
        other => unresponsive(format!("the WebSocket handshake failed: {other}")),
    })?;
    let hello = json!({"id": REQUEST_ID, "method": "initialize", "params": {
        "clientInfo": {"name": CLIENT_NAME, "title": null, "version": client_version}}});
    socket
        .send(Frame::text(hello.to_string()))
        .map_err(|error| unresponsive(format!("failed to send initialize: {error}")))?;
    let result = read_answer(&mut socket).map_err(unresponsive)?;
    let result = result.map_err(|why| ProbeError::Foreign { peer, why })?;
    let user_agent = result.get("userAgent").and_then(Value::as_str).map(str::to_owned);
    match (user_agent, peer) {
        (Some(user_agent), Some(peer)) => Ok(Answer { peer, user_agent }),
        _ => Err(ProbeError::Foreign { peer, why: "the initialize response has no userAgent".into() }),
    }
}

/// Reads until the reply: the outer error means silence, the inner one a refusal.
fn read_answer<S: Read + Write>(socket: &mut WebSocket<S>) -> Result<Result<Value, String>, String> {
    loop {
        let frame = socket.read().map_err(|error| format!("no response to initialize: {error}"))?;
        let Frame::Text(text) = frame else { continue };
        let Ok(Message::Response { id, outcome }) = envelope::parse(&text) else { continue };
        if id.get() != REQUEST_ID.to_string() {
            continue;
        }
        return Ok(match outcome {
            Ok(result) => serde_json::from_str(result.get()).map_err(|error| error.to_string()),
            Err(error) => Err(error.get().to_owned()),
        });
    }
}

/// A stream whose reads and writes together end by a deadline.
#[derive(Debug)]
pub(crate) struct Bounded {
    pub(crate) stream: UnixStream,
    pub(crate) deadline: Instant,
}

impl Bounded {
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }
}

/// A socket's own time limit shows as `WouldBlock`, which tungstenite takes for a stream that never blocks.
fn timed_out(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::TimedOut.into() } else { error }
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(buffer).map_err(timed_out)
    }
}

impl Write for Bounded {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(buffer).map_err(timed_out)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{ProbeError, ask};
    use crate::unix;
    use std::time::Duration;
    use tungstenite::Message as Frame;

    fn serve(reply: Option<&'static str>) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("s");
        let listener = unix::bind(&path).expect("bound");
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().expect("accepted");
            let Some(reply) = reply else {
                std::thread::park();
                return;
            };
            let mut socket = tungstenite::accept(stream).expect("upgraded");
            socket.read().expect("a request");
            socket.send(Frame::text(r#"{"method":"early/notification"}"#)).expect("sent");
            socket.send(Frame::text(reply)).expect("sent");
            let _ = socket.read();
        });
        (folder, path)
    }

    #[test]
    fn the_version_is_read_from_the_answer() {
        let (_folder, path) =
            serve(Some(r#"{"id":1,"result":{"userAgent":"x y/0.169.0 (Debian; x) z (w; 1)"}}"#));
        let answer = ask(&path, "0", Duration::from_secs(10)).expect("answered");
        assert_eq!(answer.version(), Some("0.169.0"));
        assert_eq!(answer.peer.pid, Some(std::process::id()));
    }

    #[test]
    fn an_unresponsive_listener_is_told_from_a_refusing_one_and_from_none() {
        let (_folder, path) = serve(None);
        let unresponsive = ask(&path, "0", Duration::from_millis(50));
        assert!(
            matches!(unresponsive, Err(ProbeError::Unresponsive { peer: Some(_), .. })),
            "{unresponsive:?}"
        );
        let (_folder, path) = serve(Some(r#"{"id":1,"error":{"code":-32600,"message":"no"}}"#));
        let refusing = ask(&path, "0", Duration::from_secs(10));
        assert!(matches!(refusing, Err(ProbeError::Foreign { .. })), "{refusing:?}");
        let folder = tempfile::tempdir().expect("a folder");
        let none = ask(&folder.path().join("s"), "0", Duration::from_secs(10));
        assert!(matches!(none, Err(ProbeError::Connect(_))), "{none:?}");
    }
}
