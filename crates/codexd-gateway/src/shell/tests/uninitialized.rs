//! Clients that have not sent `initialize`.

use futures_util::SinkExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio_tungstenite::tungstenite::Message;

use super::{TestGateway, next_text, send, soon, with_gateway};
use crate::hub::{Action, Event};
use crate::limits::{DESCRIPTORS_RESERVED, UNINITIALIZED_MAX, UNINITIALIZED_MESSAGE_BYTES_MAX};

const UPGRADE: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

async fn is_closed(stream: &mut UnixStream) -> bool {
    let mut rest = Vec::new();
    soon(stream.read_to_end(&mut rest)).await.is_ok()
}

#[test]
fn the_oldest_silent_connection_makes_room_and_clients_stay() {
    with_gateway(async |gateway| {
        gateway.script.borrow_mut().reply = Some(echo);
        let (_, mut known) = gateway.client().await;
        gateway.script.borrow_mut().is_uninitialized = true;
        let mut no_handshake = gateway.raw_client().await;
        let mut silent = gateway.raw_client().await;
        soon(silent.write_all(UPGRADE)).await.expect("sent");
        let Event::ClientConnected(silent_client) = gateway.next().await else {
            panic!("a client connected")
        };
        gateway.shell.uninitialized.limit.set(std::time::Duration::ZERO);
        let mut others = Vec::new();
        for _ in 0..UNINITIALIZED_MAX {
            others.push(gateway.raw_client().await);
        }
        assert!(is_closed(&mut no_handshake).await);
        assert!(is_closed(&mut silent).await);
        assert!(matches!(gateway.next().await, Event::ClientDisconnected(left) if left == silent_client));
        send(&mut known, "still served").await;
        assert_eq!(next_text(&mut known).await, "still served");
        assert!(matches!(gateway.next().await, Event::ClientMessage(..)));
        let (_, mut late) = gateway.client().await;
        send(&mut late, "served").await;
        assert_eq!(next_text(&mut late).await, "served");
    });
}

#[test]
fn clients_that_connect_all_at_once_are_all_accepted() {
    with_gateway(async |gateway| {
        let mut streams = Vec::new();
        for _ in 0..3 * UNINITIALIZED_MAX {
            streams.push(gateway.raw_client().await);
        }
        for stream in &mut streams {
            soon(stream.write_all(UPGRADE)).await.expect("sent");
            assert!(matches!(gateway.next().await, Event::ClientConnected(_)));
        }
    });
}

#[test]
fn descriptors_are_reserved_for_connected_clients() {
    with_gateway(async |gateway| {
        gateway.script.borrow_mut().reply = Some(echo);
        let (_, mut known) = gateway.client().await;
        // As if all but the reserved ones were taken.
        gateway.shell.uninitialized.descriptors_max.set(DESCRIPTORS_RESERVED);
        let mut late = gateway.raw_client().await;
        assert!(is_closed(&mut late).await, "no connection can make room");
        send(&mut known, "still served").await;
        assert_eq!(next_text(&mut known).await, "still served");
    });
}

#[test]
fn the_limits_of_a_client_are_low_until_it_is_admitted() {
    with_gateway(async |gateway| {
        gateway.script.borrow_mut().is_uninitialized = true;
        let (large, mut socket) = gateway.client().await;
        let _ = soon(socket.send(Message::text("x".repeat(UNINITIALIZED_MESSAGE_BYTES_MAX + 1)))).await;
        assert!(next_text(&mut socket).await.starts_with("close 1009 the "));
        left(gateway, large).await;
        let (paused, mut socket) = gateway.client().await;
        let actions =
            vec![Action::SendToClient(paused, "x".repeat(UNINITIALIZED_MESSAGE_BYTES_MAX).into()); 8];
        gateway.act(actions).await;
        left(gateway, paused).await;
        let end = loop {
            let received = next_text(&mut socket).await;
            if received.len() != UNINITIALIZED_MESSAGE_BYTES_MAX {
                break received;
            }
        };
        assert!(end.starts_with("close 1013 slow reader"), "{end}");
        let (admitted, mut socket) = gateway.client().await;
        gateway.act(vec![Action::Admit(admitted)]).await;
        send(&mut socket, &"x".repeat(UNINITIALIZED_MESSAGE_BYTES_MAX + 1)).await;
        assert!(matches!(gateway.next().await, Event::ClientMessage(..)));
    });
}

async fn left(gateway: &mut TestGateway, client: crate::hub::ClientId) {
    assert!(matches!(gateway.next().await, Event::ClientDisconnected(left) if left == client));
}

fn echo(event: &Event) -> Vec<Action> {
    match event {
        Event::ClientMessage(client, text) => vec![Action::SendToClient(*client, text.clone())],
        _ => Vec::new(),
    }
}
