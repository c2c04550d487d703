//! The network's door: WebSocket over TCP for whoever shows the token, and nothing for a browser.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use codexd_core::contract::EventLevel;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::timeout;
use tungstenite::handshake::server::Request;
use tungstenite::http::{StatusCode, header};

use super::clients;
use super::event_loop::HubDriver;
use super::stream::Stream;
use super::tcp_auth::Token;
use crate::host::{HostCommand, TcpListenerConfig};
use crate::limits::{
    ACCEPT_PAUSE_MS, HTTP_HEAD_BYTES_MAX, KEEPALIVE_SECONDS, LEAVE_TIMEOUT_MS, LISTEN_RETRY_FIRST_MS,
    LISTEN_RETRY_LAST_MS, TCP_HEAD_MAX_MS, TCP_INITIALIZE_MAX_MS, TCP_UNAUTHENTICATED_MAX,
};
use codexd_protocol::websocket::handshake::{self, Asked};

/// The TCP listener as the settings have it, if there is one.
#[derive(Debug, Default)]
pub(super) struct Listener {
    running: Option<Running>,
}

/// What clients have to show; none before the listener is open, and when it is closed.
type Expected = Rc<RefCell<Option<Token>>>;

#[derive(Debug)]
struct Running {
    door: TcpListenerConfig,
    token: Expected,
    task: JoinHandle<()>,
}

impl Listener {
    /// Listens there from now on, with the token that the file holds now. Clients that are connected stay. The host gets a report
    /// when it is known whether it worked.
    pub(super) fn configure(&mut self, driver: &Rc<HubDriver>, door: Option<TcpListenerConfig>) {
        if let (Some(running), Some(door)) = (&self.running, &door)
            && running.door == *door
            && running.has_token_of_file()
        {
            return report_listening(driver, door);
        }
        self.stop();
        match door {
            Some(door) => {
                let token = Rc::default();
                let task = spawn_local(run(Rc::clone(driver), door.clone(), Rc::clone(&token)));
                self.running = Some(Running { door, token, task });
            }
            None => driver.host_commands.give(HostCommand::Report(json!({"listener": null}))),
        }
    }

    /// Closes the socket. Clients that are connected stay; the token counts no more.
    pub(super) fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.task.abort();
            running.token.replace(None);
        }
    }
}

impl Running {
    fn has_token_of_file(&self) -> bool {
        self.token
            .borrow()
            .as_ref()
            .is_some_and(|token| Token::of(&self.door.token_file).is_ok_and(|now| now == *token))
    }
}

/// Listens, as soon as that works, and lets clients in for as long as it is polled. Clients of the control socket do not
/// suffer from a port that is taken.
async fn run(driver: Rc<HubDriver>, door: TcpListenerConfig, expected: Expected) {
    let mut wait = LISTEN_RETRY_FIRST_MS;
    let (listener, address, token) = loop {
        match open(&door).await {
            Ok(open) => break open,
            Err(error) => {
                if wait == LISTEN_RETRY_FIRST_MS {
                    note_closed(&driver, &door, &error);
                }
                tokio::time::sleep(Duration::from_millis(wait)).await;
                wait = (wait * 2).min(LISTEN_RETRY_LAST_MS);
            }
        }
    };
    expected.replace(Some(token));
    report_listening(&driver, &TcpListenerConfig { listen: address, ..door.clone() });
    let url = format!("ws://{address}");
    let message =
        format!("listening on {url}; clients authenticate with the token in {}", door.token_file.display());
    let detail = json!({"url": url, "tokenFile": door.token_file});
    driver.host_commands.note(EventLevel::Info, "gateway.listening", message, detail);
    accept(driver, listener, expected).await;
}

fn report_listening(driver: &HubDriver, door: &TcpListenerConfig) {
    let url = format!("ws://{}", door.listen);
    let listener = json!({"listen": url, "error": null});
    driver.host_commands.give(HostCommand::Report(json!({"listening": url, "listener": listener})));
}

async fn open(door: &TcpListenerConfig) -> io::Result<(TcpListener, SocketAddr, Token)> {
    let token = Token::of(&door.token_file)?;
    let listener = TcpListener::bind(door.listen).await?;
    let address = listener.local_addr()?;
    Ok((listener, address, token))
}

