//! Messages of any size, and slow readers.

use futures_util::{FutureExt, SinkExt};
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::tungstenite::Message;

use super::upstream_connections::{connected, served};
use super::{Socket, TestGateway, next_text, send, soon, with_gateway};
use crate::hub::{Action, ClientId, Connection, Event, ServerId, Text};
use crate::limits::{
    MESSAGE_BYTES_MAX, OUTBOUND_BYTES_MAX, OUTBOUND_FULL_BYTES, SKIPPED_BYTES_MAX, UPSTREAM_FULL_BYTES,
    UPSTREAM_MESSAGE_BYTES_MAX,
};

const MIB: usize = 1 << 20;
const SHARED: Connection = Connection::Shared(ServerId(1));

/// Sends one frame of `length` bytes that begins and ends as given.
async fn send_large(socket: &mut Socket, masked: bool, head: &str, length: usize, tail: &str) {
    let stream = socket.get_mut();
    let mut header = vec![0x81, if masked { 0xff } else { 0x7f }];
    header.extend_from_slice(&(length as u64).to_be_bytes());
    header.extend_from_slice(if masked { &[0; 4] } else { &[] });
    soon(stream.write_all(&header)).await.expect("sent");
    soon(stream.write_all(head.as_bytes())).await.expect("sent");
    let filler = vec![b'x'; MIB];
    let mut left = length - head.len() - tail.len();
    while left > 0 {
        let now = left.min(MIB);
        soon(stream.write_all(&filler[..now])).await.expect("sent");
        left -= now;
    }
    soon(stream.write_all(tail.as_bytes())).await.expect("sent");
}

#[test]
fn an_oversized_response_fails_only_its_request() {
    with_gateway(async |gateway| {
        let listener = served(gateway).await;
        let mut server = connected(gateway, &listener, SHARED).await;
        let length = UPSTREAM_MESSAGE_BYTES_MAX + 1;
        send_large(&mut server, false, r#"{"id":7,"result":""#, length, r#""}"#).await;
        let Event::ConnectionMessage(SHARED, text) = gateway.next().await else { panic!("an answer") };
        assert!(text.starts_with(r#"{"id":7,"error":{"#) && text.contains("answerTooLarge"), "{text}");
        send_large(&mut server, false, r#"{"method":"m","id":3,"params":""#, length, r#""}"#).await;
        let refused = next_text(&mut server).await;
        assert!(refused.starts_with(r#"{"id":3,"error":{"#), "{refused}");
        send_large(&mut server, false, r#"{"method":"m","params":""#, length, r#""}"#).await;
        send(&mut server, "after").await;
        assert!(
            matches!(gateway.next().await, Event::ConnectionMessage(SHARED, text) if text.as_str() == "after")
        );
        let crate::host::HostCommand::Note { kind, .. } = gateway.host_command().await else {
            panic!("an event")
        };
        assert_eq!(kind, "message.dropped");
    });
}

#[test]
fn an_oversized_request_fails_and_its_client_stays() {
    with_gateway(async |gateway| {
        let (_, mut socket) = gateway.client().await;
        send_large(&mut socket, true, r#"{"id":"a","method":"m","params":""#, MESSAGE_BYTES_MAX + 1, r#""}"#)
            .await;
        let refused = next_text(&mut socket).await;
        assert!(refused.starts_with(r#"{"id":"a","error":{"code":-32600,"#), "{refused}");
        assert!(refused.contains("at most 64 MiB"), "{refused}");
        send(&mut socket, "after").await;
        assert!(matches!(gateway.next().await, Event::ClientMessage(_, text) if text.as_str() == "after"));
        let header = [&[0x81, 0xff][..], &(SKIPPED_BYTES_MAX as u64 + 1).to_be_bytes(), &[0; 4]].concat();
        soon(socket.get_mut().write_all(&header)).await.expect("sent");
        assert!(next_text(&mut socket).await.starts_with("close 1009 the "));
    });
}

#[test]
fn small_messages_behind_one_above_the_bound_do_not_disconnect_the_client() {
    with_gateway(async |gateway| {
        let (client, mut socket) = gateway.client().await;
        let large: Text = "x".repeat(OUTBOUND_BYTES_MAX + MIB).into();
        let mut actions = vec![Action::SendToClient(client, large.clone())];
        actions.extend((0..100).map(|_| Action::SendToClient(client, "small".into())));
        gateway.act(actions).await;
        assert_eq!(next_text(&mut socket).await.len(), large.len());
        for _ in 0..100 {
            assert_eq!(next_text(&mut socket).await, "small");
        }
        gateway.nothing_happened();
    });
}

fn pass_on(event: &Event) -> Vec<Action> {
    match event {
        Event::ConnectionMessage(Connection::Dedicated(client, _), text) => {
            vec![Action::SendToClient(*client, text.clone())]
        }
        _ => Vec::new(),
    }
}

/// Sends responses until the gateway reads no more. Returns how many.
async fn send_until_it_blocks(gateway: &mut TestGateway, server: &mut Socket, answer: &str) -> usize {
    let mut sent = 0;
    loop {
        let sending = server.send(Message::text(answer));
        if tokio::time::timeout(std::time::Duration::from_millis(300), sending).await.is_err() {
            return sent + 1;
        }
        sent += 1;
        assert!(sent * answer.len() < 4 * OUTBOUND_BYTES_MAX, "no bound applies");
        gateway.nothing_happened();
    }
}

#[test]
fn a_slow_client_blocks_its_dedicated_connection_and_gets_everything() {
    with_gateway(async |gateway| {
        gateway.script.borrow_mut().reply = Some(pass_on);
        gateway.script.borrow_mut().quiet = true;
        let listener = served(gateway).await;
        let (client, mut socket) = gateway.client().await;
        let mut server = connected(gateway, &listener, Connection::Dedicated(client, ServerId(1))).await;
        let answer = format!(r#"{{"id":1,"result":"{}"}}"#, "x".repeat(MIB));
        let sent = send_until_it_blocks(gateway, &mut server, &answer).await;
        assert!(sent * MIB > OUTBOUND_FULL_BYTES && sent * MIB < 2 * OUTBOUND_BYTES_MAX, "{sent}");
        let flushing = tokio::task::spawn_local(async move {
            server.flush().await.expect("taken");
            server
        });
        for _ in 0..sent {
            assert_eq!(next_text(&mut socket).await.len(), answer.len());
        }
        let mut server = soon(flushing).await.expect("no panic");
        send(&mut server, "after").await;
        assert_eq!(next_text(&mut socket).await, "after");
    });
}

#[test]
fn a_connection_to_an_app_server_that_does_not_read_is_full_and_not_lost() {
    with_gateway(async |gateway| {
        let listener = served(gateway).await;
        let mut server = connected(gateway, &listener, SHARED).await;
        let text: Text = "x".repeat(MIB).into();
        let count = UPSTREAM_FULL_BYTES / MIB + 2;
        gateway.script.borrow_mut().next = vec![Action::SendUpstream(SHARED, text); count];
        gateway.shell.feed(Event::DeadlineReached);
        assert!(matches!(gateway.next().await, Event::DeadlineReached));
        assert!(matches!(gateway.next().await, Event::ConnectionFull(SHARED)));
        assert!(gateway.events.recv().now_or_never().is_none(), "reported once");
        for _ in 0..count {
            assert_eq!(next_text(&mut server).await.len(), MIB);
        }
        assert!(matches!(gateway.next().await, Event::ConnectionWritable(SHARED)));
        let own = Connection::Dedicated(ClientId(9), ServerId(1));
        let _own = connected(gateway, &listener, own).await;
    });
}
