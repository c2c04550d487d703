//! An asynchronous client of the app-server protocol that keeps everything it sent and received.
//!
//! A wait looks at everything received since the last [`Client::forget`] (at first: since the connection), so a message
//! that came before the wait began is found too.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use futures_util::SinkExt;
use futures_util::stream::SplitSink;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::limits;

mod dial;
mod reading;
mod record;
mod turns;

pub use dial::Place;
pub use record::{Closed, Direction, Entry, Recording};

use dial::Stream;
use reading::Answering;
use record::Record;

/// An error answer of the server.
#[derive(Clone, Debug, PartialEq)]
pub struct RpcError {
    /// The code, such as -32600.
    pub code: i64,
    /// The sentence.
    pub message: String,
    /// The data, or null.
    pub data: Value,
}

impl std::fmt::Display for RpcError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "the server answered {}: {}", self.code, self.message)
    }
}

impl std::error::Error for RpcError {}

type Sink = SplitSink<WebSocketStream<Stream>, Message>;

/// One connection to an app-server. Dropping it cuts the connection without a closing frame.
#[derive(Debug)]
pub struct Client {
    sink: Arc<Mutex<Sink>>,
    record: Arc<Record>,
    answering: Answering,
    reader: JoinHandle<()>,
    next_id: AtomicI64,
    forgotten: AtomicUsize,
    timeout: Duration,
}

impl Client {
    /// Connects, without `initialize`.
    ///
    /// # Errors
    /// The socket does not listen, or the WebSocket handshake is refused.
    pub async fn dial(place: &Place) -> anyhow::Result<Client> {
        Client::dial_with(place, &[]).await
    }

    /// Connects with more headers in the handshake, without `initialize`.
    ///
    /// # Errors
    /// As [`Client::dial`]; the refusal is a `tungstenite::Error::Http` below the sentence.
    pub async fn dial_with(place: &Place, headers: &[(&str, &str)]) -> anyhow::Result<Client> {
        let connection = dial::open(place, headers).await?;
        let (sink, stream) = futures_util::StreamExt::split(connection);
        let (sink, record) = (Arc::new(Mutex::new(sink)), Arc::new(Record::new()));
        let answering = Answering::default();
        let reader = reading::start(stream, sink.clone(), record.clone(), answering.clone());
        let (next_id, forgotten) = (AtomicI64::new(1), AtomicUsize::new(0));
        Ok(Client { sink, record, answering, reader, next_id, forgotten, timeout: limits::MESSAGE })
    }

    /// Connects and introduces itself as `name` with the experimental interface.
    ///
    /// # Errors
    /// As [`Client::dial`] and [`Client::call`].
    pub async fn connect(place: &Place, name: &str) -> anyhow::Result<Client> {
        let client = Client::dial(place).await?;
        client.initialize(name, json!({"experimentalApi": true})).await?;
        Ok(client)
    }

    /// Waits this long for a message from now on, instead of [`limits::MESSAGE`].
    #[must_use]
    pub fn with_patience(mut self, timeout: Duration) -> Client {
        self.timeout = timeout;
        self
    }

