//! The task that reads a connection.

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::stream::SplitStream;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::Sink;
use super::dial::Stream;
use super::record::{Closed, Direction, Record};

type Answer = Box<dyn Fn(&Value) -> Option<Value> + Send>;

/// What answers the server's requests by itself, if anything.
#[derive(Clone, Default)]
pub(super) struct Answering(Arc<Mutex<Option<Answer>>>);

impl Answering {
    pub(super) fn set(&self, answer: Answer) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
    }

    fn answer(&self, message: &Value) -> Option<Value> {
        let id = message.get("id")?;
        message.get("method")?;
        let answer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let result = answer.as_ref()?(message)?;
        Some(json!({"id": id, "result": result}))
    }
}

impl std::fmt::Debug for Answering {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Answering")
    }
}

pub(super) fn start(
    mut stream: SplitStream<WebSocketStream<Stream>>,
    sink: Arc<tokio::sync::Mutex<Sink>>,
    record: Arc<Record>,
    answering: Answering,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut closed = Closed::default();
        while let Some(frame) = stream.next().await {
            match frame {
                Ok(Message::Text(text)) => {
                    let message = serde_json::from_str(&text).unwrap_or_else(|_| json!(text.as_str()));
                    let reply = answering.answer(&message);
                    record.add(Direction::Received, message);
                    if let Some(reply) = reply {
                        record.add(Direction::Sent, reply.clone());
                        let _lost = sink.lock().await.send(Message::text(reply.to_string())).await;
                    }
                }
                Ok(Message::Binary(bytes)) => {
                    record.add(Direction::Received, json!({"binaryFrame": bytes.len()}));
                }
                Ok(Message::Close(frame)) => {
                    closed.frame =
                        Some(frame.map_or((1005, String::new()), |f| (f.code.into(), f.reason.to_string())));
                }
                Ok(_) => {}
                Err(error) => {
                    closed.error = Some(error.to_string());
                    break;
                }
            }
        }
        record.close(closed);
    })
}
