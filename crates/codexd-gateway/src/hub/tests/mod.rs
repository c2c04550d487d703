//! What the hub promises, one test a promise; and histories at random.

mod back_pressure;
mod background;
mod bounds;
pub(super) mod composed;
mod edge;
mod found;
mod found_goals;
mod goals;
mod goals_stored;
mod histories;
mod loads;
mod moves;
mod not_loaded;
mod questions;
mod refusals;
mod refused;
mod request_ids;
mod settings;
mod snapshot;
mod steps;
mod structure;
mod subagents;
mod summary;
mod suspended_goals;
mod world;

use serde_json::{Value, json};

use super::Connection;
use world::World;

fn experimental() -> Value {
    json!({"experimentalApi": true})
}

#[test]
fn a_client_is_greeted_under_its_own_name() {
    let mut world = World::new();
    let client = world.client(1, experimental());
    world.settle();
    let answer = world.answer(client, 1).expect("an answer");
    assert_eq!(answer["result"]["userAgent"], "client/0.169.0 (x) y (client; 1)");
}

#[test]
fn twenty_viewers_are_one_subscription() {
    let mut world = World::new();
    let first = world.client(1, experimental());
    let thread = world.thread(first);
    world.turn(first, &thread, "a");
    for id in 2..=20 {
        let viewer = world.client(id, experimental());
        world.call(viewer, "thread/resume", json!({"threadId": thread, "excludeTurns": true}));
    }
    world.delta(&thread, "b");
    world.complete(&thread);
    world.settle();
    for id in 1..=20 {
        assert_eq!(world.notes(super::ClientId(id), "turn/completed").len(), 1, "client {id}");
    }
    assert!(
        world.received.iter().all(|(connection, _)| matches!(connection, Connection::Shared(_))),
        "no own connection was needed"
    );
}

#[test]
fn a_joiner_in_mid_turn_gets_the_whole_text_once() {
    let mut world = World::new();
    let first = world.client(1, experimental());
    let thread = world.thread(first);
    let turn = world.turn(first, &thread, "one ");
    world.delta(&thread, "two \"quoted\" ");
    world.settle();
    let last_subscriber = world.client(2, experimental());
    world.call(last_subscriber, "thread/resume", json!({"threadId": thread}));
    world.delta(&thread, "three");
    world.complete(&thread);
    world.settle();
    assert_eq!(world.text(last_subscriber, &turn), "one two \"quoted\" three");
    assert_eq!(world.text(last_subscriber, &turn), world.text(first, &turn));
    assert_eq!(world.notes(last_subscriber, "item/started").len(), 1);
}

#[test]
fn the_first_answer_wins_and_only_those_who_were_asked_may_answer() {
    let mut world = World::new();
    let (first, second) = (world.client(1, experimental()), world.client(2, experimental()));
    let other = world.client(3, experimental());
    let thread = world.thread(first);
    world.turn(first, &thread, "a");
    world.request_approval(&thread);
    world.settle();
    world.call(second, "thread/resume", json!({"threadId": thread}));
    let method = "item/commandExecution/requestApproval";
    let asked = world.notes(second, method)[0]["id"].clone();
    assert_eq!(world.notes(first, method)[0]["id"], asked, "replayed under the same number");
    for (client, decision) in [(other, "accept"), (second, "decline"), (first, "accept")] {
        let text = json!({"id": asked, "result": {"decision": decision}}).to_string();
        world.feed(super::Event::ClientMessage(client, text.into()));
    }
    world.settle();
    assert_eq!(world.answers.len(), 1);
    assert_eq!(world.answers[0].1["result"]["decision"], "decline");
    for client in [first, second] {
        assert_eq!(world.notes(client, "serverRequest/resolved")[0]["params"]["requestId"], asked);
    }
    assert!(world.notes(other, "serverRequest/resolved").is_empty());
}

#[test]
fn a_new_thread_is_announced_to_those_with_a_connection_of_their_own_too() {
    let mut world = World::new();
    let (plain, busy) = (world.client(1, experimental()), world.client(2, experimental()));
    world.call(busy, "account/read", json!({}));
    world.settle();
    assert!(
        world
            .received
            .iter()
            .any(|(connection, _)| matches!(connection, Connection::Dedicated(client, _) if *client == busy))
    );
    let server = world.current.expect("a server");
    let text = json!({"method": "thread/started", "params": {"thread": {"id": "t"}}}).to_string();
    world.feed(super::Event::ConnectionMessage(Connection::Shared(server), text.into()));
    for client in [plain, busy] {
        assert_eq!(world.notes(client, "thread/started").len(), 1, "{client:?}");
    }
}