    /// `initialize` and `initialized`; gives the server's answer.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn initialize(&self, name: &str, capabilities: Value) -> anyhow::Result<Value> {
        let info = json!({"name": name, "title": name, "version": "1"});
        let answer =
            self.call("initialize", json!({"clientInfo": info, "capabilities": capabilities})).await?;
        self.notify("initialized", Value::Null).await?;
        Ok(answer)
    }

    /// Sends a request and waits for its result.
    ///
    /// # Errors
    /// As [`Client::request`]; an error answer is an [`RpcError`].
    pub async fn call(&self, method: &str, params: Value) -> anyhow::Result<Value> {
        self.request(method, params).await?.with_context(|| format!("{method} was refused"))
    }

    /// Sends a request and waits for its answer, which may be an error.
    ///
    /// # Errors
    /// The connection is lost, or no answer comes in time.
    pub async fn request(&self, method: &str, params: Value) -> anyhow::Result<Result<Value, RpcError>> {
        let sent = self.send_request(method, params).await?;
        self.answer(&sent).await
    }

    /// Sends a request and does not wait; [`Client::answer`] does.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn send_request(&self, method: &str, params: Value) -> anyhow::Result<SentRequest> {
        let id = json!(self.next_id.fetch_add(1, Ordering::Relaxed));
        self.send_request_as(id, method, params).await
    }

    /// [`Client::send_request`] with an id of the caller's.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn send_request_as(
        &self,
        id: Value,
        method: &str,
        params: Value,
    ) -> anyhow::Result<SentRequest> {
        let from = self.record.len();
        self.send(json!({"id": id, "method": method, "params": params})).await?;
        Ok(SentRequest { id, method: method.to_owned(), from })
    }

    /// Waits for the answer to a request that was sent.
    ///
    /// # Errors
    /// The connection is lost, or no answer comes in time.
    pub async fn answer(&self, sent: &SentRequest) -> anyhow::Result<Result<Value, RpcError>> {
        let what = format!("the answer to {} (id {})", sent.method, sent.id);
        let is_answer = |message: &Value| message["id"] == sent.id && message.get("method").is_none();
        let answer = self.record.wait(sent.from, self.timeout, &what, is_answer).await?;
        Ok(match answer.get("error") {
            None => Ok(answer["result"].clone()),
            Some(error) => Err(RpcError {
                code: error["code"].as_i64().unwrap_or_default(),
                message: error["message"].as_str().unwrap_or_default().to_owned(),
                data: error["data"].clone(),
            }),
        })
    }

    /// Sends a notification; no parameters if they are null.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn notify(&self, method: &str, params: Value) -> anyhow::Result<()> {
        self.send(match params {
            Value::Null => json!({"method": method}),
            params => json!({"method": method, "params": params}),
        })
        .await
    }

    /// Answers a request of the server's.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn respond(&self, id: &Value, result: Value) -> anyhow::Result<()> {
        self.send(json!({"id": id, "result": result})).await
    }

    /// Answers every later request of the server's for which `answer` gives a result, as soon as it comes.
    pub fn answer_requests(&self, answer: impl Fn(&Value) -> Option<Value> + Send + 'static) {
        self.answering.set(Box::new(answer));
    }

    /// Sends one message as it is.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn send(&self, message: Value) -> anyhow::Result<()> {
        self.record.add(Direction::Sent, message.clone());
        self.send_frame(Message::text(message.to_string())).await
    }

    /// Sends any frame, without a record of it: for what is not a message of the protocol.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn send_frame(&self, frame: Message) -> anyhow::Result<()> {
        self.sink.lock().await.send(frame).await.context("the connection is lost")
    }

    /// From now on, waits look only at what comes later.
    pub fn forget(&self) {
        self.forgotten.store(self.record.len(), Ordering::Relaxed);
    }

    /// Waits for a message that `matches`; `what` names it in the error.
    ///
    /// # Errors
    /// None came in time, or the connection was lost first; the sentence lists what did come.
    pub async fn wait(&self, what: &str, matches: impl FnMut(&Value) -> bool) -> anyhow::Result<Value> {
        self.record.wait(self.forgotten.load(Ordering::Relaxed), self.timeout, what, matches).await
    }

    /// Waits for a notification or a request of the server's with this method.
    ///
    /// # Errors
    /// As [`Client::wait`].
    pub async fn wait_method(&self, method: &str) -> anyhow::Result<Value> {
        self.wait(method, |message| message["method"] == method).await
    }

    /// Waits until the server has ended the connection.
    ///
    /// # Errors
    /// It has not in time.
    pub async fn wait_closed(&self) -> anyhow::Result<Closed> {
        self.record.wait_closed(self.timeout).await
    }

    /// Everything sent and received so far, in order.
    pub fn transcript(&self) -> Vec<Entry> {
        self.record.entries()
    }

    /// What goes over the connection, also after the client is gone.
    pub fn recording(&self) -> Recording {
        Recording(self.record.clone())
    }

    /// The received messages since [`Client::forget`].
    pub fn received(&self) -> Vec<Value> {
        let entries = self.record.entries().into_iter().skip(self.forgotten.load(Ordering::Relaxed));
        entries.filter(|entry| entry.direction == Direction::Received).map(|entry| entry.message).collect()
    }

    /// Ends the connection with a closing frame and waits until the server has agreed.
    ///
    /// # Errors
    /// The server does not answer in time.
    pub async fn close(self) -> anyhow::Result<()> {
        if self.send_frame(Message::Close(None)).await.is_ok() {
            self.wait_closed().await?;
        }
        Ok(())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// A request that may not have been answered yet.
#[derive(Clone, Debug)]
pub struct SentRequest {
    id: Value,
    method: String,
    from: usize,
}

impl SentRequest {
    /// The id that it was sent with.
    pub fn id(&self) -> &Value {
        &self.id
    }
}

/// The text of a server request's or notification's method.
///
/// # Errors
/// The message has none: it is an answer.
pub fn method_of(message: &Value) -> anyhow::Result<&str> {
    let Some(method) = message["method"].as_str() else { bail!("not a notification or request: {message}") };
    Ok(method)
}

#[cfg(test)]
mod tests;
