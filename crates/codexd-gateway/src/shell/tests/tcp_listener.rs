//! The TCP listener.

use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::{Socket, TestGateway, next_text, soon, with_gateway_config};
use crate::host::{HostCommand, HostEvent, TcpListenerConfig};
use crate::hub::{Action, Event};
use crate::limits::TCP_UNAUTHENTICATED_MAX;

fn any_port(folder: &Path) -> Option<TcpListenerConfig> {
    Some(TcpListenerConfig {
        listen: "127.0.0.1:0".parse().expect("an address"),
        token_file: folder.join("token"),
    })
}

/// The address, once the gateway listens.
async fn address(gateway: &mut TestGateway) -> String {
    let HostCommand::Report(report) = gateway.host_command().await else { panic!("a report") };
    let url = report["listening"].as_str().expect("a url").to_owned();
    let HostCommand::Note { kind, .. } = gateway.host_command().await else { panic!("a log entry") };
    assert_eq!(kind, "gateway.listening");
    url.trim_start_matches("ws://").to_owned()
}

/// A client that has sent the token.
async fn client(gateway: &mut TestGateway, address: &str) -> Socket<TcpStream> {
    let token = std::fs::read_to_string(gateway.path("token")).expect("a token");
    let mut request = format!("ws://{address}/rpc").into_client_request().expect("a request");
    let bearer = format!("bearer {}", token.trim()).parse().expect("a header");
    request.headers_mut().insert("authorization", bearer);
    let stream = TcpStream::connect(address).await.expect("connected");
    let (socket, _) = soon(tokio_tungstenite::client_async(request, stream)).await.expect("accepted");
    assert!(matches!(gateway.next().await, Event::ClientConnected(_)));
    socket
}

async fn request(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    soon(stream.read_to_end(&mut answer)).await.expect("answered");
    String::from_utf8(answer).expect("text")
}

const UPGRADE: &str = "Host: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

#[test]
fn every_request_gets_its_status() {
    with_gateway_config(
        any_port,
        |_| true,
        async |gateway| {
            let address = address(gateway).await;
            let long = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(20_000));
            let requests = [
                ("GET /healthz HTTP/1.1\r\n\r\n".to_owned(), "200", ""),
                ("GET /readyz HTTP/1.1\r\n\r\n".into(), "200", ""),
                ("GET /healthz HTTP/1.1\r\nOrigin: null\r\n\r\n".into(), "403", ""),
                (format!("GET / HTTP/1.1\r\n{UPGRADE}Origin: http://127.0.0.1\r\n\r\n"), "403", ""),
                ("GET / HTTP/1.1\r\nHost: x\r\n\r\n".into(), "400", ""),
                ("POST /healthz HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi".into(), "400", ""),
                ("\x16\x03\x01\x02\r\n\r\n".into(), "400", ""),
                (long, "431", ""),
                (format!("GET / HTTP/1.1\r\n{UPGRADE}\r\n"), "401", "missing websocket bearer token"),
                (
                    format!("GET / HTTP/1.1\r\n{UPGRADE}Authorization: Basic x\r\n\r\n"),
                    "401",
                    "missing websocket bearer token",
                ),
                (
                    format!("GET /a HTTP/1.1\r\n{UPGRADE}Authorization: Bearer x\r\n\r\n"),
                    "401",
                    "invalid websocket bearer token",
                ),
            ];
            for (request, status, body) in requests {
                let answer = self::request(&address, &request).await;
                assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {answer:?}");
                assert_eq!(answer.split_once("\r\n\r\n").map(|(_, body)| body), Some(body), "{request:?}");
            }
            gateway.script.borrow_mut().unready = true;
            assert!(request(&address, "GET /readyz HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 503 "));
            gateway.nothing_happened();
        },
    );
}

#[test]
fn a_connection_with_the_token_is_a_client() {
    with_gateway_config(
        any_port,
        |_| true,
        async |gateway| {
            let address = address(gateway).await;
            let token = std::fs::read_to_string(gateway.path("token")).expect("a token");
            let mut request = format!("ws://{address}/rpc").into_client_request().expect("a request");
            let bearer = format!("bearer {}", token.trim()).parse().expect("a header");
            request.headers_mut().insert("authorization", bearer);
            let stream = TcpStream::connect(&address).await.expect("connected");
            let (mut socket, _) =
                soon(tokio_tungstenite::client_async(request, stream)).await.expect("accepted");
            let Event::ClientConnected(client) = gateway.next().await else { panic!("a client") };
            gateway.act(vec![Action::SendToClient(client, "hello".into())]).await;
            assert_eq!(next_text(&mut socket).await, "hello");
            drop(socket);
            assert!(matches!(gateway.next().await, Event::ClientDisconnected(_)));
        },
    );
}

