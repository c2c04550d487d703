//! Client connections: accepts them, reads their messages, writes what is queued for them.
//!
//! As upstream, a text that is no message of the protocol is dropped without an answer and the connection stays: invalid
//! JSON, arrays, ids that are no integer or string, binary frames, unknown notifications.

use std::sync::Arc;
use std::time::Duration;

use codexd_protocol::{Message, RequestId};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WebSocketError, Message as WebSocketMessage};

use crate::ids::{ConnectionId, ServerRequestId};
use crate::limits::{
    ACCEPT_RETRY_MS, FRAME_BYTES_MAX, HANDSHAKE_TIMEOUT_MS, MESSAGE_BYTES_MAX, READ_BUFFER_BYTES,
    WRITE_BUFFER_BYTES,
};
use crate::model::Decision;
use crate::refusal::Refusal;
use crate::server::Event;
use crate::server::outbox::Outbox;
use crate::wire;

/// The header in which the handshake tells the largest frame.
const FRAME_HEADER: &str = "x-codex-websocket-max-unfragmented-message-bytes";

type WebSocket = WebSocketStream<UnixStream>;

/// Accepts clients for as long as the listener lives.
pub(crate) async fn accept(listener: UnixListener, events: Sender<Event>) {
    let mut count = 0;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                count += 1;
                tokio::spawn(serve(ConnectionId(count), stream, events.clone()));
            }
            Err(error) => {
                // Usually out of file descriptors: other clients have to disconnect first.
                eprintln!("failed to accept a client: {error}");
                tokio::time::sleep(Duration::from_millis(ACCEPT_RETRY_MS)).await;
            }
        }
    }
}

async fn serve(connection: ConnectionId, stream: UnixStream, events: Sender<Event>) {
    let limit = Duration::from_millis(HANDSHAKE_TIMEOUT_MS);
    let Ok(Ok(socket)) = timeout(limit, shake_hands(stream)).await else { return };
    let outbox = Arc::new(Outbox::default());
    if events.send(Event::Opened { connection, outbox: Arc::clone(&outbox) }).await.is_err() {
        return;
    }
    let (sink, stream) = socket.split();
    tokio::select! {
        () = read(connection, stream, &events, &outbox) => {}
        _ = write(sink, &outbox) => {}
    }
    outbox.close();
    // The event loop ends only with the server.
    let _ = events.send(Event::Closed { connection }).await;
}

async fn shake_hands(stream: UnixStream) -> Result<WebSocket, WebSocketError> {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_frame_size(Some(FRAME_BYTES_MAX))
        .max_message_size(Some(MESSAGE_BYTES_MAX));
    #[expect(clippy::result_large_err, reason = "the library's callback has this type")]
    let header = |_: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
        response.headers_mut().insert(FRAME_HEADER, HeaderValue::from(FRAME_BYTES_MAX));
        Ok(response)
    };
    tokio_tungstenite::accept_hdr_async_with_config(stream, header, Some(config)).await
}

async fn write(
    mut sink: SplitSink<WebSocket, WebSocketMessage>,
    outbox: &Outbox,
) -> Result<(), WebSocketError> {
    while let Some(frame) = outbox.next().await {
        let send = async {
            sink.feed(WebSocketMessage::Text(frame)).await?;
            if outbox.is_empty() { sink.flush().await } else { Ok(()) }
        };
        tokio::select! {
            sent = send => sent?,
            () = outbox.was_cut() => return Ok(()),
        }
    }
    Ok(())
}

async fn read(
    connection: ConnectionId,
    mut stream: SplitStream<WebSocket>,
    events: &Sender<Event>,
    outbox: &Outbox,
) {
    while let Some(Ok(message)) = stream.next().await {
        let event = match &message {
            WebSocketMessage::Text(text) => understand(connection, text, outbox),
            WebSocketMessage::Close(_) => return,
            _ => None,
        };
        let delivered = match event {
            None => Ok(()),
            Some(Event::Request { connection, id, method, params }) => {
                offer(Event::Request { connection, id, method, params }, events, outbox)
            }
            Some(event) => events.send(event).await.map_err(drop),
        };
        if delivered.is_err() {
            return;
        }
    }
}

/// Queues a request for the event loop, or refuses it if the queue is full.
fn offer(event: Event, events: &Sender<Event>, outbox: &Outbox) -> Result<(), ()> {
    match events.try_send(event) {
        Ok(()) => Ok(()),
        Err(TrySendError::Full(Event::Request { id, .. })) => {
            outbox.push(wire::reply(&id, Err(Refusal::overloaded())));
            Ok(())
        }
        Err(_) => Err(()),
    }
}

/// What a text means to us; `None` if nothing. Parameters that this server cannot hold, such as a number beyond the range of 64
/// bits, are refused: the app-server answers such a request, so its client waits for an answer.
fn understand(connection: ConnectionId, text: &str, outbox: &Outbox) -> Option<Event> {
    let checked = codexd_protocol::check(text).ok()?;
    let id = checked.message.request_id()?;
    match (checked.message, id) {
        (Message::Request { method, params, .. }, id) => {
            let method = match checked.escaped_method {
                Some(escaped) => serde_json::from_str(escaped).ok()?,
                None => method.to_owned(),
            };
            match params.map(|params| serde_json::from_str(params.get())).transpose() {
                Ok(params) => Some(Event::Request { connection, id, method, params }),
                Err(error) => {
                    outbox.push(wire::reply(&id, Err(Refusal::malformed(error))));
                    None
                }
            }
        }
        (Message::Response { outcome, .. }, RequestId::Integer(request)) => {
            let result: Option<Value> =
                outcome.ok().and_then(|result| serde_json::from_str(result.get()).ok());
            let decision = Decision::parse(result.as_ref());
            Some(Event::Response { connection, request: ServerRequestId(request), decision })
        }
        _ => None,
    }
}
