//! How one request is answered.

use std::io;

use axum::body::{Body, Bytes};
use axum::http::{Response, StatusCode, header};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use super::directives::{Directives, Failure, Tool};
use super::events::Events;
use super::log::{Log, ModelEvent};

/// How many writes may wait for a slow reader.
const WRITES_AHEAD: usize = 64;

/// One answer in the making.
pub(super) struct Answer {
    pub(super) number: usize,
    pub(super) body: Value,
    pub(super) directives: Directives,
    pub(super) after_tool: bool,
    pub(super) released: watch::Receiver<Vec<String>>,
    pub(super) log: Log,
}

/// The reader has hung up.
struct Gone;

type Writes = mpsc::Sender<Result<Bytes, io::Error>>;

impl Answer {
    /// Starts the answer and gives its head.
    pub(super) fn into_response(self) -> Response<Body> {
        if let Some(Failure::Status(status)) = self.directives.failure {
            return refusal(status);
        }
        let (writes, queue) = mpsc::channel(WRITES_AHEAD);
        tokio::spawn(self.run(writes));
        let stream = futures_util::stream::unfold(queue, |mut queue| async move {
            let next = queue.recv().await?;
            Some((next, queue))
        });
        let mut response = Response::new(Body::from_stream(stream));
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/event-stream"));
        response
    }

    async fn run(self, writes: Writes) {
        let (number, log) = (self.number, self.log.clone());
        let event = match self.write(&writes).await {
            Ok(()) => ModelEvent::Finished { number },
            Err(Gone) => ModelEvent::Abandoned { number },
        };
        drop(writes);
        log.add(event);
    }

    async fn write(mut self, writes: &Writes) -> Result<(), Gone> {
        let mut events = Events::new(self.number, &self.body["model"]);
        send(writes, events.created()).await?;
        tokio::time::sleep(self.directives.first_delay).await;
        let shell = self.directives.shell.take().map(|command| self.shell_call(&command));
        match (self.directives.failure, shell.or_else(|| self.directives.tool.take())) {
            (Some(Failure::Event), _) => send(writes, events.failed()).await,
            (Some(_), _) => {
                let cut = io::Error::new(io::ErrorKind::ConnectionAborted, "asked to drop the connection");
                writes.send(Err(cut)).await.map_err(|_| Gone)
            }
            (None, Some(call)) if !self.after_tool => send(writes, events.tool_call(&call)).await,
            (None, _) => self.message(writes, &mut events).await,
        }
    }

    async fn message(&mut self, writes: &Writes, events: &mut Events) -> Result<(), Gone> {
        send(writes, events.message_started()).await?;
        let (mut text, mut batch) = (String::new(), String::new());
        for index in 0..self.directives.deltas {
            let piece = piece(index, self.directives.size);
            text.push_str(&piece);
            batch.push_str(&events.delta(&piece));
            if (index + 1) % self.directives.batch == 0 {
                send(writes, std::mem::take(&mut batch)).await?;
            }
            if !self.directives.delay.is_zero() {
                tokio::time::sleep(self.directives.delay).await;
            }
        }
        send(writes, batch).await?;
        if let Some(name) = &self.directives.hold {
            let released = self.released.wait_for(|names| names.contains(name));
            tokio::select! {
                _ = released => {}
                () = writes.closed() => return Err(Gone),
            }
        }
        send(writes, events.message_finished(&text, self.directives.deltas)).await
    }

    /// The call of the tool of this server that runs a shell command.
    fn shell_call(&self, command: &str) -> Tool {
        let offered = |name: &str| {
            let tools = self.body["tools"].as_array();
            tools.is_some_and(|tools| tools.iter().any(|tool| tool["name"] == name))
        };
        let (name, mut arguments) = if offered("exec_command") {
            ("exec_command", json!({"cmd": command}))
        } else if offered("shell_command") {
            ("shell_command", json!({"command": command}))
        } else {
            ("shell", json!({"command": ["bash", "-lc", command]}))
        };
        if self.directives.escalate {
            arguments["sandbox_permissions"] = json!("require_escalated");
            arguments["justification"] = json!("the mock model wants it");
        }
        Tool { group: None, name: name.to_owned(), arguments: arguments.to_string() }
    }
}

async fn send(writes: &Writes, text: String) -> Result<(), Gone> {
    if text.is_empty() {
        return Ok(());
    }
    writes.send(Ok(Bytes::from(text))).await.map_err(|_| Gone)
}

/// The `index`-th piece of an answer, `size` bytes long if its number fits: `d12 xxx`.
fn piece(index: usize, size: usize) -> String {
    let mut piece = format!("d{index} ");
    while piece.len() < size {
        piece.push('x');
    }
    piece
}

fn refusal(status: u16) -> Response<Body> {
    let error = json!({"error": {
        "message": format!("mock failure {status}"), "type": "server_error", "code": "mock_fail",
    }});
    let mut response = Response::new(Body::from(error.to_string()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
}
