//! Questions of app-servers that are no approvals.

use serde_json::{Value, json};

use super::experimental;
use super::world::World;
use crate::hub::{Event, Link};

/// Has an app-server ask something over a link.
fn ask_over(world: &mut World, link: Link, id: u64, method: &str, params: Value) {
    let text = json!({"id": id, "method": method, "params": params}).to_string();
    world.feed(Event::LinkSaid(link, text.into()));
}

#[test]
fn a_question_that_nobody_resolves_is_over_with_its_turn() {
    let mut world = World::new();
    let first = world.client(1, json!({}));
    let thread = world.thread(first);
    world.turn(first, &thread, "a");
    let shared = Link::Shared(world.current.expect("a server"));
    for (id, method) in [(70, "item/tool/call"), (71, "currentTime/read")] {
        ask_over(&mut world, shared, id, method, json!({"threadId": thread}));
        assert_eq!(world.notes(first, method).len(), 1);
    }
    let asked = world.notes(first, "item/tool/call")[0]["id"].clone();
    let text = json!({"id": asked, "result": {}}).to_string();
    world.feed(Event::ClientSaid(first, text.into()));
    let join = |world: &mut World, id: u64| {
        let joiner = world.client(id, experimental());
        world.call(joiner, "thread/resume", json!({"threadId": thread}));
        (world.notes(joiner, "item/tool/call").len(), world.notes(joiner, "currentTime/read").len())
    };
    assert_eq!(join(&mut world, 2), (0, 1), "one of them is answered");
    world.complete(&thread);
    world.settle();
    assert_eq!(join(&mut world, 3), (0, 0));
    assert_eq!(world.hub.asks.len(), 0);
}

#[test]
fn one_who_attests_is_asked_to_and_without_one_upstream_need_not_wait() {
    let mut world = World::new();
    let able = json!({"experimentalApi": true, "requestAttestation": true});
    let (plain, first) = (world.client(1, json!({})), world.client(2, able.clone()));
    let second = world.client(3, able);
    world.settle();
    let shared = Link::Shared(world.current.expect("a server"));
    let asked = |world: &World, client| world.notes(client, "attestation/generate").len();
    ask_over(&mut world, shared, 7, "attestation/generate", json!({}));
    assert_eq!((asked(&world, plain), asked(&world, first), asked(&world, second)), (0, 1, 0));
    world.leave(first);
    assert_eq!(world.hub.asks.len(), 0);
    world.leave(second);
    ask_over(&mut world, shared, 8, "attestation/generate", json!({}));
    let (link, answer) = world.heard.last().expect("an answer");
    assert_eq!((*link, &answer["id"]), (shared, &json!(8)));
    assert!(answer["error"]["message"].is_string() && asked(&world, plain) == 0);
}

#[test]
fn what_every_connection_is_asked_comes_to_a_client_once() {
    let mut world = World::new();
    let (plain, busy) = (world.client(1, json!({})), world.client(2, experimental()));
    world.call(busy, "account/read", json!({}));
    world.settle();
    let server = world.current.expect("a server");
    for link in [Link::Own(busy, server), Link::Shared(server)] {
        ask_over(&mut world, link, 7, "account/chatgptAuthTokens/refresh", json!({"reason": "unauthorized"}));
    }
    for client in [plain, busy] {
        assert_eq!(world.notes(client, "account/chatgptAuthTokens/refresh").len(), 1, "{client:?}");
    }
}
