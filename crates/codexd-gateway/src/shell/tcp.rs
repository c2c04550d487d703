//! The network's door: WebSocket over TCP for whoever shows the token, and nothing for a browser.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use codexd_core::contract::EventLevel;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tungstenite::handshake::server::Request;
use tungstenite::http::{StatusCode, header};

use super::clients;
use super::driver::Driver;
use super::stream::Stream;
use super::token::Token;
use crate::host::{HostOrder, TcpDoor};
use crate::limits::{
    DEAF_MS, DOOR_FIRST_WAIT_MS, DOOR_LAST_WAIT_MS, HANDSHAKE_TIMEOUT_MS, HTTP_HEAD_BYTES_MAX,
    KEEPALIVE_SECONDS, LEAVE_TIMEOUT_MS, TCP_STRANGERS_MAX,
};
use codexd_protocol::websocket::handshake::{self, Asked};

/// Opens the door, as soon as it can be, and lets clients in for as long as it is polled. Whoever comes over the control
/// socket does not suffer from a port that is taken.
pub(super) async fn run(driver: Rc<Driver>, door: TcpDoor) {
    let mut wait = DOOR_FIRST_WAIT_MS;
    let (listener, address, token) = loop {
        match open(&door).await {
            Ok(open) => break open,
            Err(error) => {
                if wait == DOOR_FIRST_WAIT_MS {
                    note_closed(&driver, &door, &error);
                }
                tokio::time::sleep(Duration::from_millis(wait)).await;
                wait = (wait * 2).min(DOOR_LAST_WAIT_MS);
            }
        }
    };
    let url = format!("ws://{address}");
    driver.orders.give(HostOrder::Report(json!({"listening": url})));
    let message = format!("clients may come over {url} with the token in {}", door.token_file.display());
    let detail = json!({"url": url, "tokenFile": door.token_file});
    driver.orders.note(EventLevel::Info, "gateway.listening", message, detail);
    accept(driver, listener, Rc::new(token)).await;
}

async fn open(door: &TcpDoor) -> io::Result<(TcpListener, SocketAddr, Token)> {
    let token = Token::of(&door.token_file)?;
    let listener = TcpListener::bind(door.listen).await?;
    let address = listener.local_addr()?;
    Ok((listener, address, token))
}

fn note_closed(driver: &Driver, door: &TcpDoor, error: &io::Error) {
    let message = format!("failed to open ws://{}: {error}; tried again until it works", door.listen);
    let detail = json!({"listen": door.listen, "tokenFile": door.token_file, "error": error.to_string()});
    driver.orders.note(EventLevel::Error, "gateway.doorClosed", message, detail);
}

async fn accept(driver: Rc<Driver>, listener: TcpListener, token: Rc<Token>) {
    let strangers = Rc::new(Semaphore::new(TCP_STRANGERS_MAX));
    loop {
        // The permit goes back when the token was shown, or the connection ends.
        let Ok(permit) = strangers.acquire().await else { return };
        permit.forget();
        match listener.accept().await {
            Ok((stream, _)) => {
                let (driver, token, strangers) =
                    (Rc::clone(&driver), Rc::clone(&token), Rc::clone(&strangers));
                tokio::task::spawn_local(async move {
                    let known = enter(&driver, stream, &token).await;
                    strangers.add_permits(1);
                    if let Some((stream, read)) = known {
                        clients::serve(driver, stream, read).await;
                    }
                });
            }
            Err(_) => {
                strangers.add_permits(1);
                tokio::time::sleep(Duration::from_millis(DEAF_MS)).await;
            }
        }
    }
}

async fn enter(driver: &Driver, stream: TcpStream, token: &Token) -> Option<(Stream, Vec<u8>)> {
    // Not vital: without them it is slower, or a peer that vanished is noticed late.
    let _ = stream.set_nodelay(true);
    let _ = rustix::net::sockopt::set_socket_keepalive(&stream, true);
    let _ = rustix::net::sockopt::set_tcp_keepidle(&stream, Duration::from_secs(KEEPALIVE_SECONDS));
    let stream = Stream::tcp(stream).ok()?;
    let patience = Duration::from_millis(HANDSHAKE_TIMEOUT_MS);
    let read = Box::pin(timeout(patience, shake_hands(driver, &stream, token))).await.ok()?.ok()??;
    Some((stream, read))
}

/// Hands back what came behind the request; `None` if it was answered otherwise.
async fn shake_hands(driver: &Driver, stream: &Stream, token: &Token) -> io::Result<Option<Vec<u8>>> {
    let mut head = Vec::new();
    let refusal = loop {
        match handshake::parse_request(&head) {
            Asked::Incomplete if head.len() < HTTP_HEAD_BYTES_MAX => stream.read_more(&mut head).await?,
            Asked::Incomplete => break answer(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
            Asked::Garbage => break answer(StatusCode::BAD_REQUEST),
            Asked::Request(length, request) => match decide(&request, token, driver) {
                Ok(switch) => {
                    stream.write_all(&switch).await?;
                    return Ok(Some(head.split_off(length)));
                }
                Err(refusal) => break refusal,
            },
        }
    };
    stream.write_all(&refusal).await?;
    stream.finish()?;
    // Closed at once, a socket with unread bytes may take the answer back from the other end.
    let goodbye = async {
        while stream.read_more(&mut head).await.is_ok() {
            head.clear();
        }
    };
    let _ = timeout(Duration::from_millis(LEAVE_TIMEOUT_MS), goodbye).await;
    Ok(None)
}

fn answer(status: StatusCode) -> Vec<u8> {
    handshake::answer(status, "")
}

/// The answer that lets somebody in, or the one that does not: in the words of app-server 0.169.0.
fn decide(request: &Request, token: &Token, driver: &Driver) -> Result<Vec<u8>, Vec<u8>> {
    if request.headers().contains_key(header::ORIGIN) {
        return Err(answer(StatusCode::FORBIDDEN));
    }
    match request.uri().path() {
        "/healthz" => return Err(answer(StatusCode::OK)),
        "/readyz" if driver.is_ready() => return Err(answer(StatusCode::OK)),
        "/readyz" => return Err(answer(StatusCode::SERVICE_UNAVAILABLE)),
        _ => {}
    }
    let switch = handshake::switch(request).ok_or_else(|| answer(StatusCode::BAD_REQUEST))?;
    let shown = request.headers().get(header::AUTHORIZATION).and_then(|value| {
        let (scheme, token) = value.as_bytes().split_at_checked("Bearer ".len())?;
        scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
    });
    match shown {
        None => Err(handshake::answer(StatusCode::UNAUTHORIZED, "missing websocket bearer token")),
        Some(shown) if token.is(shown) => Ok(switch),
        Some(_) => Err(handshake::answer(StatusCode::UNAUTHORIZED, "invalid websocket bearer token")),
    }
}
