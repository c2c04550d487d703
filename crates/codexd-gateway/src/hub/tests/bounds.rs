//! What a client can make grow.

use serde_json::{Value, json};

use super::super::{ClientId, Connection, Event};
use super::experimental;
use super::world::World;
use crate::limits::{REPLAYED_MAX, UNANSWERED_BYTES_MAX, UNANSWERED_MAX};

/// The bytes of requests that the hub keeps.
fn kept_bytes(world: &World) -> usize {
    format!("{:?}", world.hub).len()
}

#[test]
fn a_watch_that_is_refused_is_not_kept_and_an_accepted_one_is() {
    let mut world = World::new();
    let client = world.client(1, experimental());
    world.call(client, "account/read", json!({}));
    let before = kept_bytes(&world);
    for number in 0..200 {
        let name = format!("{number}-{}", "x".repeat(1_000));
        let refused = world.call(client, "fs/watch", json!({"watchId": name, "path": "refused"}));
        assert!(refused["error"].is_object(), "{refused}");
    }
    assert!(kept_bytes(&world) < before + 10_000, "{} {before}", kept_bytes(&world));
    world.call(client, "fs/watch", json!({"watchId": "w", "path": "/a"}));
    let begun = |world: &World| {
        world.received.iter().filter(|(_, received)| received["method"] == "fs/watch").count()
    };
    let before = begun(&world);
    world.replace();
    world.settle();
    assert_eq!(begun(&world), before + 1, "only what was accepted is made again");
}

#[test]
fn watches_are_bounded_with_a_reason() {
    let mut world = World::new();
    let client = world.client(1, experimental());
    for number in 0..REPLAYED_MAX {
        let answer = world.call(client, "fs/watch", json!({"watchId": number.to_string(), "path": "/a"}));
        assert!(answer["result"].is_object(), "{answer}");
    }
    let answer = world.call(client, "fs/watch", json!({"watchId": "more", "path": "/a"}));
    assert_eq!(answer["error"]["data"]["reason"], "tooMany", "{answer}");
    world.call(client, "fs/unwatch", json!({"watchId": "0"}));
    let answer = world.call(client, "fs/watch", json!({"watchId": "more", "path": "/a"}));
    assert!(answer["result"].is_object(), "{answer}");
}

#[test]
fn a_watch_that_ends_before_it_is_answered_is_not_kept() {
    let mut world = World::new();
    let client = world.client(1, experimental());
    world.call(client, "account/read", json!({}));
    world.ask(client, "fs/watch", json!({"watchId": "w", "path": "/a"}));
    world.ask(client, "fs/unwatch", json!({"watchId": "w"}));
    world.settle();
    world.replace();
    world.settle();
    let watches = world.received.iter().filter(|(_, received)| received["method"] == "fs/watch");
    assert_eq!(watches.count(), 1);
}

#[test]
fn requests_without_an_answer_keep_little_and_their_number_is_bounded() {
    let mut world = World::new();
    let client = world.client(1, experimental());
    let command = |number: usize, padding: usize| json!({"processId": number.to_string(), "padding": "x".repeat(padding)});
    world.call(client, "account/read", json!({}));
    let before = kept_bytes(&world);
    for number in 0..3 {
        world.ask(client, "command/exec", command(number, UNANSWERED_BYTES_MAX / 2));
        world.settle_for(300);
    }
    assert!(kept_bytes(&world) < before + 100_000, "{} {before}", kept_bytes(&world));
    for number in 3..UNANSWERED_MAX {
        world.ask(client, "command/exec", command(number, 0));
        world.settle_for(15);
    }
    world.settle_for(1_000);
    let refused = world.call(client, "command/exec", command(UNANSWERED_MAX, 0));
    assert_eq!(refused["error"]["data"]["reason"], "tooMany", "{refused}");
}

#[test]
fn the_text_of_a_request_goes_with_its_client() {
    let mut world = World::new();
    let (client, _other) = (world.client(1, experimental()), world.client(2, experimental()));
    world.settle();
    let before = kept_bytes(&world);
    world.ask(client, "command/exec", json!({"processId": "p", "padding": "x".repeat(1_000_000)}));
    world.leave(client);
    assert!(kept_bytes(&world) < before + 10_000);
}

#[test]
fn what_a_lost_answer_or_a_gone_client_was_to_be_told_goes_to_no_other_client() {
    let mut world = World::new();
    let clients: Vec<ClientId> = (1..=3).map(|id| world.client(id, experimental())).collect();
    let thread = world.thread(clients[2]);
    world.turn(clients[2], &thread, "a");
    world.complete(&thread);
    world.settle();
    let server = world.current.expect("a server");
    world.ask(clients[0], "thread/resume", json!({"threadId": thread}));
    world.leave(clients[0]);
    let note = json!({"method": "deprecationNotice", "params": {"summary": "s"}}).to_string();
    world.ask(clients[1], "thread/resume", json!({"threadId": thread}));
    world.feed(Event::ConnectionMessage(Connection::Shared(server), note.as_str().into()));
    assert_eq!(world.notes(clients[1], "deprecationNotice").len(), 1, "its own");
    world.ask(clients[1], "thread/resume", json!({"threadId": thread}));
    world.kill(server, false);
    world.settle();
    world.report_gone(server);
    world.begin_server();
    world.settle();
    let next = world.current.expect("a server");
    world.feed(Event::ConnectionMessage(Connection::Shared(next), note.into()));
    let told: Vec<usize> =
        clients[1..].iter().map(|id| world.notes(*id, "deprecationNotice").len()).collect();
    assert_eq!(told, [1, 0], "no client requested turns of this app-server");
}

#[test]
fn a_connection_that_keeps_breaking_is_opened_less_and_less_often() {
    let mut world = World::new();
    let (client, _other) = (world.client(1, experimental()), world.client(2, experimental()));
    world.settle();
    let shared = Connection::Shared(world.current.expect("a server"));
    world.break_often = true;
    world.break_and_count(shared);
    world.settle_for(60_000);
    assert!((10..=30).contains(&world.connects), "{}", world.connects);
    world.break_often = false;
    world.settle_for(6_000);
    let answer: Value = world.call(client, "thread/loaded/list", json!({}));
    assert!(answer["result"].is_object());
}
