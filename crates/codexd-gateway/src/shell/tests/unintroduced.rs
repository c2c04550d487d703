//! Clients that have not introduced themselves.

use futures_util::SinkExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio_tungstenite::tungstenite::Message;

use super::{House, hear, in_house, say, soon};
use crate::hub::{Action, Event};
use crate::limits::{DESCRIPTORS_RESERVED, FIRST_MESSAGE_BYTES_MAX, UNINTRODUCED_MAX};

const UPGRADE: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

async fn is_closed(stream: &mut UnixStream) -> bool {
    let mut rest = Vec::new();
    soon(stream.read_to_end(&mut rest)).await.is_ok()
}

#[test]
fn the_oldest_silent_connection_makes_room_and_clients_stay() {
    in_house(async |house| {
        house.script.borrow_mut().reply = Some(echo);
        let (_, mut known) = house.client().await;
        house.script.borrow_mut().is_uninitialized = true;
        let mut no_handshake = house.raw_client().await;
        let mut silent = house.raw_client().await;
        soon(silent.write_all(UPGRADE)).await.expect("sent");
        let Event::ClientConnected(silent_client) = house.next().await else { panic!("a client came") };
        house.driver.unintroduced.patience.set(std::time::Duration::ZERO);
        let mut others = Vec::new();
        for _ in 0..UNINTRODUCED_MAX {
            others.push(house.raw_client().await);
        }
        assert!(is_closed(&mut no_handshake).await);
        assert!(is_closed(&mut silent).await);
        assert!(matches!(house.next().await, Event::ClientDisconnected(left) if left == silent_client));
        say(&mut known, "still served").await;
        assert_eq!(hear(&mut known).await, "still served");
        assert!(matches!(house.next().await, Event::ClientMessage(..)));
        let (_, mut late) = house.client().await;
        say(&mut late, "served").await;
        assert_eq!(hear(&mut late).await, "served");
    });
}

#[test]
fn clients_that_come_all_at_once_are_all_let_in() {
    in_house(async |house| {
        let mut streams = Vec::new();
        for _ in 0..3 * UNINTRODUCED_MAX {
            streams.push(house.raw_client().await);
        }
        for stream in &mut streams {
            soon(stream.write_all(UPGRADE)).await.expect("sent");
            assert!(matches!(house.next().await, Event::ClientConnected(_)));
        }
    });
}

#[test]
fn descriptors_are_left_for_clients_that_are_there() {
    in_house(async |house| {
        house.script.borrow_mut().reply = Some(echo);
        let (_, mut known) = house.client().await;
        // As if all but the reserved ones were taken.
        house.driver.unintroduced.descriptors_max.set(DESCRIPTORS_RESERVED);
        let mut late = house.raw_client().await;
        assert!(is_closed(&mut late).await, "there is nobody to make room");
        say(&mut known, "still served").await;
        assert_eq!(hear(&mut known).await, "still served");
    });
}

#[test]
fn a_client_may_send_and_leave_unread_little_until_it_is_admitted() {
    in_house(async |house| {
        house.script.borrow_mut().is_uninitialized = true;
        let (large, mut socket) = house.client().await;
        let _ = soon(socket.send(Message::text("x".repeat(FIRST_MESSAGE_BYTES_MAX + 1)))).await;
        assert!(hear(&mut socket).await.starts_with("close 1009 the "));
        left(house, large).await;
        let (deaf, mut socket) = house.client().await;
        let told = vec![Action::SendToClient(deaf, "x".repeat(FIRST_MESSAGE_BYTES_MAX).into()); 8];
        house.act(told).await;
        left(house, deaf).await;
        let end = loop {
            let heard = hear(&mut socket).await;
            if heard.len() != FIRST_MESSAGE_BYTES_MAX {
                break heard;
            }
        };
        assert!(end.starts_with("close 1013 slow reader"), "{end}");
        let (admitted, mut socket) = house.client().await;
        house.act(vec![Action::Admit(admitted)]).await;
        say(&mut socket, &"x".repeat(FIRST_MESSAGE_BYTES_MAX + 1)).await;
        assert!(matches!(house.next().await, Event::ClientMessage(..)));
    });
}

async fn left(house: &mut House, client: crate::hub::ClientId) {
    assert!(matches!(house.next().await, Event::ClientDisconnected(left) if left == client));
}

fn echo(event: &Event) -> Vec<Action> {
    match event {
        Event::ClientMessage(client, text) => vec![Action::SendToClient(*client, text.clone())],
        _ => Vec::new(),
    }
}
