//! Listens for WebSocket clients on TCP. A client has to send the token; browsers are refused.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use codexd_protocol::websocket::handshake::{self, Asked};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{sleep, timeout};
use tungstenite::handshake::server::Request;
use tungstenite::http::{StatusCode, header};

use super::shell_context::ShellContext;
use super::stream::Stream;
use super::tcp_auth::{ExpectedToken, Token};
use super::{event_log, serve_client};
use crate::host::{HostCommand, TcpListenerConfig};
use crate::limits::{
    ACCEPT_PAUSE_MS, HTTP_HEAD_BYTES_MAX, KEEPALIVE_SECONDS, LISTEN_RETRY_FIRST_MS, LISTEN_RETRY_LAST_MS,
    SHUTDOWN_TIMEOUT_MS, TCP_HEAD_MAX_MS, TCP_INITIALIZE_MAX_MS, TCP_UNAUTHENTICATED_MAX,
};

/// The TCP listener of the current settings, if they have one.
#[derive(Debug, Default)]
pub(super) struct TcpListener {
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    config: TcpListenerConfig,
    token: Rc<ExpectedToken>,
    task: JoinHandle<()>,
}

impl TcpListener {
    /// Listens as configured, with the token that the file holds now. Connected clients stay. The host gets a report once it
    /// is known whether listening works.
    pub(super) fn configure(&mut self, shell: &Rc<ShellContext>, config: Option<TcpListenerConfig>) {
        if let (Some(running), Some(config)) = (&self.running, &config)
            && running.config == *config
            && running.token.is_current(&config.token_file)
        {
            return report_listening(shell, config.listen);
        }
        self.stop();
        match config {
            Some(config) => {
                let token = Rc::default();
                let task = spawn_local(run(Rc::clone(shell), config.clone(), Rc::clone(&token)));
                self.running = Some(Running { config, token, task });
            }
            None => shell.host_commands.push(HostCommand::Report(json!({"listener": null}))),
        }
    }

    /// Closes the listening socket and revokes the token. Connected clients stay.
    pub(super) fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.task.abort();
            running.token.set(None);
        }
    }
}

/// Listens and accepts clients until the task is aborted. If the port is taken, it retries; clients of the control socket are
/// not affected.
async fn run(shell: Rc<ShellContext>, config: TcpListenerConfig, expected: Rc<ExpectedToken>) {
    let mut wait = LISTEN_RETRY_FIRST_MS;
    let (socket, address, token) = loop {
        match listen(&config).await {
            Ok(listening) => break listening,
            Err(error) => {
                if wait == LISTEN_RETRY_FIRST_MS {
                    report_failure(&shell, &config, &error);
                }
                sleep(Duration::from_millis(wait)).await;
                wait = (wait * 2).min(LISTEN_RETRY_LAST_MS);
            }
        }
    };
    expected.set(Some(token));
    report_listening(&shell, address);
    shell.host_commands.log(event_log::listening(address, &config.token_file));
    accept(shell, socket, expected).await;
}

async fn listen(config: &TcpListenerConfig) -> io::Result<(tokio::net::TcpListener, SocketAddr, Token)> {
    let token = Token::of(&config.token_file)?;
    let socket = tokio::net::TcpListener::bind(config.listen).await?;
    let address = socket.local_addr()?;
    Ok((socket, address, token))
}

fn report_listening(shell: &ShellContext, address: SocketAddr) {
    let url = format!("ws://{address}");
    let listener = json!({"listen": url, "error": null});
    shell.host_commands.push(HostCommand::Report(json!({"listening": url, "listener": listener})));
}

fn report_failure(shell: &ShellContext, config: &TcpListenerConfig, error: &io::Error) {
    shell.host_commands.log(event_log::listen_failed(config, error));
    let listener = json!({"listen": format!("ws://{}", config.listen), "error": error.to_string()});
    shell.host_commands.push(HostCommand::Report(json!({"listener": listener})));
}

/// The connections that have not sent the token yet, the oldest first.
#[derive(Debug, Default)]
struct Unauthenticated(RefCell<VecDeque<Rc<Pending>>>);

#[derive(Debug, Default)]
struct Pending {
    has_sent: Cell<bool>,
    evicted: Notify,
}