#[test]
fn a_crash_interrupts_the_turn_and_the_next_one_just_works() {
    let mut world = World::new();
    let client = world.client(1, experimental());
    let thread = world.thread(client);
    let turn = world.turn(client, &thread, "partial");
    world.request_approval(&thread);
    world.settle();
    let old = world.current.expect("a server");
    world.kill(old, false);
    let in_flight = world.ask(client, "thread/read", json!({"threadId": thread}));
    world.settle();
    world.report_gone(old);
    let held = world.ask(client, "thread/read", json!({"threadId": thread}));
    world.settle();
    assert!(world.answer(client, held).is_none(), "queued until an app-server answers");
    world.begin_server();
    world.settle();
    let lost = world.answer(client, in_flight).expect("an answer");
    assert_eq!(lost["error"]["data"]["reason"], "appServerRestarted");
    assert!(world.answer(client, held).expect("an answer")["result"].is_object());
    let completed = world.notes(client, "turn/completed");
    assert_eq!(completed.len(), 1);
    assert_eq!(completed[0]["params"]["turn"]["status"], "interrupted");
    assert_eq!(completed[0]["params"]["turn"]["id"], *turn);
    assert_eq!(world.notes(client, "item/completed")[0]["params"]["item"]["text"], "partial");
    assert_eq!(world.notes(client, "serverRequest/resolved").len(), 1);
    world.turn(client, &thread, "again");
}

#[test]
fn a_graceful_end_is_told_as_it_stands_on_disk() {
    let mut world = World::new();
    let client = world.client(1, experimental());
    let thread = world.thread(client);
    let turn = world.turn(client, &thread, "text");
    let old = world.current.expect("a server");
    world.kill(old, true);
    world.settle();
    world.report_gone(old);
    world.begin_server();
    world.settle();
    let completed = world.notes(client, "turn/completed");
    assert_eq!((completed.len(), &completed[0]["params"]["turn"]["status"]), (1, &json!("completed")));
    assert_eq!(world.text(client, &turn), "text-end");
    assert_eq!(world.notes(client, "item/completed").len(), 1);
}

#[test]
fn what_a_draining_server_refuses_is_sent_to_its_successor() {
    let mut world = World::new();
    let client = world.client(1, experimental());
    let thread = world.thread(client);
    world.turn(client, &thread, "a");
    world.complete(&thread);
    world.settle();
    let old = world.current.expect("a server");
    world.drain(old);
    let turn = world.ask(client, "turn/start", json!({"threadId": thread, "input": []}));
    let resume = world.ask(client, "thread/resume", json!({"threadId": thread}));
    world.settle();
    assert!(world.answer(client, turn).is_none() && world.answer(client, resume).is_none());
    world.kill(old, true);
    world.settle();
    world.report_gone(old);
    world.begin_server();
    world.settle();
    assert!(world.answer(client, turn).expect("an answer")["result"]["turn"].is_object());
    assert!(world.answer(client, resume).expect("an answer")["result"].is_object());
}

#[test]
fn a_client_that_comes_while_nobody_answers_is_told_so_and_may_try_again() {
    let mut world = World::new();
    let server = world.current.expect("a server");
    world.kill(server, false);
    world.settle();
    world.report_gone(server);
    let client = world.client(1, experimental());
    world.settle_for(31_000);
    let refused = world.answer(client, 1).expect("an answer");
    assert_eq!(refused["error"]["data"]["reason"], "appServerUnavailable");
    world.begin_server();
    let info = json!({"name": "client", "version": "1"});
    let answer = world.call(client, "initialize", json!({"clientInfo": info}));
    assert!(answer["result"].is_object());
}

#[test]
fn a_thread_that_nobody_watches_is_unloaded_after_a_minute() {
    let mut world = World::new();
    let (client, other) = (world.client(1, experimental()), world.client(2, experimental()));
    let thread = world.thread(client);
    world.turn(client, &thread, "a");
    world.complete(&thread);
    world.settle();
    world.leave(client);
    let server = world.current.expect("a server");
    world.settle_for(59_000);
    assert!(world.has_loaded(server, &thread));
    world.settle_for(2_000);
    assert!(!world.has_loaded(server, &thread));
    assert_eq!(world.notes(other, "thread/closed").len(), 1);
}

