//! The settings of a gateway that runs: each counts from the next command on, and so does the token.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use anyhow::{Context, ensure};
use codexd_testkit::{Codexd, Home, until};
use serde_json::{Value, json};

use crate::lifecycle::SOON;

/// The commands after which a setting counts, each on a server that runs.
const COMMANDS: [&[&str]; 4] = [&["start", "--embedded"], &["restart"], &["reload"], &["restart", "--now"]];

fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn set(home: &Home, gateway: &Value) -> anyhow::Result<()> {
    let lines =
        gateway.as_object().into_iter().flatten().map(|(key, value)| format!("gateway.{key} = {value}\n"));
    home.write("codexd.toml", lines.collect::<String>())?;
    Ok(())
}

fn listen(address: SocketAddr) -> Value {
    json!({"listen": format!("ws://{address}")})
}

fn token(home: &Home) -> anyhow::Result<String> {
    Ok(std::fs::read_to_string(home.state("gateway.token"))?.trim().to_owned())
}

/// A handshake with this token: the status that it gets, and the connection. `None` if no process listens.
fn shake_hands(address: SocketAddr, token: &str) -> anyhow::Result<Option<(u16, TcpStream)>> {
    let mut stream = match TcpStream::connect(address) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Ok(None),
        connected => connected?,
    };
    stream.set_read_timeout(Some(SOON))?;
    let request = format!(
        "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Bearer {token}\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head)?;
    let status = head.split(' ').nth(1).context("a status")?.parse()?;
    Ok(Some((status, stream)))
}

fn status_of(address: SocketAddr, token: &str) -> anyhow::Result<Option<u16>> {
    Ok(shake_hands(address, token)?.map(|(status, _)| status))
}

/// Fails if the connection has ended.
fn assert_is_open(client: &TcpStream) -> anyhow::Result<()> {
    client.set_nonblocking(true)?;
    let mut stream = client;
    let read = stream.read(&mut [0]).map_err(|error| error.kind());
    ensure!(read == Err(ErrorKind::WouldBlock), "a connection from before has ended: {read:?}");
    Ok(())
}

fn started(gateway: &Value) -> anyhow::Result<Home> {
    let home = Home::new()?;
    set(&home, gateway)?;
    Codexd::new(&home)?.json(&["start", "--embedded"])?;
    Ok(home)
}

fn stop(home: &Home) -> anyhow::Result<()> {
    Codexd::new(home)?.json(&["stop", "--grace", "0"])?;
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn a_removed_listener_is_closed_by_the_next_command() -> anyhow::Result<()> {
    let home = started(&json!(true))?;
    let codexd = Codexd::new(&home)?;
    for command in COMMANDS {
        let address = free_address()?;
        set(&home, &listen(address))?;
        codexd.json(&["start", "--embedded"])?;
        let (status, client) = shake_hands(address, &token(&home)?)?.context("no process listens")?;
        assert_eq!(status, 101, "an added listener counts too");
        let told = codexd.json(&["status"])?;
        assert_eq!(told["gateway"]["listen"], format!("ws://{address}"));

        set(&home, &json!(true))?;
        codexd.json(command)?;
        assert_eq!(status_of(address, &token(&home)?)?, None, "{command:?}");
        assert_is_open(&client)?;
        let told = codexd.json(&["status"])?;
        assert_eq!((&told["gateway"]["listen"], &told["problems"]), (&Value::Null, &json!([])));
    }
    stop(&home)
}

#[test]
fn a_removed_token_is_void_after_the_next_command() -> anyhow::Result<()> {
    let address = free_address()?;
    let home = started(&listen(address))?;
    let codexd = Codexd::new(&home)?;
    until(SOON, "the listener", || {
        codexd.json(&["status"]).ok().filter(|told| !told["gateway"]["listen"].is_null())
    })?;
    for command in COMMANDS {
        let old = token(&home)?;
        let (status, client) = shake_hands(address, &old)?.context("no process listens")?;
        assert_eq!(status, 101);
        std::fs::remove_file(home.state("gateway.token"))?;
        codexd.json(command)?;
        assert_eq!(status_of(address, &old)?, Some(401), "{command:?}");
        assert_eq!(status_of(address, &token(&home)?)?, Some(101), "{command:?}: a new one was made");
        assert_is_open(&client)?;
    }
    stop(&home)
}

#[test]
fn a_client_stays_connected_while_its_listener_and_token_stay() -> anyhow::Result<()> {
    let address = free_address()?;
    let home = started(&listen(address))?;
    let codexd = Codexd::new(&home)?;
    let known = || shake_hands(address, &token(&home).ok()?).ok()?.map(|(_, client)| client);
    let client = until(SOON, "the listener", known)?;
    for command in COMMANDS {
        codexd.json(command)?;
        assert_is_open(&client)?;
        assert_eq!(status_of(address, &token(&home)?)?, Some(101), "{command:?}: the token is the same");
    }
    stop(&home)
}

#[test]
fn status_reports_a_configured_port_that_another_process_holds() -> anyhow::Result<()> {
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?;
    let home = started(&json!(true))?;
    let codexd = Codexd::new(&home)?;
    set(&home, &listen(address))?;
    codexd.json(&["start", "--embedded"])?;
    let told = codexd.json(&["status"])?;
    assert_eq!(told["gateway"]["listen"], Value::Null, "it is not ours");
    assert_eq!(told["problems"][0]["found"], "listener-failed", "{told}");
    let message = told["problems"][0]["message"].as_str().context("a sentence")?;
    ensure!(message.contains(&address.to_string()) && message.contains("in use"), "{message}");
    drop(taken);
    let is_ours = || codexd.json(&["status"]).ok().filter(|told| !told["gateway"]["listen"].is_null());
    let told = until(SOON, "the listener", is_ours)?;
    assert_eq!(told["problems"], json!([]));
    stop(&home)
}

#[test]
fn a_listener_for_other_machines_counts_only_while_it_is_allowed() -> anyhow::Result<()> {
    let home = started(&json!(true))?;
    let codexd = Codexd::new(&home)?;
    let address = free_address()?;
    let everywhere = format!("ws://0.0.0.0:{}", address.port());
    set(&home, &json!({"listen": everywhere, "allowNonLoopback": true}))?;
    codexd.json(&["start", "--embedded"])?;
    assert_eq!(status_of(address, &token(&home)?)?, Some(101));
    set(&home, &json!({"listen": everywhere}))?;
    let refused = codexd.run(&["start", "--embedded"])?;
    let error = &refused.json()?["error"];
    ensure!(error["code"] == "settings-invalid", "{error}");
    ensure!(error["message"].to_string().contains("codexd.toml:1: `gateway.listen`"), "{error}");
    set(&home, &json!(true))?;
    codexd.json(&["start", "--embedded"])?;
    assert_eq!(status_of(address, &token(&home)?)?, None, "it is not allowed any more");
    stop(&home)
}

#[test]
fn subagent_approvals_count_from_the_next_command_on() -> anyhow::Result<()> {
    let home = started(&json!(true))?;
    let codexd = Codexd::new(&home)?;
    let in_force = || -> Option<Value> {
        let bytes = std::fs::read(home.state("gateway.json")).ok()?;
        Some(serde_json::from_slice::<Value>(&bytes).ok()?["subagentApprovals"].clone())
    };
    let before = until(SOON, "what counts", in_force)?;
    assert_eq!(before, "viewers");
    set(&home, &json!({"subagentApprovals": "all"}))?;
    codexd.json(&["start", "--embedded"])?;
    assert_eq!(in_force(), Some("all".into()));
    stop(&home)
}
