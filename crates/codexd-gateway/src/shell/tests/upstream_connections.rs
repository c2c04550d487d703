//! UpstreamConnections are opened, refused and lost; app-servers come, are greeted, and go.

use super::{Socket, TestGateway, accept, next_text, send, with_gateway};
use crate::host::{HostCommand, HostEvent, Role};
use crate::hub::{Action, ClientId, Connection, Event, ServerId};

const SHARED: Connection = Connection::Shared(ServerId(1));
const INITIALIZE: &str = r#"{"id":0,"method":"initialize","params":{}}"#;

pub(super) async fn served(gateway: &mut TestGateway) -> tokio::net::UnixListener {
    let listener = gateway.app_server("g1");
    gateway.generations(&[("g1", Role::Current)]).await;
    assert_eq!(gateway.next_word().await, "Servers { current: Some(ServerId(1)), outgoing: [] }");
    listener
}

/// Opens a link and answers.
pub(super) async fn linked(
    gateway: &mut TestGateway,
    listener: &tokio::net::UnixListener,
    link: Connection,
) -> Socket {
    gateway.act(vec![Action::Connect(link, INITIALIZE.into())]).await;
    let mut server = accept(listener).await;
    assert_eq!(next_text(&mut server).await, INITIALIZE);
    send(&mut server, r#"{"id":0,"result":{"userAgent":"x"}}"#).await;
    assert!(
        matches!(gateway.next().await, Event::ConnectionOpened(up, result) if up == link && result.as_str() == r#"{"userAgent":"x"}"#)
    );
    assert_eq!(next_text(&mut server).await, r#"{"method":"initialized"}"#);
    server
}

#[test]
fn a_link_is_up_after_the_answer_and_nothing_that_came_before_is_lost() {
    with_gateway(async |gateway| {
        let listener = served(gateway).await;
        gateway.act(vec![Action::Connect(SHARED, INITIALIZE.into())]).await;
        let mut server = accept(&listener).await;
        assert_eq!(next_text(&mut server).await, INITIALIZE);
        send(&mut server, r#"{"id":0,"method":"a/request"}"#).await;
        send(&mut server, r#"{"id":0,"result":1}"#).await;
        send(&mut server, r#"{"method":"later"}"#).await;
        for word in ["ConnectionOpened(Shared(ServerId(1)), Utf8Bytes(b\"1\"))", "a/request", "later"] {
            assert!(gateway.next_word().await.contains(word), "{word}");
        }
        gateway
            .act(vec![Action::SendUpstream(SHARED, "one".into()), Action::SendUpstream(SHARED, "two".into())])
            .await;
        for text in [r#"{"method":"initialized"}"#, "one", "two"] {
            assert_eq!(next_text(&mut server).await, text);
        }
        drop(server);
        assert_eq!(gateway.next_word().await, "ConnectionLost(Shared(ServerId(1)))");
    });
}

#[test]
fn a_refusal_is_told_and_the_link_is_gone() {
    with_gateway(async |gateway| {
        let listener = served(gateway).await;
        let own = Connection::Dedicated(ClientId(7), ServerId(1));
        gateway.act(vec![Action::Connect(own, INITIALIZE.into())]).await;
        let mut server = accept(&listener).await;
        assert_eq!(next_text(&mut server).await, INITIALIZE);
        send(&mut server, r#"{"id":0,"error":{"code":-32600,"message":"no"}}"#).await;
        let refused = gateway.next().await;
        assert!(
            matches!(&refused, Event::InitializeRefused(link, error) if *link == own && error.contains("-32600"))
        );
        assert_eq!(next_text(&mut server).await, "gone");
        gateway.nothing_happened();
    });
}

#[test]
fn a_link_that_cannot_be_opened_is_lost() {
    with_gateway(async |gateway| {
        gateway.generations(&[("g1", Role::Current)]).await;
        gateway.next().await;
        gateway.act(vec![Action::Connect(SHARED, INITIALIZE.into())]).await;
        assert_eq!(gateway.next_word().await, "ConnectionLost(Shared(ServerId(1)))");
        let unknown = Connection::Shared(ServerId(9));
        gateway.act(vec![Action::Connect(unknown, INITIALIZE.into())]).await;
        assert_eq!(gateway.next_word().await, "ConnectionLost(Shared(ServerId(9)))");
    });
}

#[test]
fn a_link_that_is_closed_says_what_waits_and_is_not_reported_lost() {
    with_gateway(async |gateway| {
        let listener = served(gateway).await;
        let mut server = linked(gateway, &listener, SHARED).await;
        gateway.act(vec![Action::SendUpstream(SHARED, "last words".into()), Action::Close(SHARED)]).await;
        assert_eq!(next_text(&mut server).await, "last words");
        assert!(next_text(&mut server).await.starts_with("close 1000"));
        // The name is free again.
        let mut server = linked(gateway, &listener, SHARED).await;
        // One that is not up yet is given up.
        let own = Connection::Dedicated(ClientId(1), ServerId(1));
        gateway.act(vec![Action::Connect(own, INITIALIZE.into()), Action::Close(own)]).await;
        gateway.act(vec![Action::SendUpstream(SHARED, "still there".into())]).await;
        assert_eq!(next_text(&mut server).await, "still there");
        gateway.nothing_happened();
    });
}

#[test]
fn a_link_that_pours_is_read_whole_in_order_and_to_its_last_word() {
    with_gateway(async |gateway| {
        let listener = served(gateway).await;
        let mut server = linked(gateway, &listener, SHARED).await;
        let delta = |number: usize| format!(r#"{{"method":"delta","params":{number}}}"#);
        // Each a read of its own, and many more of them than are read eagerly.
        for number in 0..200 {
            send(&mut server, &delta(number)).await;
            assert!(gateway.next_word().await.contains(&format!(r#"\"params\":{number}}}"#)));
        }
        // What comes while nobody looks, hanging up included, is found.
        for number in 200..400 {
            send(&mut server, &delta(number)).await;
        }
        drop(server);
        for number in 200..400 {
            assert!(gateway.next_word().await.contains(&format!(r#"\"params\":{number}}}"#)));
        }
        assert_eq!(gateway.next_word().await, "ConnectionLost(Shared(ServerId(1)))");
    });
}

#[test]
fn when_an_app_server_is_gone_its_last_words_come_first_then_the_loss_then_the_list() {
    with_gateway(async |gateway| {
        let listener = served(gateway).await;
        let mut server = linked(gateway, &listener, SHARED).await;
        let own = Connection::Dedicated(ClientId(1), ServerId(1));
        let _own = linked(gateway, &listener, own).await;
        // Neither is read before the host speaks: this test does not let the link's task run in between.
        send(&mut server, r#"{"method":"turn/completed"}"#).await;
        gateway.driver.generations_changed(Vec::new());
        assert!(gateway.next_word().await.contains("turn/completed"));
        assert_eq!(gateway.next_word().await, "ConnectionLost(Shared(ServerId(1)))");
        assert_eq!(gateway.next_word().await, "ConnectionLost(Dedicated(ClientId(1), ServerId(1)))");
        assert_eq!(gateway.next_word().await, "Servers { current: None, outgoing: [] }");
        assert_eq!(next_text(&mut server).await, "gone");
        gateway.nothing_happened();
    });
}

#[test]
fn marks_keep_their_numbers_and_only_a_change_is_told() {
    with_gateway(async |gateway| {
        gateway.generations(&[("g1", Role::Current)]).await;
        gateway.generations(&[("g1", Role::Current)]).await;
        gateway.generations(&[("g1", Role::Outgoing), ("g2", Role::Current)]).await;
        assert_eq!(gateway.next_word().await, "Servers { current: Some(ServerId(1)), outgoing: [] }");
        assert_eq!(
            gateway.next_word().await,
            "Servers { current: Some(ServerId(2)), outgoing: [ServerId(1)] }"
        );
        gateway.act(vec![Action::Retire(ServerId(1)), Action::Retire(ServerId(5))]).await;
        assert_eq!(gateway.order().await, HostCommand::Retire { generation_id: "g1".into() });
        gateway.nothing_happened();
    });
}

#[test]
fn an_app_server_is_greeted_until_it_answers() {
    with_gateway(async |gateway| {
        gateway.generations(&[("g1", Role::Current)]).await;
        gateway.next().await;
        gateway.act(vec![Action::Probe(ServerId(1))]).await;
        tokio::task::yield_now().await;
        let listener = gateway.app_server("g1");
        drop(accept(&listener).await);
        let mut server = accept(&listener).await;
        let hello = next_text(&mut server).await;
        assert!(hello.contains(r#""name":"codex_app_server_daemon","title":null"#), "{hello}");
        send(&mut server, r#"{"id":0,"error":{"code":1,"message":"not yet"}}"#).await;
        let mut server = accept(&listener).await;
        send(&mut server, r#"{"id":0,"result":{"userAgent":"a/1"}}"#).await;
        assert!(
            matches!(gateway.next().await, Event::ProbeAnswered(ServerId(1), result) if result.contains("a/1"))
        );
        next_text(&mut server).await;
        assert!(next_text(&mut server).await.starts_with("close 1000"));
        // One that goes away is not greeted any more.
        gateway.act(vec![Action::Probe(ServerId(1))]).await;
        gateway.generations(&[]).await;
        assert!(gateway.next_word().await.starts_with("Servers"));
        drop(listener);
        gateway.nothing_happened();
    });
}

#[test]
fn news_of_the_sockets_ends_the_wait_of_whoever_greets() {
    with_gateway(async |gateway| {
        gateway.generations(&[("g1", Role::Current)]).await;
        gateway.next().await;
        gateway.act(vec![Action::Probe(ServerId(1))]).await;
        // Nobody listens there: it waits, each time twice as long.
        tokio::task::yield_now().await;
        let listener = std::os::unix::net::UnixListener::bind(gateway.path("g1")).expect("bound");
        listener.set_nonblocking(true).expect("set");
        gateway.tell_host_event(HostEvent::SocketsChanged).await;
        // The news goes from task to task; no timer has to come to its end.
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
        listener.accept().expect("it tries again at once");
    });
}

#[test]
fn files_are_looked_for() {
    with_gateway(async |gateway| {
        let path = gateway.folder.path().to_string_lossy().into_owned();
        let missing = format!("{path}/missing");
        gateway
            .act(vec![
                Action::CheckRollout { thread: "a".into(), path },
                Action::CheckRollout { thread: "b".into(), path: missing },
            ])
            .await;
        assert_eq!(gateway.next_word().await, r#"RolloutChecked { thread: "a", exists: true }"#);
        assert_eq!(gateway.next_word().await, r#"RolloutChecked { thread: "b", exists: false }"#);
    });
}
