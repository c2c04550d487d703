//! Questions of app-servers that are no approvals.

use serde_json::{Value, json};

use super::experimental;
use super::world::World;
use crate::hub::{ClientId, Connection, Event};

/// Has an app-server ask something over a connection.
fn ask_over(world: &mut World, connection: Connection, id: u64, method: &str, params: Value) {
    let text = json!({"id": id, "method": method, "params": params}).to_string();
    world.feed(Event::ConnectionMessage(connection, text.into()));
}

/// The last message to a server refuses its request.
fn assert_refused(world: &World, over: Connection, id: u64) {
    let (connection, answer) = world.received.last().expect("an answer");
    assert_eq!((*connection, &answer["id"]), (over, &json!(id)), "{answer}");
    assert!(answer["error"]["message"].is_string(), "{answer}");
}

#[test]
fn a_question_that_nobody_resolves_is_over_with_its_turn() {
    let mut world = World::new();
    let first = world.client(1, json!({}));
    let thread = world.thread(first);
    world.turn(first, &thread, "a");
    let shared = Connection::Shared(world.current.expect("a server"));
    for (id, method) in [(70, "item/tool/call"), (71, "currentTime/read")] {
        ask_over(&mut world, shared, id, method, json!({"threadId": thread}));
        assert_eq!(world.notes(first, method).len(), 1);
    }
    let asked = world.notes(first, "item/tool/call")[0]["id"].clone();
    let text = json!({"id": asked, "result": {}}).to_string();
    world.feed(Event::ClientMessage(first, text.into()));
    let join = |world: &mut World, id: u64| {
        let last_subscriber = world.client(id, experimental());
        world.call(last_subscriber, "thread/resume", json!({"threadId": thread}));
        (
            world.notes(last_subscriber, "item/tool/call").len(),
            world.notes(last_subscriber, "currentTime/read").len(),
        )
    };
    assert_eq!(join(&mut world, 2), (0, 1), "one of them is answered");
    world.complete(&thread);
    world.settle();
    assert_eq!(join(&mut world, 3), (0, 0));
    assert_eq!(world.hub.server_requests.len(), 0);
}

#[test]
fn one_who_attests_is_asked_to_and_without_one_upstream_need_not_wait() {
    let mut world = World::new();
    let able = json!({"experimentalApi": true, "requestAttestation": true});
    let (plain, first) = (world.client(1, json!({})), world.client(2, able.clone()));
    let second = world.client(3, able);
    world.settle();
    let shared = Connection::Shared(world.current.expect("a server"));
    let asked = |world: &World, client| world.notes(client, "attestation/generate").len();
    ask_over(&mut world, shared, 7, "attestation/generate", json!({}));
    assert_eq!((asked(&world, plain), asked(&world, first), asked(&world, second)), (0, 1, 0));
    world.leave(first);
    assert_eq!((asked(&world, plain), asked(&world, second)), (0, 1), "the next one that can");
    world.leave(second);
    assert_refused(&world, shared, 7);
    assert_eq!(world.hub.server_requests.len(), 0);
    ask_over(&mut world, shared, 8, "attestation/generate", json!({}));
    assert_refused(&world, shared, 8);
    assert_eq!(asked(&world, plain), 0);
}

#[test]
fn what_every_connection_is_asked_comes_to_a_client_once() {
    let mut world = World::new();
    let (plain, busy) = (world.client(1, json!({})), world.client(2, experimental()));
    world.call(busy, "account/read", json!({}));
    world.settle();
    let server = world.current.expect("a server");
    for connection in [Connection::Dedicated(busy, server), Connection::Shared(server)] {
        ask_over(
            &mut world,
            connection,
            7,
            "account/chatgptAuthTokens/refresh",
            json!({"reason": "unauthorized"}),
        );
    }
    for client in [plain, busy] {
        assert_eq!(world.notes(client, "account/chatgptAuthTokens/refresh").len(), 1, "{client:?}");
    }
}

const REFRESH: &str = "account/chatgptAuthTokens/refresh";

fn answer(world: &mut World, client: ClientId, answer: &Value) {
    world.feed(Event::ClientMessage(client, answer.to_string().into()));
}

#[test]
fn a_token_refresh_goes_to_the_next_client_and_is_refused_without_one() {
    let mut world = World::new();
    let first = world.client(1, json!({}));
    world.settle();
    let shared = Connection::Shared(world.current.expect("a server"));
    ask_over(&mut world, shared, 7, REFRESH, json!({"reason": "unauthorized"}));
    let second = world.client(2, json!({}));
    assert_eq!((world.notes(first, REFRESH).len(), world.notes(second, REFRESH).len()), (1, 0));
    world.leave(first);
    assert_eq!(world.notes(second, REFRESH).len(), 1);
    world.leave(second);
    assert_refused(&world, shared, 7);
    ask_over(&mut world, shared, 8, REFRESH, json!({"reason": "unauthorized"}));
    assert_refused(&world, shared, 8);
    assert_eq!(world.hub.server_requests.len(), 0);
}

#[test]
fn a_token_refresh_that_no_client_answers_is_refused_in_time() {
    let mut world = World::new();
    let client = world.client(1, json!({}));
    world.settle();
    let shared = Connection::Shared(world.current.expect("a server"));
    ask_over(&mut world, shared, 7, REFRESH, json!({"reason": "unauthorized"}));
    assert_eq!(world.notes(client, REFRESH).len(), 1);
    world.settle_for(31_000);
    assert_refused(&world, shared, 7);
    assert_eq!(world.hub.server_requests.len(), 0);
}

#[test]
fn a_client_that_cannot_refresh_a_token_does_not_answer_for_one_that_can() {
    let mut world = World::new();
    let (first, second) = (world.client(1, json!({})), world.client(2, json!({})));
    world.settle();
    let shared = Connection::Shared(world.current.expect("a server"));
    ask_over(&mut world, shared, 7, REFRESH, json!({"reason": "unauthorized"}));
    let id = world.notes(first, REFRESH)[0]["id"].clone();
    let cannot = json!({"id": id, "error": {"code": -32601, "message": "unknown"}});
    answer(&mut world, first, &cannot);
    assert!(world.answers.is_empty());
    answer(&mut world, second, &json!({"id": id, "result": {"accessToken": "t"}}));
    assert_eq!(world.answers.len(), 1);
    assert_eq!(world.answers[0].1["result"]["accessToken"], "t");
    ask_over(&mut world, shared, 8, REFRESH, json!({"reason": "unauthorized"}));
    let id = world.notes(first, REFRESH)[1]["id"].clone();
    let cannot = json!({"id": id, "error": {"code": -32601, "message": "unknown"}});
    answer(&mut world, first, &cannot);
    answer(&mut world, second, &cannot);
    assert_eq!(world.answers[1].1["error"]["code"], -32601, "none of them can");
}
