//! Clients connect, send, receive, are disconnected, and disconnect.

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::{Bytes, Message};

use super::{TestGateway, next_text, send, soon, with_gateway, with_gateway_config};
use crate::host::HostCommand;
use crate::hub::{Action, Event, Text};
use crate::limits::{FRAME_BYTES_MAX, MESSAGE_BYTES_MAX, OUTBOUND_BYTES_MAX, OUTBOUND_MESSAGES_MAX};

fn echo(event: &Event) -> Vec<Action> {
    match event {
        Event::ClientMessage(client, text) => vec![Action::SendToClient(*client, text.clone())],
        _ => Vec::new(),
    }
}

#[test]
fn messages_of_a_client_and_to_a_client_keep_their_order() {
    with_gateway(async |gateway| {
        gateway.script.borrow_mut().reply = Some(echo);
        gateway.script.borrow_mut().quiet = true;
        let (client, socket) = gateway.client().await;
        let (mut sink, mut stream) = socket.split();
        let sending = tokio::task::spawn_local(async move {
            for count in 0..20_000 {
                sink.feed(Message::text(format!("{count} {}", "x".repeat(count % 300)))).await.expect("sent");
            }
            sink.flush().await.expect("sent");
            sink
        });
        for count in 0..20_000 {
            let text = soon(stream.next()).await.expect("more").expect("a message");
            let text = text.into_text().expect("a text");
            assert_eq!(text.split(' ').next(), Some(count.to_string().as_str()));
        }
        let mut sink = sending.await.expect("no panic");
        soon(sink.close()).await.expect("closed");
        assert!(matches!(gateway.next().await, Event::ClientDisconnected(left) if left == client));
        gateway.nothing_happened();
    });
}

#[test]
fn a_process_of_another_user_is_disconnected_unread() {
    with_gateway_config(
        |_| None,
        |_| false,
        async |gateway| {
            let mut stream = gateway.raw_client().await;
            let _ = stream.write_all(b"GET / HTTP/1.1\r\n").await;
            let mut answer = Vec::new();
            let _ = soon(stream.read_to_end(&mut answer)).await;
            assert_eq!(answer, b"");
            gateway.nothing_happened();
        },
    );
    assert!(crate::shell::control_listener::is_allowed_user(0));
    let me = rustix::process::geteuid().as_raw();
    assert!(crate::shell::control_listener::is_allowed_user(me));
    assert!(!crate::shell::control_listener::is_allowed_user(me + 1));
}

#[test]
fn plain_http_and_noise_get_no_response() {
    with_gateway(async |gateway| {
        let requests = [
            "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: x\r\n\r\n",
            "{\"id\":1,\"method\":\"initialize\"}\r\n\r\n",
            &format!("GET / HTTP/1.1\r\nx: {}", "y".repeat(20_000)),
        ];
        for request in requests {
            let mut stream = gateway.raw_client().await;
            let _ = stream.write_all(request.as_bytes()).await;
            let mut answer = Vec::new();
            let _ = soon(stream.read_to_end(&mut answer)).await;
            assert_eq!(answer, b"", "{request}");
        }
        gateway.nothing_happened();
    });
}

#[test]
fn an_origin_and_frames_right_behind_the_request_are_accepted() {
    with_gateway(async |gateway| {
        let mut stream = gateway.raw_client().await;
        let mut bytes = b"GET /any/path?x HTTP/1.1\r\nHost: x\r\nOrigin: https://example.org\r\nConnection: Upgrade\r\n\
            Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            .to_vec();
        let mut frame = Frame::message("early", OpCode::Data(Data::Text), true);
        frame.header_mut().mask = Some([9, 8, 7, 6]);
        frame.format(&mut bytes).expect("formatted");
        stream.write_all(&bytes).await.expect("sent");
        assert!(matches!(gateway.next().await, Event::ClientConnected(_)));
        assert!(matches!(gateway.next().await, Event::ClientMessage(_, text) if text.as_str() == "early"));
        drop(stream);
        assert!(matches!(gateway.next().await, Event::ClientDisconnected(_)));
    });
}

async fn send_in_frames(socket: &mut super::Socket, sizes: &[usize]) {
    for (at, &size) in sizes.iter().enumerate() {
        let opcode = OpCode::Data(if at == 0 { Data::Text } else { Data::Continue });
        let frame = Frame::message(vec![b'x'; size], opcode, at + 1 == sizes.len());
        if soon(socket.send(Message::Frame(frame))).await.is_err() {
            return;
        }
    }
}

#[test]
fn a_message_of_64_mib_passes_in_frames_both_ways() {
    with_gateway(async |gateway| {
        gateway.script.borrow_mut().reply = Some(echo);
        gateway.script.borrow_mut().quiet = true;
        let (_, mut socket) = gateway.client().await;
        send_in_frames(&mut socket, &[FRAME_BYTES_MAX; 4]).await;
        assert_eq!(next_text(&mut socket).await.len(), MESSAGE_BYTES_MAX);
        send(&mut socket, "after").await;
        assert_eq!(next_text(&mut socket).await, "after");
    });
}

