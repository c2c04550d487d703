//! Connections that an app-server refuses.

use serde_json::json;

use super::experimental;
use super::world::{Refuses, World};

#[test]
fn a_shared_connection_that_is_refused_is_tried_again_without_a_request() {
    let mut world = World::new();
    let viewer = world.client(1, experimental());
    let thread = world.thread(viewer);
    world.turn(viewer, &thread, "a");
    let old = world.current.expect("a server");
    world.kill(old, false);
    world.settle();
    world.report_gone(old);
    world.refuses = vec![Refuses::Shared; 3];
    let new = world.begin_server();
    world.settle_for(50);
    assert!(!world.hub.is_up(new));
    world.settle_for(2_000);
    assert!(world.hub.is_up(new) && world.refuses.is_empty());
    assert_eq!(world.notes(viewer, "turn/completed").len(), 1);
}

#[test]
fn a_dedicated_connection_that_is_refused_costs_only_what_waits_for_it() {
    let mut world = World::new();
    let client = world.client(1, experimental());
    let thread = world.thread(client);
    world.turn(client, &thread, "a");
    world.complete(&thread);
    world.settle();
    world.refuses = vec![Refuses::Own];
    let own = world.ask(client, "model/list", json!({}));
    let shared = world.ask(client, "thread/read", json!({"threadId": thread}));
    let second = world.ask(client, "account/read", json!({}));
    world.settle();
    for id in [own, second] {
        let answer = world.answer(client, id).expect("an answer");
        assert!(answer["error"]["message"].as_str().is_some_and(|said| said.contains("not you")), "{answer}");
    }
    assert!(world.answer(client, shared).expect("an answer")["result"].is_object());
}
