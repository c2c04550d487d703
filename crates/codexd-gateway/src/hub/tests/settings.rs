//! The settings of threads: they are given again to every app-server that loads the thread, or their loss is told.

use serde_json::{Value, json};

use super::world::World;
use super::world::settings::Settings;
use crate::hub::ClientId;
use crate::limits::THREAD_SETTINGS_BYTES_MAX;

fn experimental() -> Value {
    json!({"experimentalApi": true})
}

fn start(world: &mut World, client: ClientId, params: Value) -> String {
    let answer = world.call(client, "thread/start", params);
    answer["result"]["thread"]["id"].as_str().expect("an id").to_owned()
}

/// A thread with everything that an app-server does not restore, after its first turn.
fn thread_with_settings(world: &mut World, client: ClientId) -> (String, Settings) {
    let config = json!({"mcp_servers": {"s": {"command": "c", "env": {"TOKEN": "secret"}}}, "web_search": "disabled",
        "model": "m", "sandbox_mode": "read-only", "sandbox_workspace_write.network_access": true});
    let params = json!({"config": config, "sandbox": "workspace-write", "environments": []});
    let thread = start(world, client, params);
    world.turn(client, &thread, "a");
    world.complete(&thread);
    world.settle_for(1_000);
    let mut wanted = world.loaded_with[&thread].clone();
    // What is in effect of these is restored, or given by a parameter of its own.
    for restored in ["model", "sandbox_mode", "sandbox_workspace_write.network_access"] {
        wanted.config.as_object_mut().expect("an object").remove(restored);
    }
    (thread, wanted)
}

#[test]
fn thread_settings_survive_a_migration_a_crash_and_another_gateway() {
    let mut world = World::new();
    let client = world.client(1, experimental());
    let (thread, wanted) = thread_with_settings(&mut world, client);
    let first = world.current.expect("a server");
    world.replace();
    world.settle_for(1_000);
    world.report_gone(first);
    assert_eq!(world.loaded_with[&thread], wanted, "after a migration");
    let last = world.current.expect("a server");
    world.kill(last, false);
    world.report_gone(last);
    world.begin_server();
    world.report_servers();
    world.settle_for(1_000);
    assert_eq!(world.loaded_with[&thread], wanted, "after a crash");
    world.restart_gateway();
    let client = world.client(2, experimental());
    world.call(client, "thread/resume", json!({"threadId": thread, "config": {"web_search": "live"}}));
    world.settle_for(1_000);
    world.replace();
    world.settle_for(1_000);
    assert_eq!(
        world.loaded_with[&thread], wanted,
        "with another gateway, after a resume whose config was ignored"
    );
    assert!(world.notes(client, "warning").is_empty());
}

#[test]
fn resume_of_a_thread_that_is_not_loaded_replaces_its_settings() {
    let mut world = World::new();
    let client = world.client(1, experimental());
    let (thread, _) = thread_with_settings(&mut world, client);
    world.call(client, "thread/unsubscribe", json!({"threadId": thread}));
    world.settle_for(120_000);
    assert!(world.stored_settings.is_empty(), "an unloaded thread has no settings");
    world.call(client, "thread/resume", json!({"threadId": thread, "config": {"tools": {}}}));
    world.replace();
    world.settle_for(1_000);
    assert_eq!(world.loaded_with[&thread].config, json!({"tools": {}}));
}

#[test]
fn a_thread_that_was_unloaded_by_a_migration_is_resumed_as_it_was() {
    let mut world = World::new();
    let client = world.client(1, experimental());
    let (thread, wanted) = thread_with_settings(&mut world, client);
    world.call(client, "thread/unsubscribe", json!({"threadId": thread}));
    world.replace();
    world.settle_for(1_000);
    world.call(client, "thread/resume", json!({"threadId": thread}));
    world.settle_for(1_000);
    let now = &world.loaded_with[&thread];
    assert_eq!((&now.config, &now.sandbox), (&wanted.config, &wanted.sandbox));
}

#[test]
fn viewers_are_warned_of_settings_that_nobody_can_give_again() {
    let mut world = World::new();
    let client = world.client(1, experimental());
    let thread = start(&mut world, client, json!({"experimentalRawEvents": true}));
    world.turn(client, &thread, "a");
    world.complete(&thread);
    world.replace();
    world.settle_for(1_000);
    let warnings = world.notes(client, "warning");
    assert_eq!(warnings.len(), 1);
    assert_eq!(warnings[0]["params"]["threadId"], *thread);
    assert!(
        warnings[0]["params"]["message"].as_str().is_some_and(|text| text.contains("experimentalRawEvents"))
    );
    world.replace();
    world.settle_for(1_000);
    assert_eq!(world.notes(client, "warning").len(), 1, "it was lost once");
}

#[test]
fn viewers_are_warned_when_the_stored_settings_are_lost_too() {
    let mut world = World::new();
    let client = world.client(1, experimental());
    let (unloaded, _) = thread_with_settings(&mut world, client);
    let (running, wanted) = thread_with_settings(&mut world, client);
    // One that the app-server has unloaded with the gateway, and one in which a turn runs.
    world.turn(client, &running, "a");
    world.settings_are_lost = true;
    world.restart_gateway();
    let client = world.client(2, experimental());
    for (thread, is_lost_now) in [(&unloaded, true), (&running, false)] {
        world.call(client, "thread/resume", json!({"threadId": thread}));
        world.settle_for(1_000);
        let told = world.notes(client, "warning");
        let told = told.iter().any(|note| note["params"]["threadId"] == **thread);
        assert_eq!(told, is_lost_now);
    }
    world.complete(&running);
    world.replace();
    world.settle_for(1_000);
    let warnings = world.notes(client, "warning");
    assert!(
        warnings.len() == 2 && warnings.iter().all(|note| note.to_string().contains("config")),
        "{warnings:?}"
    );
    assert_eq!(world.loaded_with[&running].sandbox, wanted.sandbox, "the app-server told the sandbox");
    assert_eq!(world.loaded_with[&running].environments, wanted.environments);
}

#[test]
fn settings_that_are_too_large_are_told_at_once_and_not_kept() {
    let mut world = World::new();
    let client = world.client(1, experimental());
    let config = json!({"x": "y".repeat(THREAD_SETTINGS_BYTES_MAX)});
    let thread = start(&mut world, client, json!({"config": config, "sandbox": "workspace-write"}));
    assert_eq!(world.notes(client, "warning").len(), 1);
    assert!(world.stored_settings[&thread].len() < 2_000);
    world.turn(client, &thread, "a");
    world.complete(&thread);
    world.replace();
    world.settle_for(1_000);
    assert_eq!(world.loaded_with[&thread].sandbox["type"], "workspaceWrite");
    assert_eq!(world.notes(client, "warning").len(), 2);
}
