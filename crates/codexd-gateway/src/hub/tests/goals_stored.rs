//! Goals whose state is not on disk yet.

use serde_json::json;

use super::super::Event;
use super::experimental;
use super::world::World;

#[test]
fn a_goal_changes_only_when_that_is_on_disk_and_other_threads_do_not_wait() {
    let mut world = World::new();
    let client = world.client(1, experimental());
    let (thread, other) = (world.thread(client), world.thread(client));
    world.disk_hangs = true;
    let set = world.ask(client, "thread/goal/set", json!({"threadId": thread, "status": "active"}));
    let behind = world.ask(client, "thread/read", json!({"threadId": thread}));
    world.call(client, "thread/read", json!({"threadId": other}));
    assert!(world.answer(client, set).is_none() && world.answer(client, behind).is_none());
    assert!(
        world.received.iter().all(|(_, received)| received["method"] != "thread/goal/set"),
        "not sent yet"
    );
    let number = world.unstored.expect("goals are to be stored");
    world.feed(Event::GoalsPersisted(number));
    world.settle();
    assert!(world.answer(client, set).is_some() && world.answer(client, behind).is_some());
    let about = |(_, received): &&(_, serde_json::Value)| received["params"]["threadId"] == *thread;
    let methods: Vec<&str> =
        world.received.iter().filter(about).filter_map(|(_, received)| received["method"].as_str()).collect();
    assert!(methods.ends_with(&["thread/goal/set", "thread/read"]), "{methods:?}");
}

#[test]
fn a_disk_that_hangs_holds_up_a_goal_for_two_seconds_and_no_longer() {
    let mut world = World::new();
    let client = world.client(1, experimental());
    let thread = world.thread(client);
    world.disk_hangs = true;
    let set = world.ask(client, "thread/goal/set", json!({"threadId": thread, "status": "active"}));
    world.settle_for(1_900);
    assert!(world.answer(client, set).is_none());
    world.settle_for(200);
    assert!(world.answer(client, set).is_some());
}