fn note_closed(driver: &HubDriver, door: &TcpListenerConfig, error: &io::Error) {
    let message = format!("failed to listen on ws://{}: {error}; the gateway retries", door.listen);
    let detail = json!({"listen": door.listen, "tokenFile": door.token_file, "error": error.to_string()});
    driver.host_commands.note(EventLevel::Error, "gateway.listenFailed", message, detail);
    let listener = json!({"listen": format!("ws://{}", door.listen), "error": error.to_string()});
    driver.host_commands.give(HostCommand::Report(json!({"listener": listener})));
}

/// The connections that have not shown the token yet, the oldest first.
#[derive(Debug, Default)]
struct Unauthenticated(RefCell<VecDeque<Rc<Pending>>>);

#[derive(Debug, Default)]
struct Pending {
    has_sent: Cell<bool>,
    evicted: Notify,
}

impl Unauthenticated {
    /// Adds one. If there are too many, the oldest that has sent nothing makes room, else the oldest.
    fn add(&self) -> Rc<Pending> {
        let mut all = self.0.borrow_mut();
        if all.len() >= TCP_UNAUTHENTICATED_MAX {
            let silent = all.iter().position(|pending| !pending.has_sent.get());
            if let Some(oldest) = all.remove(silent.unwrap_or_default()) {
                oldest.evicted.notify_one();
            }
        }
        let pending = Rc::<Pending>::default();
        all.push_back(Rc::clone(&pending));
        pending
    }

    fn remove(&self, pending: &Rc<Pending>) {
        self.0.borrow_mut().retain(|other| !Rc::ptr_eq(other, pending));
    }
}

async fn accept(driver: Rc<HubDriver>, listener: TcpListener, expected: Expected) {
    let unauthenticated = Rc::<Unauthenticated>::default();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let pending = unauthenticated.add();
                let (driver, expected, all) =
                    (Rc::clone(&driver), Rc::clone(&expected), Rc::clone(&unauthenticated));
                spawn_local(async move {
                    let known = tokio::select! {
                        known = admit_peer(&driver, stream, &expected, &pending) => known,
                        () = pending.evicted.notified() => None,
                    };
                    all.remove(&pending);
                    if let Some((stream, read)) = known {
                        let within = Duration::from_millis(TCP_INITIALIZE_MAX_MS);
                        clients::serve(driver, stream, read, Some(within), None).await;
                    }
                });
            }
            // Out of descriptors, most likely: others have to leave first.
            Err(_) => tokio::time::sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await,
        }
    }
}

async fn admit_peer(
    driver: &HubDriver,
    stream: TcpStream,
    expected: &Expected,
    pending: &Pending,
) -> Option<(Stream, Vec<u8>)> {
    // Not vital: without them it is slower, or a peer that vanished is noticed late.
    let _ = stream.set_nodelay(true);
    let _ = rustix::net::sockopt::set_socket_keepalive(&stream, true);
    let _ = rustix::net::sockopt::set_tcp_keepidle(&stream, Duration::from_secs(KEEPALIVE_SECONDS));
    let stream = Stream::tcp(stream).ok()?;
    let within = Duration::from_millis(TCP_HEAD_MAX_MS);
    let read =
        Box::pin(timeout(within, handshake(driver, &stream, expected, pending))).await.ok()?.ok()??;
    Some((stream, read))
}

/// Hands back what came behind the request; `None` if it was answered otherwise.
async fn handshake(
    driver: &HubDriver,
    stream: &Stream,
    expected: &Expected,
    pending: &Pending,
) -> io::Result<Option<Vec<u8>>> {
    let mut head = Vec::new();
    let refusal = loop {
        match handshake::parse_request(&head) {
            Asked::Incomplete if head.len() < HTTP_HEAD_BYTES_MAX => {
                stream.read_more(&mut head).await?;
                pending.has_sent.set(true);
            }
            Asked::Incomplete => break answer(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
            Asked::Garbage => break answer(StatusCode::BAD_REQUEST),
            Asked::Request(length, request) => match decide(&request, expected, driver) {
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
fn decide(request: &Request, expected: &Expected, driver: &HubDriver) -> Result<Vec<u8>, Vec<u8>> {
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
        Some(shown) if expected.borrow().as_ref().is_some_and(|token| token.is(shown)) => Ok(switch),
        Some(_) => Err(handshake::answer(StatusCode::UNAUTHORIZED, "invalid websocket bearer token")),
    }
}
