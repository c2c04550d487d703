//! Who decides what a sub-agent asks.

use codexd_core::config::SubagentApprovals;
use serde_json::{Value, json};

use super::experimental;
use super::world::World;
use crate::hub::{ClientId, Event};

const APPROVAL: &str = "item/commandExecution/requestApproval";
const RESOLVED: &str = "serverRequest/resolved";

fn answer(world: &mut World, client: ClientId, id: &Value, decision: &str) {
    let text = json!({"id": id, "result": {"decision": decision}}).to_string();
    world.feed(Event::ClientMessage(client, text.into()));
    world.settle();
}

/// A thread of the first client with a sub-agent, which has one as well: root and grandchild.
fn nested(world: &mut World, client: ClientId) -> (String, String) {
    let root = world.thread(client);
    world.turn(client, &root, "a");
    let child = world.spawn(&root).expect("a child");
    let grandchild = world.spawn(&child).expect("a grandchild");
    world.settle();
    (root, grandchild)
}

#[test]
fn only_viewers_of_the_root_thread_decide_about_a_subagent() {
    let mut world = World::new();
    let (alice, bob) = (world.client(1, experimental()), world.client(2, experimental()));
    let (_, grandchild) = nested(&mut world, alice);
    assert_eq!(world.notes(bob, "turn/started").len(), 2, "it is told of both sub-agents");
    world.request_approval(&grandchild);
    world.settle();
    let asked = world.notes(alice, APPROVAL)[0]["id"].clone();
    assert!(world.notes(bob, APPROVAL).is_empty());
    answer(&mut world, bob, &asked, "accept");
    assert!(world.answers.is_empty(), "a bystander does not decide");
    answer(&mut world, alice, &asked, "decline");
    assert_eq!(world.answers[0].1["result"]["decision"], "decline");
    assert_eq!((world.notes(alice, RESOLVED).len(), world.notes(bob, RESOLVED).len()), (1, 0));
}

#[test]
fn a_request_of_a_subagent_waits_for_the_next_viewer_of_the_root_thread_or_of_its_own() {
    for joins_root in [true, false] {
        let mut world = World::new();
        let (alice, bob) = (world.client(1, experimental()), world.client(2, experimental()));
        let (root, grandchild) = nested(&mut world, alice);
        world.request_approval(&grandchild);
        world.settle();
        assert_eq!(world.notes(alice, APPROVAL).len(), 1);
        world.leave(alice);
        assert!(world.notes(bob, APPROVAL).is_empty());
        let carol = world.client(3, experimental());
        let joined = if joins_root { &root } else { &grandchild };
        world.call(carol, "thread/resume", json!({"threadId": joined}));
        assert!(world.notes(bob, APPROVAL).is_empty());
        let asked = world.notes(carol, APPROVAL)[0]["id"].clone();
        let texts = &world.clients[&carol].texts;
        let at = |wanted: &dyn Fn(&Value) -> bool| texts.iter().position(wanted);
        let joined = at(&|text| text["id"] == 2 && text.get("method").is_none());
        assert!(joined < at(&|text| text["method"] == APPROVAL), "it is asked behind the answer: {texts:?}");
        answer(&mut world, carol, &asked, "accept");
        assert_eq!(world.answers.len(), 1);
        assert_eq!(world.notes(carol, RESOLVED).len(), 1);
        assert!(world.notes(bob, RESOLVED).is_empty());
    }
}

#[test]
fn with_the_setting_all_every_client_decides_about_a_subagent() {
    let mut world = World::with(SubagentApprovals::All);
    let (alice, bob) = (world.client(1, experimental()), world.client(2, experimental()));
    let (_, grandchild) = nested(&mut world, alice);
    world.request_approval(&grandchild);
    world.settle();
    let asked = world.notes(bob, APPROVAL)[0]["id"].clone();
    answer(&mut world, bob, &asked, "accept");
    assert_eq!(world.answers.len(), 1);
    assert_eq!((world.notes(alice, RESOLVED).len(), world.notes(bob, RESOLVED).len()), (1, 1));
}

#[test]
fn a_request_of_a_subagent_survives_a_broken_connection_and_another_gateway() {
    let mut world = World::new();
    let (alice, bob) = (world.client(1, experimental()), world.client(2, experimental()));
    let (root, grandchild) = nested(&mut world, alice);
    world.request_approval(&grandchild);
    world.settle();
    world.break_shared(world.current.expect("a server"));
    world.settle_for(1_000);
    assert!(world.notes(bob, APPROVAL).is_empty());
    world.restart_gateway();
    world.settle_for(1_000);
    let (bob, carol) = (world.client(3, experimental()), world.client(4, experimental()));
    world.settle_for(1_000);
    world.call(carol, "thread/resume", json!({"threadId": root}));
    world.settle();
    assert!(world.notes(bob, APPROVAL).is_empty());
    let asked = world.notes(carol, APPROVAL)[0]["id"].clone();
    answer(&mut world, carol, &asked, "accept");
    assert_eq!(world.answers.len(), 1);
}

#[test]
fn a_request_of_a_subagent_is_withdrawn_with_its_app_server() {
    let mut world = World::new();
    let alice = world.client(1, experimental());
    let (_, grandchild) = nested(&mut world, alice);
    world.request_approval(&grandchild);
    world.settle();
    let old = world.current.expect("a server");
    world.kill(old, false);
    world.settle();
    world.report_gone(old);
    world.begin_server();
    world.settle();
    assert_eq!(world.notes(alice, RESOLVED).len(), 1);
    assert_eq!(world.hub.server_requests.len(), 0);
}

#[test]
fn a_subagent_asks_the_viewers_of_its_parent_however_it_is_first_heard_of() {
    for ephemeral in [false, true] {
        let mut world = World::new();
        world.warns = true;
        let (alice, bob) = (world.client(1, experimental()), world.client(2, experimental()));
        let started = world.call(alice, "thread/start", json!({"ephemeral": ephemeral}));
        let root = started["result"]["thread"]["id"].as_str().expect("an id").to_owned();
        world.turn(alice, &root, "a");
        let child = world.spawn(&root).expect("a child");
        world.request_approval(&child);
        world.settle_for(1_000);
        assert_eq!((world.notes(alice, APPROVAL).len(), world.notes(bob, APPROVAL).len()), (1, 0));
    }
}