#[test]
fn larger_messages_and_frames_are_refused_with_a_code() {
    with_gateway(async |gateway| {
        for sizes in [
            &[FRAME_BYTES_MAX + 1][..],
            &[FRAME_BYTES_MAX, FRAME_BYTES_MAX, FRAME_BYTES_MAX, FRAME_BYTES_MAX, 1],
        ] {
            let (client, mut socket) = gateway.client().await;
            send_in_frames(&mut socket, sizes).await;
            assert!(next_text(&mut socket).await.starts_with("close 1009 the "), "{sizes:?}");
            assert!(matches!(gateway.next().await, Event::ClientDisconnected(left) if left == client));
        }
    });
}

#[test]
fn binary_is_ignored_and_a_ping_is_answered() {
    with_gateway(async |gateway| {
        let (_, mut socket) = gateway.client().await;
        soon(socket.send(Message::binary(vec![0xff; 10]))).await.expect("sent");
        soon(socket.send(Message::Ping(Bytes::from_static(b"there?")))).await.expect("sent");
        let pong = soon(socket.next()).await.expect("more").expect("a message");
        assert_eq!(pong, Message::Pong(Bytes::from_static(b"there?")));
        send(&mut socket, "text").await;
        assert!(matches!(gateway.next().await, Event::ClientMessage(_, text) if text.as_str() == "text"));
    });
}

/// Whether a client has disconnected. No other event but deadlines has happened.
fn has_disconnected(gateway: &mut TestGateway, client: crate::hub::ClientId) -> bool {
    let mut left = 0;
    while let Ok(event) = gateway.events.try_recv() {
        left += usize::from(matches!(event, Event::ClientDisconnected(who) if who == client));
        assert!(matches!(event, Event::DeadlineReached | Event::ClientDisconnected(_)), "{event:?}");
    }
    assert!(left <= 1, "disconnected {left} times");
    left == 1
}

/// Sends `count` messages to both clients, at most a third of an outbox at a time, until the first has disconnected. Returns
/// how many it sent, and whether the first has disconnected.
async fn flood(
    gateway: &mut TestGateway,
    clients: [crate::hub::ClientId; 2],
    reader: &mut super::Socket,
    text: &Text,
    count: usize,
) -> (usize, bool) {
    let (mut sent, mut left) = (0, false);
    while sent < count && !left {
        let now = (OUTBOUND_MESSAGES_MAX / 3).min(count - sent).min(1 + OUTBOUND_BYTES_MAX / 3 / text.len());
        let pair = clients.map(|client| Action::SendToClient(client, text.clone()));
        gateway.script.borrow_mut().next = pair.iter().cycle().take(2 * now).cloned().collect();
        gateway.shell.feed(Event::DeadlineReached);
        for _ in 0..now {
            assert_eq!(next_text(reader).await.len(), text.len());
        }
        sent += now;
        left = has_disconnected(gateway, clients[0]);
    }
    (sent, left)
}

#[test]
fn a_slow_reader_is_disconnected_with_a_reason_and_other_clients_miss_nothing() {
    with_gateway(async |gateway| {
        for (size, count, expected) in
            [(40, OUTBOUND_MESSAGES_MAX + 20_000, "32768 messages"), (1 << 20, 66, " MB) unread")]
        {
            let (slow, mut sleeper) = gateway.client().await;
            let (quick, mut reader) = gateway.client().await;
            let text: Text = "y".repeat(size).into();
            let (sent, left) = flood(gateway, [slow, quick], &mut reader, &text, count).await;
            assert!(left, "it was not disconnected");
            // At once: after some seconds without a read the gateway gives up the close frame.
            let end = loop {
                let received = next_text(&mut sleeper).await;
                if received.len() != size || received.starts_with("close") {
                    break received;
                }
            };
            assert!(end.starts_with("close 1013 slow reader: "), "{end}");
            assert!(end.contains(expected) && end.ends_with("reconnect and resume the thread"), "{end}");
            let (_, left) = flood(gateway, [slow, quick], &mut reader, &text, count - sent).await;
            assert!(!left, "it disconnected twice");
            let HostCommand::Note { kind, detail, .. } = gateway.host_command().await else {
                panic!("a log entry")
            };
            assert_eq!((kind.as_str(), &detail["client"]), ("client.cut", &slow.0.into()));
            drop((sleeper, reader));
            assert!(matches!(gateway.next().await, Event::ClientDisconnected(client) if client == quick));
        }
    });
}

