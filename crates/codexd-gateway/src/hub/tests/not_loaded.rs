//! Threads that an app-server refuses to load for a reason that may heal.

use serde_json::{Value, json};

use super::experimental;
use super::loads::{crash, with_threads};
use super::world::World;
use crate::hub::{ClientId, Report};

const REASON: &str = "failed to load configuration: /h/config.toml:1:1: invalid";

/// The app-server died, and the next one refuses to load any thread.
fn refused(world: &mut World, count: usize) -> (ClientId, Vec<String>) {
    let (owner, threads) = with_threads(world, count);
    world.config_is_broken = true;
    crash(world);
    world.settle_for(200);
    (owner, threads)
}

fn answer(world: &mut World, client: ClientId, method: &str, thread: &str) -> Value {
    let asked = world.ask(client, method, json!({"threadId": thread, "input": []}));
    world.settle_for(100);
    world.answer(client, asked).unwrap_or_else(|| panic!("{method} is not answered"))
}

fn not_loaded(world: &World) -> Vec<usize> {
    let counts = world.reports.iter().filter_map(|report| match report {
        Report::NotLoaded { count, threads } => {
            assert!(threads.iter().all(|thread| thread.reason == REASON));
            Some(*count)
        }
        _ => None,
    });
    counts.collect()
}

#[test]
fn what_clients_ask_about_a_refused_thread_is_answered_with_the_refusal() {
    let mut world = World::new();
    let (owner, threads) = refused(&mut world, 5);
    for method in ["thread/read", "turn/start", "thread/resume"] {
        let answer = answer(&mut world, owner, method, &threads[3]);
        assert_eq!(answer["error"]["message"], REASON, "{method}");
    }
    assert!(world.notes(owner, "thread/closed").is_empty(), "its viewers stay");
    let left = answer(&mut world, owner, "thread/unsubscribe", &threads[3]);
    assert_eq!(left["result"]["status"], "unsubscribed");
}

#[test]
fn refused_threads_are_loaded_when_the_cause_is_gone() {
    let mut world = World::new();
    let (owner, threads) = refused(&mut world, 5);
    world.settle_for(300_000);
    world.config_is_broken = false;
    world.settle_for(31_000);
    assert_eq!(not_loaded(&world), [5, 0], "told once, and when it is over");
    assert!(world.notes(owner, "thread/closed").is_empty());
    for thread in &threads {
        world.turn(owner, thread, "again");
    }
}

#[test]
fn a_client_that_asks_has_a_refused_thread_tried_at_once_and_the_others_behind_it() {
    for method in ["thread/read", "turn/start", "thread/resume"] {
        let mut world = World::new();
        let (owner, threads) = refused(&mut world, 5);
        world.settle_for(300_000);
        world.config_is_broken = false;
        let answer = answer(&mut world, owner, method, &threads[3]);
        assert!(answer["result"].is_object(), "{method}: {answer}");
        world.settle_for(1_000);
        assert_eq!(not_loaded(&world), [5, 0]);
        for thread in &threads {
            world.turn(owner, thread, "again");
        }
    }
}

#[test]
fn the_viewers_of_a_refused_thread_are_told_how_its_turn_ended() {
    for graceful in [false, true] {
        let mut world = World::new();
        let client = world.client(1, experimental());
        let thread = world.thread(client);
        let turn = world.turn(client, &thread, "text");
        world.config_is_broken = true;
        let old = world.current.expect("a server");
        world.kill(old, graceful);
        world.settle();
        world.report_gone(old);
        world.begin_server();
        world.settle();
        let completed = world.notes(client, "turn/completed");
        let status = if graceful { "completed" } else { "interrupted" };
        assert_eq!((completed.len(), &completed[0]["params"]["turn"]["status"]), (1, &json!(status)));
        assert_eq!(world.text(client, &turn), if graceful { "text-end" } else { "text" });
        world.config_is_broken = false;
        world.settle_for(31_000);
        assert_eq!(world.notes(client, "turn/completed").len(), 1);
        world.turn(client, &thread, "again");
    }
}

#[test]
fn the_next_app_server_loads_what_the_one_before_refused() {
    let mut world = World::new();
    let (owner, threads) = refused(&mut world, 3);
    world.replace();
    world.config_is_broken = false;
    world.settle_for(1_000);
    assert_eq!(world.retired.len(), 1, "the one that refused holds nothing");
    for thread in &threads {
        world.turn(owner, thread, "again");
    }
}
