//! `codexd proxy --lines`: JSON a line each way.

use std::os::unix::net::UnixStream;

use codexd_testkit::{AppServer, Codexd, Home, Server, block_on, skip};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::{WebSocket, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message};

use super::{SERVERS, piped, proxy, stub};

fn lines(messages: &[Value]) -> Vec<u8> {
    messages.iter().map(|message| format!("{message}\n")).collect::<String>().into_bytes()
}

fn parsed(stdout: &[u8]) -> anyhow::Result<Vec<Value>> {
    std::str::from_utf8(stdout)?.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

fn script() -> Vec<Value> {
    let client = json!({"name": "script", "title": null, "version": "1"});
    let mut script = vec![
        json!({"id": "hello", "method": "initialize", "params": {"clientInfo": client}}),
        json!({"method": "initialized"}),
    ];
    script.extend((0..50).map(|id| json!({"id": id, "method": "thread/loaded/list", "params": {}})));
    script
}

fn assert_all_answered(stdout: &[u8]) -> anyhow::Result<()> {
    let said = parsed(stdout)?;
    assert!(said.iter().any(|said| said["id"] == "hello" && said["result"]["userAgent"].is_string()));
    for id in 0..50 {
        let answers = said.iter().filter(|said| said["id"] == id && said["result"]["data"].is_array());
        assert_eq!(answers.count(), 1, "{id}");
    }
    Ok(())
}

#[test]
fn a_script_gets_every_response_and_the_end_of_input() -> anyhow::Result<()> {
    for server in SERVERS {
        let home = Home::new()?;
        let running = match block_on(AppServer::start(&home, server)) {
            Ok(running) => running,
            Err(error) if matches!(server, Server::Real(_)) => skip!("no Codex: {error:#}"),
            Err(error) => return Err(error),
        };
        let output = piped(proxy(&home, &["--lines"])?, lines(&script()), true)?;
        assert_eq!(output.status.code(), Some(0), "{server:?}: {}", String::from_utf8_lossy(&output.stderr));
        assert_all_answered(&output.stdout)?;
        drop(running);
    }
    Ok(())
}

#[test]
fn proxy_without_a_socket_connects_to_the_home() -> anyhow::Result<()> {
    let home = Home::new()?;
    let codexd = Codexd::new(&home)?;
    codexd.json(&["start", "--embedded"])?;
    let output = piped(codexd.command(&["proxy", "--lines"]), lines(&script()), true)?;
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_all_answered(&output.stdout)?;
    codexd.json(&["stop"])?;
    Ok(())
}

type Socket = WebSocket<UnixStream>;

fn upgraded(stream: UnixStream) -> Socket {
    let config = WebSocketConfig::default().max_frame_size(Some(16 << 20)).max_message_size(None);
    tungstenite::accept_with_config(stream, Some(config)).expect("upgraded")
}

#[test]
fn responses_after_the_end_of_stdin_are_awaited() -> anyhow::Result<()> {
    let home = Home::new()?;
    let large = "x".repeat(20 << 20);
    let asked = json!({"id": 1, "method": "m", "params": large});
    let server = stub(&home, move |stream| {
        let mut socket = upgraded(stream);
        let first = socket.read().expect("a request").into_text().expect("a text");
        assert_eq!(
            serde_json::from_str::<Value>(&first).expect("JSON")["params"].as_str().map(str::len),
            Some(20 << 20)
        );
        let second = socket.read().expect("a request").into_text().expect("a text");
        assert_eq!(second.as_str(), r#"{"id":1,"method":"the same id"}"#);
        socket.send(Message::Ping("there?".into())).expect("sent");
        assert_eq!(socket.read().expect("a pong"), Message::Pong("there?".into()));
        socket.send(Message::text(r#"{"id":1,"result":{}}"#)).expect("sent");
        socket.send(Message::text("{\"method\":\"n\",\r\n\"params\":{}}")).expect("sent");
        socket.send(Message::text(format!(r#"{{"id":1,"result":"{large}"}}"#))).expect("sent");
        matches!(socket.read(), Ok(Message::Close(Some(frame))) if u16::from(frame.code) == 1000)
    })?;
    let mut input = lines(&[asked]);
    input.extend(b"\n  \r\n{\"id\":1,\"method\":\"the same id\"}\r\n");
    let output = piped(proxy(&home, &["--lines"])?, input, true)?;
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let said = parsed(&output.stdout)?;
    assert_eq!(said.len(), 3);
    assert_eq!(said[2]["result"].as_str().map(str::len), Some(20 << 20));
    assert!(server.join().expect("no panic")?, "it is told the end");
    Ok(())
}

#[test]
fn a_server_that_closes_the_connection_early_is_an_error() -> anyhow::Result<()> {
    let close = CloseFrame { code: 1013.into(), reason: "slow reader".into() };
    for (close, named, stdin_ends) in [
        (Some(close), "(1013: slow reader); unanswered requests: 1", true),
        (None, "closed the connection; unanswered requests: 1", true),
        (None, "closed the connection; unanswered requests: 1", false),
    ] {
        let home = Home::new()?;
        let server = stub(&home, move |stream| {
            let mut socket = upgraded(stream);
            socket.read().expect("a request");
            socket.send(Message::text(r#"{"method":"said"}"#)).expect("sent");
            if let Some(close) = close {
                socket.close(Some(close)).expect("closed");
                while socket.read().is_ok() {}
            }
        })?;
        let input = lines(&[json!({"id": 1, "method": "m"})]);
        let output = piped(proxy(&home, &["--lines"])?, input, stdin_ends)?;
        let said = String::from_utf8(output.stderr)?;
        assert_eq!(
            (output.status.code(), &output.stdout[..]),
            (Some(5), &b"{\"method\":\"said\"}\n"[..]),
            "{said}"
        );
        assert!(said.contains(named), "{said}");
        server.join().expect("no panic")?;
    }
    Ok(())
}

#[test]
fn a_line_that_is_not_utf8_is_reported() -> anyhow::Result<()> {
    let home = Home::new()?;
    let server = stub(&home, |stream| {
        let mut socket = upgraded(stream);
        let mut heard = 0;
        while socket.read().is_ok_and(|message| message.is_text()) {
            heard += 1;
        }
        heard
    })?;
    let output = piped(proxy(&home, &["--lines"])?, b"{\"method\":\"n\"}\n\xff\xfe\n{}\n".to_vec(), true)?;
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(2), &b""[..]));
    assert!(String::from_utf8(output.stderr)?.contains("line 2 of stdin is not UTF-8"));
    assert!(server.join().expect("no panic")? <= 1);
    Ok(())
}

#[test]
fn a_listener_without_websocket_is_reported() -> anyhow::Result<()> {
    let home = Home::new()?;
    let server = stub(&home, drop)?;
    let output = piped(proxy(&home, &["--lines"])?, Vec::new(), true)?;
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(5), &b""[..]));
    assert!(String::from_utf8(output.stderr)?.contains("WebSocket handshake on "));
    server.join().expect("no panic")?;
    Ok(())
}
