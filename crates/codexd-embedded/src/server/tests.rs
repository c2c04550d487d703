//! Tests over a real socket, with the server in the same process.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::handshake::client::Response;
use tokio_tungstenite::tungstenite::{Bytes, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::serve;
use crate::model::Signal;
use crate::{Error, ExitReason, Listen, Options};

const TIMEOUT: Duration = Duration::from_secs(20);

struct Server {
    signals: mpsc::Sender<Signal>,
    task: JoinHandle<Result<ExitReason, Error>>,
    socket: PathBuf,
}

impl Server {
    /// Starts one and waits until it accepts.
    async fn start(home: &Path, listen: Listen) -> Self {
        let (signals, receiver) = mpsc::channel(1);
        let socket = listen.socket(home);
        let task = tokio::spawn(serve(Options::new(home, listen), receiver));
        let server = Self { signals, task, socket };
        while codexd_protocol::unix::connect(&server.socket).is_err() && !server.task.is_finished() {
            tokio::task::yield_now().await;
        }
        server
    }

    async fn client(&self) -> Client {
        let mut client = Client::dial(&self.socket).await.0;
        client.call("initialize", json!({"clientInfo": {"name": "t", "version": "1"}})).await;
        client
    }

    async fn end(self) -> Result<ExitReason, Error> {
        self.signals.send(Signal::Terminate).await.expect("it listens for signals");
        timeout(TIMEOUT, self.task).await.expect("it ends").expect("it does not panic")
    }

    /// Ends as by `kill -9`.
    async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.expect_err("it is gone").is_cancelled());
    }
}

struct Client {
    socket: WebSocketStream<UnixStream>,
    next_id: i64,
}

impl Client {
    async fn dial(path: &Path) -> (Self, Response) {
        let stream = codexd_protocol::unix::connect(path).expect("it listens");
        stream.set_nonblocking(true).expect("a socket");
        let stream = UnixStream::from_std(stream).expect("a socket");
        let (socket, response) = client_async("ws://localhost/", stream).await.expect("it shakes hands");
        (Self { socket, next_id: 0 }, response)
    }

    async fn send(&mut self, text: String) {
        self.socket.send(Message::text(text)).await.expect("sent");
    }

