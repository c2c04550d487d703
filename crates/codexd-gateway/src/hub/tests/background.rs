//! Commands that run on behind their turn.

use serde_json::{Value, json};

use super::experimental;
use super::world::World;
use crate::hub::ClientId;
use crate::limits::BACKGROUND_TERMINALS_MAX;

fn command(id: &str, status: &str) -> Value {
    json!({
        "type": "commandExecution", "id": id, "command": "sleep 9", "cwd": "/", "processId": "1",
        "status": status, "commandActions": [], "aggregatedOutput": null, "exitCode": null,
        "durationMs": null, "startedAtMs": 1_800_000_000_000_u64, "completedAtMs": null,
    })
}

/// A turn that has begun a command and ended, while the command runs on.
fn background_terminal(world: &mut World, client: ClientId, thread: &str, id: &str) {
    let turn = world.turn(client, thread, "a");
    let server = world.current.expect("a server");
    let params = json!({"threadId": thread, "turnId": turn, "item": command(id, "inProgress"),
        "startedAtMs": 1_800_000_000_000_u64});
    world.note(server, "item/started", params);
    let params = json!({"threadId": thread, "turnId": turn, "itemId": id, "delta": "out "});
    world.note(server, "item/commandExecution/outputDelta", params);
    world.settle();
    world.complete(thread);
    world.settle();
}

/// What a client was told of the end of a command.
fn ends(world: &World, client: ClientId, id: &str) -> Vec<Value> {
    let of = |told: &&&Value| told["params"]["item"]["id"] == id;
    world.notes(client, "item/completed").iter().filter(of).map(|told| (**told).clone()).collect()
}

fn crash(world: &mut World) {
    let server = world.current.expect("a server");
    world.kill(server, false);
    world.report_gone(server);
    world.begin_server();
    world.settle_for(1_000);
}

#[test]
fn a_background_terminal_ends_with_its_app_server() {
    let mut world = World::new();
    let client = world.client(1, experimental());
    let thread = world.thread(client);
    background_terminal(&mut world, client, &thread, "c");
    let last_subscriber = world.client(2, experimental());
    world.call(last_subscriber, "thread/resume", json!({"threadId": thread}));
    assert!(
        world.notes(last_subscriber, "item/started").is_empty(),
        "upstream tells no late viewer of it either"
    );
    crash(&mut world);
    for viewer in [client, last_subscriber] {
        let ends = ends(&world, viewer, "c");
        assert_eq!(ends.len(), 1, "{ends:?}");
        let (params, item) = (&ends[0]["params"], &ends[0]["params"]["item"]);
        assert_eq!((&item["status"], &item["exitCode"]), (&json!("failed"), &json!(-1)));
        assert_eq!(item["aggregatedOutput"], "out ");
        let at = params["completedAtMs"].as_u64().expect("a time");
        assert!(at > 1_800_000_000_000 && item["completedAtMs"] == at);
        assert_eq!(item["durationMs"], at - 1_800_000_000_000);
    }
    crash(&mut world);
    assert_eq!(ends(&world, client, "c").len(), 1, "once");
}

#[test]
fn a_background_terminal_that_ended_by_itself_does_not_end_again() {
    let mut world = World::new();
    let client = world.client(1, experimental());
    let thread = world.thread(client);
    background_terminal(&mut world, client, &thread, "c");
    let server = world.current.expect("a server");
    let params = json!({"threadId": thread, "turnId": "t", "item": command("c", "completed"),
        "completedAtMs": 1_800_000_000_001_u64});
    world.note(server, "item/completed", params);
    world.settle();
    crash(&mut world);
    assert_eq!(ends(&world, client, "c").len(), 1);
}

#[test]
fn a_background_terminal_continues_when_only_the_connection_broke() {
    let mut world = World::new();
    let client = world.client(1, experimental());
    let thread = world.thread(client);
    background_terminal(&mut world, client, &thread, "c");
    let server = world.current.expect("a server");
    world.break_shared(server);
    world.settle_for(1_000);
    assert!(ends(&world, client, "c").is_empty());
    crash(&mut world);
    assert_eq!(ends(&world, client, "c").len(), 1);
}

#[test]
fn no_more_background_terminals_are_remembered_than_upstream_runs() {
    let mut world = World::new();
    let client = world.client(1, experimental());
    let thread = world.thread(client);
    for number in 0..BACKGROUND_TERMINALS_MAX + 3 {
        background_terminal(&mut world, client, &thread, &format!("c{number}"));
    }
    crash(&mut world);
    let is_cut = |told: &&&Value| told["params"]["item"]["status"] == "failed";
    let cut = world.notes(client, "item/completed").iter().filter(is_cut).count();
    assert_eq!(cut, BACKGROUND_TERMINALS_MAX);
}
