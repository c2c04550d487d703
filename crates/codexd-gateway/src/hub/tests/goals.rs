//! Goals at work behind gateways and app-servers that come and go: what people are told of them.

use serde_json::json;

use super::experimental;
use super::world::World;
use crate::hub::Report;

/// A thread with an active goal and without clients.
fn with_a_deserted_goal() -> (World, String) {
    let mut world = World::new();
    let client = world.client(1, experimental());
    let thread = world.thread(client);
    world.call(client, "thread/goal/set", json!({"threadId": thread, "status": "active"}));
    world.settle_for(1_000);
    world.leave(client);
    (world, thread)
}

/// The current app-server dies, and the next one is there.
fn crash(world: &mut World) {
    let current = world.current.expect("a server");
    world.kill(current, false);
    world.report_gone(current);
    world.begin_server();
    world.settle_for(1_000);
}

#[test]
fn a_goal_that_its_app_server_dies_of_again_and_again_waits_a_minute() {
    let (mut world, thread) = with_a_deserted_goal();
    for _ in 0..2 {
        crash(&mut world);
        assert_eq!(world.running(), [&*thread], "it goes on at once");
    }
    crash(&mut world);
    assert!(world.running().is_empty(), "it is postponed");
    assert!(world.reports.contains(&Report::GoalPostponed { thread: thread.clone() }));
    world.settle_for(61_000);
    assert_eq!(world.running(), [thread], "it is tried again");
}

#[test]
fn a_goal_that_goes_on_behind_the_next_gateway_is_reported_and_one_that_cannot_too() {
    for is_there in [true, false] {
        let (mut world, thread) = with_a_deserted_goal();
        world.lose_gateway();
        world.complete(&thread);
        if !is_there {
            world.disk.remove(&thread);
        }
        world.begin_gateway();
        let onlooker = world.client(2, experimental());
        world.settle_for(1_000);
        let server = world.current.expect("a server");
        assert!(world.reports.contains(&Report::GoalsToLoad { server, threads: vec![thread.clone()] }));
        assert_eq!(world.reports.contains(&Report::GoalLost { thread: thread.clone() }), !is_there);
        assert_eq!(world.running().len(), usize::from(is_there));
        assert!(world.notes(onlooker, "thread/closed").is_empty(), "no client knew of it");
    }
}