    /// The next message; `None` at the end.
    async fn next(&mut self) -> Option<Value> {
        loop {
            match timeout(TIMEOUT, self.socket.next()).await.expect("in time")? {
                Ok(Message::Text(text)) => return Some(serde_json::from_str(&text).expect("JSON")),
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }

    async fn call(&mut self, method: &str, params: Value) -> Value {
        self.next_id += 1;
        let id = self.next_id;
        self.send(json!({"id": id, "method": method, "params": params}).to_string()).await;
        loop {
            let message = self.next().await.expect("an answer");
            if message["id"] == id && message.get("method").is_none() {
                return message;
            }
        }
    }

    async fn thread(&mut self) -> String {
        let reply = self.call("thread/start", json!({})).await;
        reply["result"]["thread"]["id"].as_str().expect("a thread").to_owned()
    }

    async fn start_turn(&mut self, thread: &str, text: &str) {
        let input = json!([{"type": "text", "text": text}]);
        self.call("turn/start", json!({"threadId": thread, "input": input})).await;
    }

    /// Reads until a notification with this method; `None` if the connection ends first.
    async fn until(&mut self, method: &str) -> Option<Value> {
        loop {
            let message = self.next().await?;
            if message["method"] == method {
                return Some(message);
            }
        }
    }
}

fn home() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

#[tokio::test]
async fn the_socket_is_private_and_gone_afterwards() {
    let home = home();
    let server = Server::start(home.path(), Listen::ControlSocket).await;
    let socket = home.path().join("app-server-control/app-server-control.sock");
    let mode = |path: &Path| fs::symlink_metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!((mode(&socket), mode(socket.parent().expect("a folder"))), (0o600, 0o700));
    assert_eq!(server.end().await.expect("it left well"), ExitReason::Drained);
    assert!(!socket.exists());
}

#[tokio::test]
async fn the_handshake_states_the_largest_frame() {
    let home = home();
    let server = Server::start(home.path(), Listen::ControlSocket).await;
    let (_client, response) = Client::dial(&server.socket).await;
    let header = response.headers().get("x-codex-websocket-max-unfragmented-message-bytes");
    assert_eq!(header.map(|value| value.as_bytes()), Some(&b"16777216"[..]));
}

#[tokio::test]
async fn a_living_server_keeps_its_socket() {
    let home = home();
    let server = Server::start(home.path(), Listen::ControlSocket).await;
    let (_signals, receiver) = mpsc::channel(1);
    let error = serve(Options::new(home.path(), Listen::ControlSocket), receiver).await.expect_err("taken");
    let expected = format!("app-server control socket is already in use at {}", server.socket.display());
    assert_eq!(error.to_string(), expected);
    server.client().await;
}

#[tokio::test]
async fn a_stale_socket_is_replaced() {
    let home = home();
    let socket = home.path().join("s");
    drop(std::os::unix::net::UnixListener::bind(&socket).expect("bound"));
    Server::start(home.path(), Listen::Unix(socket.clone())).await.client().await;
    let link = home.path().join("link");
    std::os::unix::fs::symlink(home.path().join("nowhere"), &link).expect("linked");
    Server::start(home.path(), Listen::Unix(link)).await.client().await;
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_left_alone() {
    let home = home();
    let path = home.path().join("precious");
    fs::write(&path, "x").expect("written");
    let (_signals, receiver) = mpsc::channel(1);
    let options = Options::new(home.path(), Listen::Unix(path.clone()));
    let error = serve(options, receiver).await.expect_err("refused").to_string();
    assert_eq!(
        error,
        format!("app-server control socket path exists and is not a socket: {}", path.display())
    );
    assert_eq!(fs::read_to_string(&path).expect("still there"), "x");
}

#[tokio::test]
async fn a_socket_that_was_replaced_is_not_removed() {
    let home = home();
    let server = Server::start(home.path(), Listen::ControlSocket).await;
    fs::remove_file(&server.socket).expect("removed");
    let _other = std::os::unix::net::UnixListener::bind(&server.socket).expect("bound");
    let socket = server.socket.clone();
    server.end().await.expect("it left well");
    assert!(socket.exists());
}

#[tokio::test]
async fn a_flood_is_refused_in_part_and_answered_in_full() {
    let home = home();
    let server = Server::start(home.path(), Listen::ControlSocket).await;
    let mut client = server.client().await;
    const REQUESTS: usize = 1_000;
    for id in 0..REQUESTS {
        let request = json!({"id": format!("r{id}"), "method": "thread/loaded/list", "params": {}});
        client.socket.feed(Message::text(request.to_string())).await.expect("queued");
    }
    client.socket.flush().await.expect("sent");
    let (mut answered, mut refused) = (0, 0);
    while answered + refused < REQUESTS {
        let message = client.next().await.expect("an answer");
        match &message["error"] {
            Value::Null if message["method"].is_string() => {}
            Value::Null => answered += 1,
            error => {
                assert_eq!(*error, json!({"code": -32001, "message": "Server overloaded; retry later."}));
                refused += 1;
            }
        }
    }
    assert!(answered >= 128, "{answered} answered, {refused} refused");
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_and_the_others_are_not() {
    let home = home();
    let server = Server::start(home.path(), Listen::ControlSocket).await;
    let (mut reader, mut sleeper) = (server.client().await, server.client().await);
    let thread = reader.thread().await;
    reader.start_turn(&thread, "[[deltas=1]]").await;
    reader.until("turn/completed").await.expect("a turn");
    sleeper.call("thread/resume", json!({"threadId": thread, "excludeTurns": true})).await;
    // Each piece is told thrice: by itself, in its item, in its turn. Four turns are more than may wait.
    for _ in 0..4 {
        reader.start_turn(&thread, "[[deltas=8 size=1048576]]").await;
        reader.until("turn/completed").await.expect("the reader sees the end");
    }
    assert!(sleeper.until("turn/completed").await.is_none(), "the sleeper was cut");
}

#[tokio::test]
async fn what_is_no_message_is_dropped_and_the_connection_stays() {
    let home = home();
    let server = Server::start(home.path(), Listen::ControlSocket).await;
    let mut client = server.client().await;
    for text in ["", "{", "[]", "{}", "7", r#"{"id":null,"method":"thread/list","params":{}}"#] {
        client.send(text.to_owned()).await;
    }
    client.socket.send(Message::Binary(Bytes::from_static(b"{}"))).await.expect("sent");
    let reply = client.call("thread/loaded/list", json!({})).await;
    assert_eq!(reply["result"]["data"], json!([]));
}

#[tokio::test]
async fn a_drain_delivers_the_end_of_the_turn() {
    let home = home();
    let server = Server::start(home.path(), Listen::ControlSocket).await;
    let mut client = server.client().await;
    let thread = client.thread().await;
    client.start_turn(&thread, "[[deltas=5 delay=0.02]]").await;
    let ended = tokio::spawn(server.end());
    let end = client.until("turn/completed").await.expect("the end is delivered");
    assert_eq!(end["params"]["turn"]["status"], "completed");
    assert!(client.next().await.is_none());
    assert_eq!(ended.await.expect("no panic").expect("it left well"), ExitReason::Drained);
}

#[tokio::test]
async fn a_killed_turn_reads_back_as_interrupted() {
    let home = home();
    let server = Server::start(home.path(), Listen::ControlSocket).await;
    let mut client = server.client().await;
    let thread = client.thread().await;
    client.start_turn(&thread, "[[hang deltas=1]]").await;
    client.until("item/agentMessage/delta").await.expect("it runs");
    server.kill().await;
    let server = Server::start(home.path(), Listen::ControlSocket).await;
    let mut client = server.client().await;
    let reply = client.call("thread/resume", json!({"threadId": thread})).await;
    let turn = &reply["result"]["thread"]["turns"][0];
    assert_eq!((&turn["status"], &turn["completedAt"]), (&json!("interrupted"), &Value::Null));
    assert_eq!(turn["items"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn two_servers_on_one_home_have_one_writer_for_a_thread() {
    let home = home();
    let first = Server::start(home.path(), Listen::ControlSocket).await;
    let second = Server::start(home.path(), Listen::Unix(home.path().join("s2"))).await;
    let (mut alice, mut bob) = (first.client().await, second.client().await);
    let thread = alice.thread().await;
    alice.start_turn(&thread, "[[deltas=1]]").await;
    alice.until("turn/completed").await.expect("a turn");
    let resume = json!({"threadId": thread, "excludeTurns": true});
    let refused = bob.call("thread/resume", resume.clone()).await;
    assert_eq!(refused["error"]["message"], format!("thread {thread} already has an active writer"));
    first.end().await.expect("it left well");
    let resumed = bob.call("thread/resume", resume).await;
    assert_eq!(resumed["result"]["thread"]["id"], json!(thread));
}
