//! Goals that are suspended while their threads migrate.

use serde_json::json;

use super::experimental;
use super::world::World;
use crate::hub::ClientId;

#[test]
fn a_goal_that_goes_on_and_on_moves_between_two_of_its_turns() {
    let mut world = World::new();
    let client = world.client(1, experimental());
    let thread = world.thread(client);
    world.call(client, "thread/goal/set", json!({"threadId": thread, "status": "active"}));
    world.settle_for(1_000);
    let new = world.replace();
    world.settle_for(1_000);
    assert!(!world.has_loaded(new, &thread), "its turn runs");
    let answer = world.call(client, "thread/goal/get", json!({"threadId": thread}));
    assert_eq!(answer["result"]["goal"]["status"], "active", "the suspension is hidden");
    let last_subscriber = world.client(2, experimental());
    world.call(last_subscriber, "thread/resume", json!({"threadId": thread}));
    let told = world.notes(last_subscriber, "thread/goal/updated");
    assert!(!told.is_empty() && told.iter().all(|told| told["params"]["goal"]["status"] == "active"));
    world.complete(&thread);
    world.settle_for(200);
    assert!(world.has_loaded(new, &thread));
    assert_eq!((world.goals[&thread], world.running()), ("active", vec![thread]), "it goes on");
    let told = world.notes(client, "thread/goal/updated");
    assert!(told.iter().all(|told| told["params"]["goal"]["status"] == "active"), "{told:?}");
    assert!(world.cut.is_empty(), "{:?}", world.cut);
}

/// A world with a thread whose goal is held in its turn, for a handover.
fn with_a_held_goal() -> (World, ClientId, String) {
    let mut world = World::new();
    let client = world.client(1, experimental());
    let thread = world.thread(client);
    world.call(client, "thread/goal/set", json!({"threadId": thread, "status": "active"}));
    world.settle_for(1_000);
    world.replace();
    world.settle_for(1_000);
    assert_eq!(world.goals[&thread], "paused", "it is held");
    (world, client, thread)
}

#[test]
fn what_is_refused_of_a_held_goal_changes_nothing() {
    let (mut world, client, thread) = with_a_held_goal();
    let answer = world.call(client, "thread/goal/set", json!({"threadId": thread, "status": "no such"}));
    assert!(answer["error"].is_object(), "{answer}");
    world.complete(&thread);
    world.settle_for(200);
    assert_eq!((world.goals[&thread], world.running()), ("active", vec![thread]), "it goes on");
}

#[test]
fn the_last_word_that_was_taken_holds_whatever_became_of_those_before_it() {
    let (mut world, client, thread) = with_a_held_goal();
    world.ask(client, "thread/goal/set", json!({"threadId": thread, "status": "no such"}));
    world.ask(client, "thread/goal/set", json!({"threadId": thread, "status": "paused"}));
    world.settle();
    world.complete(&thread);
    world.settle_for(1_000);
    assert_eq!((world.goals[&thread], world.running().len()), ("paused", 0));
}

#[test]
fn a_held_goal_goes_on_although_its_objective_was_changed() {
    for status in [json!(null), json!("active")] {
        let (mut world, client, thread) = with_a_held_goal();
        world.ask(client, "thread/goal/set", json!({"threadId": thread, "status": status, "objective": "p"}));
        world.settle();
        world.complete(&thread);
        world.settle_for(1_000);
        assert_eq!((world.goals[&thread], world.running().len()), ("active", 1), "{status}");
    }
}

#[test]
fn a_held_goal_whose_turn_its_user_interrupts_rests_and_says_so() {
    let (mut world, client, thread) = with_a_held_goal();
    world.call(client, "turn/interrupt", json!({"threadId": thread, "turnId": world.running()[0]}));
    world.complete(&thread);
    world.settle_for(1_000);
    assert_eq!((world.goals[&thread], world.running().len()), ("paused", 0));
    let told = world.notes(client, "thread/goal/updated");
    assert_eq!(told.last().expect("a word of it")["params"]["goal"]["status"], "paused");
}

#[test]
fn a_goal_that_was_paused_stays_so_although_the_answer_was_lost() {
    for gateway_too in [false, true] {
        let (mut world, client, thread) = with_a_held_goal();
        let old = world.outgoing[0];
        world.ask(client, "thread/goal/set", json!({"threadId": thread, "status": "paused"}));
        match gateway_too {
            true => world.restart_gateway(),
            false => world.break_shared(old),
        }
        world.settle_for(1_000);
        world.complete(&thread);
        world.settle_for(1_000);
        assert_eq!((world.goals[&thread], world.running().len()), ("paused", 0), "{gateway_too}");
    }
}
