//! Threads that the app-server that they are to move to cannot load.

use serde_json::json;

use super::experimental;
use super::histories::run;
use super::steps::Step::{Achieve, Drain, Goal, Replace, Restart, Turn, WhileOpening};
use super::world::{Obstacle, World};
use crate::hub::{BlockedOn, ClientId, HandoverReport, Report, ServerId};

/// A world with a thread that has had a turn, and its viewer.
fn with_thread() -> (World, ClientId, String) {
    let mut world = World::new();
    let client = world.client(1, experimental());
    let _odd = world.thread(client);
    let thread = world.thread(client);
    world.turn(client, &thread, "a");
    world.complete(&thread);
    world.settle_for(1_000);
    assert_eq!(Obstacle::provider_of(&thread), "special");
    (world, client, thread)
}

fn last_report(world: &World) -> HandoverReport {
    let reports = world.reports.iter().rev();
    let mut handovers = reports.filter_map(|report| match report {
        Report::Handover(report) => Some(report.clone()),
        _ => None,
    });
    handovers.next().expect("a handover")
}

fn assert_named(world: &World, thread: &str, cause: &str) {
    let report = last_report(world);
    let waiting = report.threads_waiting.iter().find(|waiting| waiting.thread_id == *thread);
    let waiting = waiting.unwrap_or_else(|| panic!("{thread} is not named: {report:?}"));
    assert_eq!(waiting.blocked_on, BlockedOn::Refused);
    assert!(waiting.reason.as_ref().is_some_and(|reason| reason.contains(cause)), "{waiting:?}");
    let is_noted =
        |report: &Report| matches!(report, Report::MigrationRefused { thread: of, .. } if of == thread);
    assert_eq!(world.reports.iter().filter(|report| is_noted(report)).count(), 1, "written down once");
}

fn assert_moves_once_mended(world: &mut World, client: ClientId, thread: &str, old: ServerId, new: ServerId) {
    world.obstacle = None;
    world.settle_for(35_000);
    assert!(world.has_loaded(new, thread));
    let first = world.thread(client);
    assert!(world.has_loaded(new, &first));
    world.turn(client, thread, "moved");
    assert!(world.notes(client, "thread/closed").is_empty());
    assert!(world.retired.is_empty() || world.retired == [old]);
}

#[test]
fn a_thread_that_would_be_refused_stays_loaded_and_usable() {
    for (obstacle, cause) in [
        (Obstacle::Config, "config.toml"),
        (Obstacle::Provider, "special"),
        (Obstacle::RequiredServer, "required MCP servers"),
    ] {
        let (mut world, client, thread) = with_thread();
        let old = world.current.expect("a server");
        world.obstacle = Some(obstacle);
        let new = world.replace();
        world.settle_for(2_000);
        assert!(world.has_loaded(old, &thread) && world.retired.is_empty(), "{obstacle:?}");
        let unloads = world.received.iter().filter(|(_, text)| {
            text["method"] == "thread/unsubscribe" && text["params"]["threadId"] == *thread
        });
        assert_eq!(unloads.count(), 0, "{obstacle:?}: it was not even asked to unload");
        assert_named(&world, &thread, cause);
        world.turn(client, &thread, "on the old one");
        world.complete(&thread);
        world.settle_for(1_000);
        assert_moves_once_mended(&mut world, client, &thread, old, new);
    }
}

#[test]
fn a_thread_that_only_the_new_server_refuses_goes_back_to_the_old_one() {
    let (mut world, client, thread) = with_thread();
    let old = world.current.expect("a server");
    world.obstacle = Some(Obstacle::RolloutsFrom(ServerId(old.0 + 1)));
    let new = world.replace();
    world.settle_for(2_000);
    assert!(world.has_loaded(old, &thread) && world.retired.is_empty());
    assert_named(&world, &thread, "cannot be read");
    world.turn(client, &thread, "on the old one");
    world.complete(&thread);
    assert_moves_once_mended(&mut world, client, &thread, old, new);
}

