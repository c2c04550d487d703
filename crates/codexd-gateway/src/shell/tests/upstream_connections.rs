//! Connections to app-servers are opened, refused and lost; app-servers start, are probed, and exit.

use super::{Socket, TestGateway, accept, next_text, send, with_gateway};
use crate::host::{HostCommand, HostEvent, Role};
use crate::hub::{Action, ClientId, Connection, Event, ServerId};

const SHARED: Connection = Connection::Shared(ServerId(1));
const INITIALIZE: &str = r#"{"id":0,"method":"initialize","params":{}}"#;

pub(super) async fn served(gateway: &mut TestGateway) -> tokio::net::UnixListener {
    let listener = gateway.app_server("g1");
    gateway.generations(&[("g1", Role::Current)]).await;
    assert_eq!(gateway.next_debug().await, "Servers { current: Some(ServerId(1)), outgoing: [] }");
    listener
}

/// Opens a connection and answers `initialize`.
pub(super) async fn connected(
    gateway: &mut TestGateway,
    listener: &tokio::net::UnixListener,
    key: Connection,
) -> Socket {
    gateway.act(vec![Action::Connect(key, INITIALIZE.into())]).await;
    let mut server = accept(listener).await;
    assert_eq!(next_text(&mut server).await, INITIALIZE);
    send(&mut server, r#"{"id":0,"result":{"userAgent":"x"}}"#).await;
    assert!(
        matches!(gateway.next().await, Event::ConnectionOpened(up, result) if up == key && result.as_str() == r#"{"userAgent":"x"}"#)
    );
    assert_eq!(next_text(&mut server).await, r#"{"method":"initialized"}"#);
    server
}

#[test]
fn a_connection_opens_with_the_response_and_no_early_message_is_lost() {
    with_gateway(async |gateway| {
        let listener = served(gateway).await;
        gateway.act(vec![Action::Connect(SHARED, INITIALIZE.into())]).await;
        let mut server = accept(&listener).await;
        assert_eq!(next_text(&mut server).await, INITIALIZE);
        send(&mut server, r#"{"id":0,"method":"a/request"}"#).await;
        send(&mut server, r#"{"id":0,"result":1}"#).await;
        send(&mut server, r#"{"method":"later"}"#).await;
        for word in ["ConnectionOpened(Shared(ServerId(1)), Utf8Bytes(b\"1\"))", "a/request", "later"] {
            assert!(gateway.next_debug().await.contains(word), "{word}");
        }
        gateway
            .act(vec![Action::SendUpstream(SHARED, "one".into()), Action::SendUpstream(SHARED, "two".into())])
            .await;
        for text in [r#"{"method":"initialized"}"#, "one", "two"] {
            assert_eq!(next_text(&mut server).await, text);
        }
        drop(server);
        assert_eq!(gateway.next_debug().await, "ConnectionLost(Shared(ServerId(1)))");
    });
}

#[test]
fn a_refusal_is_reported_and_the_connection_is_closed() {
    with_gateway(async |gateway| {
        let listener = served(gateway).await;
        let own = Connection::Dedicated(ClientId(7), ServerId(1));
        gateway.act(vec![Action::Connect(own, INITIALIZE.into())]).await;
        let mut server = accept(&listener).await;
        assert_eq!(next_text(&mut server).await, INITIALIZE);
        send(&mut server, r#"{"id":0,"error":{"code":-32600,"message":"no"}}"#).await;
        let refused = gateway.next().await;
        assert!(
            matches!(&refused, Event::InitializeRefused(key, error) if *key == own && error.contains("-32600"))
        );
        assert_eq!(next_text(&mut server).await, "gone");
        gateway.nothing_happened();
    });
}

#[test]
fn a_connection_that_cannot_be_opened_is_lost() {
    with_gateway(async |gateway| {
        gateway.generations(&[("g1", Role::Current)]).await;
        gateway.next().await;
        gateway.act(vec![Action::Connect(SHARED, INITIALIZE.into())]).await;
        assert_eq!(gateway.next_debug().await, "ConnectionLost(Shared(ServerId(1)))");
        let unknown = Connection::Shared(ServerId(9));
        gateway.act(vec![Action::Connect(unknown, INITIALIZE.into())]).await;
        assert_eq!(gateway.next_debug().await, "ConnectionLost(Shared(ServerId(9)))");
    });
}

#[test]
fn a_closed_connection_sends_its_pending_output_and_is_not_reported_lost() {
    with_gateway(async |gateway| {
        let listener = served(gateway).await;
        let mut server = connected(gateway, &listener, SHARED).await;
        gateway.act(vec![Action::SendUpstream(SHARED, "pending".into()), Action::Close(SHARED)]).await;
        assert_eq!(next_text(&mut server).await, "pending");
        assert!(next_text(&mut server).await.starts_with("close 1000"));
        // The key is free again.
        let mut server = connected(gateway, &listener, SHARED).await;
        // A connection that is not open yet is given up.
        let own = Connection::Dedicated(ClientId(1), ServerId(1));
        gateway.act(vec![Action::Connect(own, INITIALIZE.into()), Action::Close(own)]).await;
        gateway.act(vec![Action::SendUpstream(SHARED, "still there".into())]).await;
        assert_eq!(next_text(&mut server).await, "still there");
        gateway.nothing_happened();
    });
}

#[test]
fn a_stream_of_notifications_is_read_completely_and_in_order() {
    with_gateway(async |gateway| {
        let listener = served(gateway).await;
        let mut server = connected(gateway, &listener, SHARED).await;
        let delta = |number: usize| format!(r#"{{"method":"delta","params":{number}}}"#);
        // One read for each, and many more than are read at once.
        for number in 0..200 {
            send(&mut server, &delta(number)).await;
            assert!(gateway.next_debug().await.contains(&format!(r#"\"params\":{number}}}"#)));
        }
        // Messages and the hangup that arrive during a pause are found.
        for number in 200..400 {
            send(&mut server, &delta(number)).await;
        }
        drop(server);
        for number in 200..400 {
            assert!(gateway.next_debug().await.contains(&format!(r#"\"params\":{number}}}"#)));
        }
        assert_eq!(gateway.next_debug().await, "ConnectionLost(Shared(ServerId(1)))");
    });
}

#[test]
fn after_an_exit_the_last_messages_come_first_then_the_losses_then_the_list() {
    with_gateway(async |gateway| {
        let listener = served(gateway).await;
        let mut server = connected(gateway, &listener, SHARED).await;
        let own = Connection::Dedicated(ClientId(1), ServerId(1));
        let _own = connected(gateway, &listener, own).await;
        // It is not read before the list changes: the connection's task does not run in between.
        send(&mut server, r#"{"method":"turn/completed"}"#).await;
        crate::shell::generations::generations_changed(&gateway.shell, Vec::new());
        assert!(gateway.next_debug().await.contains("turn/completed"));
        assert_eq!(gateway.next_debug().await, "ConnectionLost(Shared(ServerId(1)))");
        assert_eq!(gateway.next_debug().await, "ConnectionLost(Dedicated(ClientId(1), ServerId(1)))");
        assert_eq!(gateway.next_debug().await, "Servers { current: None, outgoing: [] }");
        assert_eq!(next_text(&mut server).await, "gone");
        gateway.nothing_happened();
    });
}

#[test]
fn generations_keep_their_server_ids_and_only_changes_are_reported() {
    with_gateway(async |gateway| {
        gateway.generations(&[("g1", Role::Current)]).await;
        gateway.generations(&[("g1", Role::Current)]).await;
        gateway.generations(&[("g1", Role::Outgoing), ("g2", Role::Current)]).await;
        assert_eq!(gateway.next_debug().await, "Servers { current: Some(ServerId(1)), outgoing: [] }");
        assert_eq!(
            gateway.next_debug().await,
            "Servers { current: Some(ServerId(2)), outgoing: [ServerId(1)] }"
        );
        gateway.act(vec![Action::Retire(ServerId(1)), Action::Retire(ServerId(5))]).await;
        assert_eq!(gateway.host_command().await, HostCommand::Retire { generation_id: "g1".into() });
        gateway.nothing_happened();
    });
}

#[test]
fn an_app_server_is_probed_until_it_answers() {
    with_gateway(async |gateway| {
        gateway.generations(&[("g1", Role::Current)]).await;
        gateway.next().await;
        gateway.act(vec![Action::Probe(ServerId(1))]).await;
        tokio::task::yield_now().await;
        let listener = gateway.app_server("g1");
        drop(accept(&listener).await);
        let mut server = accept(&listener).await;
        let probe = next_text(&mut server).await;
        assert!(probe.contains(r#""name":"codex_app_server_daemon","title":null"#), "{probe}");
        send(&mut server, r#"{"id":0,"error":{"code":1,"message":"not yet"}}"#).await;
        let mut server = accept(&listener).await;
        send(&mut server, r#"{"id":0,"result":{"userAgent":"a/1"}}"#).await;
        assert!(
            matches!(gateway.next().await, Event::ProbeAnswered(ServerId(1), result) if result.contains("a/1"))
        );
        next_text(&mut server).await;
        assert!(next_text(&mut server).await.starts_with("close 1000"));
        // After its exit it is not probed any more.
        gateway.act(vec![Action::Probe(ServerId(1))]).await;
        gateway.generations(&[]).await;
        assert!(gateway.next_debug().await.starts_with("Servers"));
        drop(listener);
        gateway.nothing_happened();
    });
}

#[test]
fn a_change_of_the_sockets_ends_the_wait_between_probes() {
    with_gateway(async |gateway| {
        gateway.generations(&[("g1", Role::Current)]).await;
        gateway.next().await;
        gateway.act(vec![Action::Probe(ServerId(1))]).await;
        // No process listens there: it waits, each time twice as long.
        tokio::task::yield_now().await;
        let listener = std::os::unix::net::UnixListener::bind(gateway.path("g1")).expect("bound");
        listener.set_nonblocking(true).expect("set");
        gateway.send_host_event(HostEvent::SocketsChanged).await;
        // The event passes from task to task; no timer is needed.
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
        listener.accept().expect("it tries again at once");
    });
}

#[test]
fn rollout_files_are_checked() {
    with_gateway(async |gateway| {
        let path = gateway.folder.path().to_string_lossy().into_owned();
        let missing = format!("{path}/missing");
        gateway
            .act(vec![
                Action::CheckRollout { thread: "a".into(), path },
                Action::CheckRollout { thread: "b".into(), path: missing },
            ])
            .await;
        assert_eq!(gateway.next_debug().await, r#"RolloutChecked { thread: "a", exists: true }"#);
        assert_eq!(gateway.next_debug().await, r#"RolloutChecked { thread: "b", exists: false }"#);
    });
}