#[test]
fn a_silent_connection_without_the_token_makes_room_for_the_next_one() {
    with_gateway_config(
        any_port,
        |_| true,
        async |gateway| {
            let address = address(gateway).await;
            let mut speaking = TcpStream::connect(&address).await.expect("connected");
            speaking.write_all(b"GET /healthz HTTP/1.1\r\n").await.expect("sent");
            let mut silent = Vec::new();
            for _ in 0..TCP_UNAUTHENTICATED_MAX {
                silent.push(TcpStream::connect(&address).await.expect("connected"));
            }
            assert!(request(&address, "GET /healthz HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 200 "));
            let mut byte = [0];
            assert_eq!(soon(silent[0].read(&mut byte)).await.expect("closed"), 0, "the oldest is closed");
            speaking.write_all(b"\r\n").await.expect("sent");
            assert_eq!(
                soon(speaking.read(&mut byte)).await.expect("answered"),
                1,
                "one that has sent something stays"
            );
        },
    );
}

#[test]
fn a_connection_that_sends_no_head_or_no_initialize_is_closed() {
    with_gateway_config(
        any_port,
        |_| true,
        async |gateway| {
            let address = address(gateway).await;
            let mut silent = TcpStream::connect(&address).await.expect("connected");
            let mut byte = [0];
            assert_eq!(soon(silent.read(&mut byte)).await.expect("closed"), 0);
            gateway.script.borrow_mut().is_uninitialized = true;
            let mut client = client(gateway, &address).await;
            assert_eq!(next_text(&mut client).await, "close 1008 no initialize in time");
            assert!(matches!(gateway.next().await, Event::ClientDisconnected(_)));
        },
    );
}

#[test]
fn a_removed_listener_and_a_replaced_token_take_effect_with_the_next_configuration() {
    with_gateway_config(
        any_port,
        |_| true,
        async |gateway| {
            let first = address(gateway).await;
            let known = client(gateway, &first).await;
            let config = |gateway: &TestGateway, listen: &str| {
                Some(TcpListenerConfig {
                    listen: listen.parse().expect("an address"),
                    token_file: gateway.path("token"),
                })
            };
            let configure = async |gateway: &mut TestGateway, tcp: Option<TcpListenerConfig>| {
                let subagent_approvals = codexd_core::config::SubagentApprovals::default();
                gateway.send_host_event(HostEvent::Configure { tcp, subagent_approvals }).await;
                assert!(matches!(gateway.next().await, Event::SubagentApprovals(_)));
            };
            let any = config(gateway, "127.0.0.1:0");
            configure(gateway, any.clone()).await;
            let HostCommand::Report(report) = gateway.host_command().await else { panic!("a report") };
            assert_eq!(report["listener"]["error"], serde_json::Value::Null);
            gateway.act(Vec::new()).await;
            gateway.nothing_happened();

            let old = std::fs::read_to_string(gateway.path("token")).expect("a token");
            std::fs::remove_file(gateway.path("token")).expect("removed");
            configure(gateway, any).await;
            let second = loop {
                match gateway.host_command().await {
                    HostCommand::Report(report) => {
                        break report["listening"]
                            .as_str()
                            .expect("a url")
                            .trim_start_matches("ws://")
                            .to_owned();
                    }
                    _ => continue,
                }
            };
            let request = format!("GET / HTTP/1.1\r\n{UPGRADE}Authorization: Bearer {}\r\n\r\n", old.trim());
            assert!(self::request(&second, &request).await.starts_with("HTTP/1.1 401 "));
            configure(gateway, None).await;
            assert!(TcpStream::connect(&second).await.is_err());
            drop(known);
            assert!(
                matches!(gateway.next().await, Event::ClientDisconnected(_)),
                "it was connected until now"
            );
        },
    );
}

#[test]
fn a_listener_that_fails_is_retried_and_the_control_socket_is_open() {
    with_gateway_config(
        |folder| {
            std::fs::write(folder.join("token"), "short").expect("written");
            any_port(folder)
        },
        |_| true,
        async |gateway| {
            let HostCommand::Note { kind, message, .. } = gateway.host_command().await else {
                panic!("a log entry")
            };
            assert_eq!(kind, "gateway.listenFailed");
            assert!(message.contains("token"), "{message}");
            let HostCommand::Report(report) = gateway.host_command().await else { panic!("a report") };
            assert!(
                report["listener"]["error"].as_str().is_some_and(|error| error.contains("token")),
                "{report}"
            );
            let (_, _socket) = gateway.client().await;
            std::fs::remove_file(gateway.path("token")).expect("removed");
            address(gateway).await;
        },
    );
}