#[test]
fn a_thread_that_both_servers_refuse_stays_known_and_comes_back() {
    let (mut world, client, thread) = with_thread();
    let old = world.current.expect("a server");
    world.obstacle = Some(Obstacle::Rollouts);
    let new = world.replace();
    world.settle_for(40_000);
    assert!(!world.has_loaded(old, &thread) && !world.has_loaded(new, &thread));
    assert!(world.retired.is_empty(), "the old one stays for it");
    assert!(world.hub.threads.contains_key(&thread));
    assert_named(&world, &thread, "cannot be read");
    assert_moves_once_mended(&mut world, client, &thread, old, new);
}

#[test]
fn a_goal_goes_on_whether_its_thread_moves_or_not() {
    for obstacle in [Obstacle::Config, Obstacle::RequiredServer, Obstacle::RolloutsFrom(ServerId(2))] {
        let (mut world, client, thread) = with_thread();
        let old = world.current.expect("a server");
        world.call(client, "thread/goal/set", json!({"threadId": thread, "status": "active"}));
        world.settle_for(100);
        world.obstacle = Some(obstacle);
        world.replace();
        for _ in 0..8 {
            world.settle_for(1_000);
            world.complete(&thread);
        }
        world.settle_for(1_000);
        assert!(world.has_loaded(old, &thread), "{obstacle:?}");
        assert_eq!(world.goals[&thread], "active", "{obstacle:?}");
        assert!(world.running().contains(&thread), "{obstacle:?}");
    }
}

#[test]
fn a_goal_is_not_held_for_a_thread_that_background_terminals_keep() {
    let (mut world, client, thread) = with_thread();
    world.call(client, "thread/goal/set", json!({"threadId": thread, "status": "active"}));
    world.settle_for(100);
    world.terminal(&thread);
    world.replace();
    for _ in 0..3 {
        world.settle_for(1_000);
        assert!(world.running().contains(&thread), "its next turn has begun");
        world.complete(&thread);
    }
    assert!(world.cut.is_empty(), "{:?}", world.cut);
}

#[test]
fn what_a_handover_waits_for_is_told_as_it_changes() {
    let mut world = World::new();
    let client = world.client(1, experimental());
    let threads = [world.thread(client), world.thread(client)];
    for thread in &threads {
        world.turn(client, thread, "a");
    }
    world.replace();
    world.settle_for(1_000);
    assert_eq!(last_report(&world).threads_waiting.len(), 2);
    world.complete(&threads[0]);
    world.settle_for(1_000);
    let report = last_report(&world);
    assert_eq!((report.threads_moved, report.threads_waiting.len()), (1, 1), "{report:?}");
    world.complete(&threads[1]);
    world.settle_for(1_000);
    let report = last_report(&world);
    assert_eq!((report.threads_moved, report.threads_waiting.len()), (2, 0), "{report:?}");
}

#[test]
fn a_server_stays_until_its_last_thread_is_loaded_elsewhere() {
    let (mut world, _, thread) = with_thread();
    let old = world.current.expect("a server");
    let new = world.replace();
    while !world.has_loaded(new, &thread) {
        match world.busy_connections().first() {
            Some(connection) => world.deliver(*connection),
            None => world.settle_for(10),
        }
        assert!(world.retired.is_empty(), "it could not take the thread back");
    }
    world.settle_for(1_000);
    let _ = old;
    assert!(last_report(&world).threads_moved >= 1);
}

/// A new gateway finds a thread in an app-server that drains and has it at a turn: it is not to be retired under that.
#[test]
fn a_server_that_drains_is_not_retired_with_a_turn_that_the_gateway_did_not_see() {
    run(&[
        Turn(1, 0),
        Goal(1, 0, false),
        Achieve(0),
        WhileOpening(1, Box::new(Drain)),
        Restart(false),
        WhileOpening(1, Box::new(Replace)),
    ])
    .expect("it holds");
}
