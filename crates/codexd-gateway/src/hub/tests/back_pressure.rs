//! What is sent to an app-server that does not read.

use serde_json::{Value, json};

use super::super::{Connection, Event};
use super::experimental;
use super::world::World;
use crate::limits::SENT_PER_STEP_BYTES_MAX;

/// The requests of this method that came to an app-server.
fn came(world: &World, method: &str) -> usize {
    world.received.iter().filter(|(_, received): &&(Connection, Value)| received["method"] == method).count()
}

#[test]
fn requests_wait_while_a_connection_is_full_and_fail_when_it_stays_so() {
    let mut world = World::new();
    let (client, other) = (world.client(1, experimental()), world.client(2, experimental()));
    let thread = world.thread(client);
    world.call(other, "account/read", json!({}));
    let shared = Connection::Shared(world.current.expect("a server"));
    world.feed(Event::ConnectionFull(shared));
    let first = world.ask(client, "thread/read", json!({"threadId": thread}));
    world.call(other, "account/read", json!({}));
    assert_eq!((came(&world, "thread/read"), world.answer(client, first)), (0, None));
    world.feed(Event::ConnectionWritable(shared));
    world.settle();
    assert!(world.answer(client, first).expect("an answer")["result"].is_object());
    world.feed(Event::ConnectionFull(shared));
    let second = world.ask(client, "thread/read", json!({"threadId": thread}));
    world.settle_for(31_000);
    let failed = world.answer(client, second).expect("an answer");
    assert_eq!(failed["error"]["data"]["reason"], "appServerUnavailable");
    assert!(world.reports.is_empty(), "no app-server was lost: {:?}", world.reports);
}

#[test]
fn large_requests_of_many_clients_are_sent_in_steps() {
    let mut world = World::new();
    let clients: Vec<_> = (1..=6).map(|id| world.client(id, experimental())).collect();
    let thread = world.thread(clients[0]);
    let old = world.current.expect("a server");
    world.feed(Event::ConnectionFull(Connection::Shared(old)));
    let padding = "x".repeat(SENT_PER_STEP_BYTES_MAX / 2);
    for client in &clients {
        world.ask(*client, "thread/read", json!({"threadId": thread, "padding": padding}));
    }
    assert_eq!(came(&world, "thread/read"), 0);
    world.feed(Event::ConnectionWritable(Connection::Shared(old)));
    assert_eq!(came(&world, "thread/read"), 2, "then the connection may say that it is full");
    world.settle();
    assert_eq!(came(&world, "thread/read"), 6);
}