impl Unauthenticated {
    /// Adds a connection. If there are too many, evicts the oldest that has sent nothing, or else the oldest.
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

async fn accept(shell: Rc<ShellContext>, socket: tokio::net::TcpListener, expected: Rc<ExpectedToken>) {
    let unauthenticated = Rc::<Unauthenticated>::default();
    loop {
        match socket.accept().await {
            Ok((stream, _)) => {
                let pending = unauthenticated.add();
                let (shell, expected, all) =
                    (Rc::clone(&shell), Rc::clone(&expected), Rc::clone(&unauthenticated));
                spawn_local(async move {
                    let admitted = tokio::select! {
                        admitted = admit_peer(&shell, stream, &expected, &pending) => admitted,
                        () = pending.evicted.notified() => None,
                    };
                    all.remove(&pending);
                    if let Some((stream, read)) = admitted {
                        let within = Duration::from_millis(TCP_INITIALIZE_MAX_MS);
                        serve_client::serve(shell, stream, read, Some(within), None).await;
                    }
                });
            }
            // Most likely no descriptor is free.
            Err(_) => sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await,
        }
    }
}

async fn admit_peer(
    shell: &ShellContext,
    stream: TcpStream,
    expected: &ExpectedToken,
    pending: &Pending,
) -> Option<(Stream, Vec<u8>)> {
    // Not essential: without these options it is slower, or a vanished peer is noticed late.
    let _ = stream.set_nodelay(true);
    let _ = rustix::net::sockopt::set_socket_keepalive(&stream, true);
    let _ = rustix::net::sockopt::set_tcp_keepidle(&stream, Duration::from_secs(KEEPALIVE_SECONDS));
    let stream = Stream::tcp(stream).ok()?;
    let within = Duration::from_millis(TCP_HEAD_MAX_MS);
    let read = Box::pin(timeout(within, handshake(shell, &stream, expected, pending))).await.ok()?.ok()??;
    Some((stream, read))
}

/// Returns the bytes that followed the request; `None` if the request was answered with something else than an upgrade.
async fn handshake(
    shell: &ShellContext,
    stream: &Stream,
    expected: &ExpectedToken,
    pending: &Pending,
) -> io::Result<Option<Vec<u8>>> {
    let mut head = Vec::new();
    let refusal = loop {
        match handshake::parse_request(&head) {
            Asked::Incomplete if head.len() < HTTP_HEAD_BYTES_MAX => {
                stream.read_more(&mut head).await?;
                pending.has_sent.set(true);
            }
            Asked::Incomplete => break response(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
            Asked::Garbage => break response(StatusCode::BAD_REQUEST),
            Asked::Request(length, request) => match respond(&request, expected, shell) {
                Ok(upgrade) => {
                    stream.write_all(&upgrade).await?;
                    return Ok(Some(head.split_off(length)));
                }
                Err(other) => break other,
            },
        }
    };
    stream.write_all(&refusal).await?;
    stream.finish()?;
    // If a socket is closed with unread input, the kernel resets the connection and the peer may lose the response.
    let hangup = async {
        while stream.read_more(&mut head).await.is_ok() {
            head.clear();
        }
    };
    let _ = timeout(Duration::from_millis(SHUTDOWN_TIMEOUT_MS), hangup).await;
    Ok(None)
}

fn response(status: StatusCode) -> Vec<u8> {
    handshake::answer(status, "")
}

/// The response that upgrades the connection, or as the error any other, in the words of app-server 0.169.0.
fn respond(request: &Request, expected: &ExpectedToken, shell: &ShellContext) -> Result<Vec<u8>, Vec<u8>> {
    if request.headers().contains_key(header::ORIGIN) {
        return Err(response(StatusCode::FORBIDDEN));
    }
    match request.uri().path() {
        "/healthz" => return Err(response(StatusCode::OK)),
        "/readyz" if shell.is_ready() => return Err(response(StatusCode::OK)),
        "/readyz" => return Err(response(StatusCode::SERVICE_UNAVAILABLE)),
        _ => {}
    }
    let upgrade = handshake::switch(request).ok_or_else(|| response(StatusCode::BAD_REQUEST))?;
    expected.authenticate(request).map(|()| upgrade)
}