#[test]
fn a_disconnected_client_is_not_read_any_more() {
    fn overflow(event: &Event) -> Vec<Action> {
        match event {
            Event::ClientMessage(client, _) => {
                vec![Action::SendToClient(*client, "x".into()); OUTBOUND_MESSAGES_MAX + 1]
            }
            _ => Vec::new(),
        }
    }
    with_gateway(async |gateway| {
        gateway.script.borrow_mut().reply = Some(overflow);
        let (client, mut socket) = gateway.client().await;
        for _ in 0..3 {
            socket.feed(Message::text("x")).await.expect("fed");
        }
        socket.flush().await.expect("sent");
        assert!(matches!(gateway.next().await, Event::ClientMessage(..)));
        assert!(matches!(gateway.next().await, Event::ClientDisconnected(left) if left == client));
        assert!(next_text(&mut socket).await.starts_with("close 1013 slow reader: "));
        gateway.nothing_happened();
    });
}

#[test]
fn a_client_is_not_read_while_the_hub_wants_no_input() {
    with_gateway(async |gateway| {
        let (client, mut socket) = gateway.client().await;
        gateway.script.borrow_mut().paused = true;
        send(&mut socket, "unread").await;
        // Another client completes its handshake: by then the first would have been read.
        let (_, _other) = gateway.client().await;
        gateway.nothing_happened();
        gateway.script.borrow_mut().paused = false;
        gateway.script.borrow_mut().resumed = vec![client];
        gateway.shell.feed(Event::DeadlineReached);
        assert!(matches!(gateway.next().await, Event::DeadlineReached));
        assert!(matches!(gateway.next().await, Event::ClientMessage(..)));
    });
}

#[test]
fn clients_get_their_pending_output_and_a_close_frame_when_the_gateway_exits() {
    with_gateway(async |gateway| {
        let mut sockets = Vec::new();
        for _ in 0..5 {
            let (client, socket) = gateway.client().await;
            gateway.act(vec![Action::SendToClient(client, "x".repeat(1 << 20).into())]).await;
            sockets.push(socket);
        }
        let reading = tokio::task::spawn_local(async move {
            for socket in &mut sockets {
                assert_eq!(next_text(socket).await.len(), 1 << 20);
                assert_eq!(next_text(socket).await, "close 1001 the gateway is shutting down");
            }
        });
        gateway.leave().await;
        soon(reading).await.expect("no panic");
    });
}

#[test]
fn a_deadline_is_reported_once() {
    with_gateway(async |gateway| {
        let soon = codexd_core::clock::Monotonic(30);
        gateway.script.borrow_mut().deadline = Some(soon);
        let (_, _socket) = gateway.client().await;
        assert!(matches!(gateway.next().await, Event::DeadlineReached));
        gateway.nothing_happened();
    });
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("readable");
    let pages: usize = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number");
    pages * rustix::param::page_size()
}

/// The memory is that of the whole process, which other tests use at the same time. So a second process runs this test alone.
#[test]
fn two_thousand_idle_clients_take_less_than_eight_kibibytes_each() {
    const ALONE: &str = "CODEXD_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return two_thousand_idle_clients();
    }
    let (_, module) = module_path!().split_once("::").expect("the crate comes first");
    let name = format!("{module}::two_thousand_idle_clients_take_less_than_eight_kibibytes_each");
    let mut alone = std::process::Command::new(std::env::current_exe().expect("it runs"));
    alone.args(["--exact", &name, "--nocapture"]).env(ALONE, "1");
    let run = alone.output().expect("started");
    let said = String::from_utf8_lossy(&run.stdout);
    println!("{said}");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    assert!(said.contains("1 passed"), "it ran nothing");
}

fn two_thousand_idle_clients() {
    const CLIENTS: usize = 2_000;
    with_gateway(async |gateway| {
        gateway.script.borrow_mut().reply = Some(echo);
        gateway.script.borrow_mut().quiet = true;
        let (_, mut witness) = gateway.client().await;
        let upgrade = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
            Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        let path = gateway.path("control");
        let mut idle = Vec::with_capacity(CLIENTS);
        let before = resident_bytes();
        for _ in 0..CLIENTS {
            let path = path.clone();
            // A bare socket at this end, to measure the memory of the gateway's end.
            idle.push(codexd_protocol::unix::connect(&path).expect("connected"));
            let client = idle.last_mut().expect("just pushed");
            std::io::Write::write_all(client, upgrade).expect("sent");
            assert!(matches!(gateway.next().await, Event::ClientConnected(_)));
        }
        let each = resident_bytes().saturating_sub(before) / CLIENTS;
        println!("{each} bytes for each of {CLIENTS} idle clients");
        assert!(each < 8 * 1024, "{each}");
        send(&mut witness, "still served").await;
        assert_eq!(next_text(&mut witness).await, "still served");
        drop(idle);
        for _ in 0..CLIENTS {
            assert!(matches!(gateway.next().await, Event::ClientDisconnected(_)));
        }
    });
}