#[test]
fn the_users_delay_is_kept_for_threads_that_nobody_watches() {
    let layer = |kind: &str, seconds: Value| json!({"name": {"type": kind}, "version": "v", "config": {"thread_unload_delay_secs": seconds}});
    let ours = layer("sessionFlags", json!(0));
    for (users, seconds) in [
        (vec![layer("user", json!(600)), layer("system", json!(5))], 600),
        (vec![layer("user", json!(5))], 5),
        (vec![layer("user", json!(0))], 0),
        (vec![layer("user", json!("nonsense"))], 60),
        (vec![json!({"name": {"type": "user"}, "config": {"model": "m"}}), layer("system", json!(7))], 7),
    ] {
        let mut world = World::new();
        world.config_layers = [vec![ours.clone()], users].concat();
        let (client, other) = (world.client(1, experimental()), world.client(2, experimental()));
        let thread = world.thread(client);
        world.turn(client, &thread, "a");
        world.complete(&thread);
        world.settle_for(1_000);
        for _ in 0..3 {
            world.call(other, "thread/resume", json!({"threadId": thread}));
            world.call(other, "thread/unsubscribe", json!({"threadId": thread}));
        }
        world.leave(client);
        let server = world.current.expect("a server");
        if seconds > 0 {
            world.settle_for(seconds * 1_000 - 1_000);
            assert!(world.has_loaded(server, &thread), "{seconds}");
        }
        world.settle_for(2_000);
        assert!(!world.has_loaded(server, &thread), "{seconds}");
        assert_eq!(world.notes(other, "thread/closed").len(), 1);
    }
}

#[test]
fn what_is_no_message_is_answered_and_costs_nothing() {
    let mut world = World::new();
    let client = world.client(1, experimental());
    world.settle();
    for (text, code) in [
        ("{nonsense", -32700),
        ("[1]", -32600),
        ("{}", -32600),
        (r#"{"id":1.5,"method":"thread/loaded/list"}"#, -32600),
    ] {
        world.clients.get_mut(&client).expect("it").texts.clear();
        world.feed(super::Event::ClientMessage(client, text.into()));
        assert_eq!(world.clients[&client].texts[0]["error"]["code"], code, "{text}");
    }
}

#[test]
fn what_needs_the_experimental_interface_is_refused_in_upstreams_words() {
    let mut world = World::new();
    let client = world.client(1, json!({}));
    let thread = world.thread(client);
    let answer = world.call(client, "thread/settings/update", json!({"threadId": thread}));
    assert_eq!(answer["error"]["message"], "thread/settings/update requires experimentalApi capability");
}

#[test]
fn requests_wait_in_turns_and_a_flooder_stops_being_heard() {
    let mut world = World::new();
    let (flooder, other) = (world.client(1, experimental()), world.client(2, experimental()));
    let thread = world.thread(other);
    // Nothing is delivered: upstream does not answer.
    for _ in 0..600 {
        world.ask(flooder, "thread/read", json!({"threadId": thread}));
    }
    assert!(!world.hub.wants_input(flooder) && world.hub.wants_input(other));
    let before = world.received.len();
    world.ask(other, "thread/read", json!({"threadId": thread}));
    assert_eq!(world.received.len(), before + 1, "the other one is not behind the flooder");
    world.settle_for(1_000);
    assert!(world.clients[&flooder].open.is_empty() && world.clients[&other].open.is_empty());
    assert!(world.hub.wants_input(flooder));
}

#[test]
fn a_request_does_not_wait_for_ever() {
    let mut world = World::new();
    let client = world.client(1, experimental());
    world.settle();
    let server = world.current.expect("a server");
    world.kill(server, false);
    world.settle();
    world.report_gone(server);
    let asked = world.ask(client, "thread/loaded/list", json!({}));
    world.settle_for(31_000);
    let answer = world.answer(client, asked).expect("an answer");
    assert_eq!(answer["error"]["data"]["reason"], "appServerUnavailable");
}

#[test]
fn nothing_is_begun_on_a_server_that_was_asked_to_leave() {
    let mut world = World::new();
    let client = world.client(1, experimental());
    let thread = world.thread(client);
    world.turn(client, &thread, "a");
    let old = world.current.expect("a server");
    world.feed(super::Event::ServerDraining(old));
    let received = world.received.len();
    let next = world.ask(client, "turn/start", json!({"threadId": thread, "input": []}));
    world.settle();
    assert_eq!(world.received.len(), received, "held, although the server would take it");
    world.complete(&thread);
    world.settle();
    world.kill(old, true);
    world.report_gone(old);
    world.begin_server();
    world.settle();
    assert!(world.answer(client, next).expect("an answer")["result"]["turn"].is_object());
}

#[test]
fn what_upstream_refuses_for_want_of_room_is_asked_again() {
    let mut world = World::new();
    let client = world.client(1, experimental());
    world.call(client, "model/list", json!({}));
    let asked = world.ask(client, "model/list", json!({}));
    let (connection, upstream) = world
        .received
        .last()
        .map(|(connection, received)| (*connection, received["id"].clone()))
        .expect("heard");
    let refusal =
        json!({"error": {"code": -32001, "message": "Server overloaded; retry later."}, "id": upstream});
    world.feed(super::Event::ConnectionMessage(connection, refusal.to_string().into()));
    let received = world.received.len();
    world.settle();
    assert!(world.answer(client, asked).is_none(), "held for a moment");
    assert_eq!(world.received.len(), received);
    world.settle_for(100);
    assert!(world.answer(client, asked).expect("an answer")["result"].is_object());
}
