//! What a client sends that an app-server would drop without a reply.

use codexd_core::config::SubagentApprovals;
use serde_json::{Value, json};

use super::experimental;
use super::world::World;
use crate::hub::{ClientId, Connection, Event, Report, ServerId};
use crate::limits::{ANSWER_CONFIRM_TIMEOUT_MS, RESPONSE_TIMEOUT_MS, UNLOAD_DELAY_MS};

const APPROVAL: &str = "item/commandExecution/requestApproval";

fn say(world: &mut World, client: ClientId, text: &str) {
    world.feed(Event::ClientMessage(client, text.into()));
    world.settle();
}

fn errors(world: &World, client: ClientId, id: &Value) -> usize {
    let texts = &world.clients[&client].texts;
    texts.iter().filter(|text| text["id"] == *id && text.get("error").is_some()).count()
}

#[test]
fn a_request_that_an_app_server_would_drop_is_refused_and_not_sent_on() {
    let mut world = World::new();
    let client = world.client(1, experimental());
    world.settle();
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let sent = world.received.len();
    for (at, params) in [r#"{"x":"\ud83d"}"#.to_owned(), format!(r#"{{"x":{deep}}}"#)].iter().enumerate() {
        for method in ["thread/read", "model/list"] {
            let id = json!(format!("{method} {at}"));
            say(&mut world, client, &format!(r#"{{"id":{id},"method":"{method}","params":{params}}}"#));
            assert_eq!(errors(&world, client, &id), 1, "{method}");
        }
    }
    say(&mut world, client, r#"{"id":"t","method":"thread/loaded/list","params":{},"trace":7}"#);
    say(&mut world, client, r#"{"id":1.5,"method":"thread/loaded/list","params":{}}"#);
    assert_eq!((errors(&world, client, &json!("t")), errors(&world, client, &json!(1.5))), (1, 1));
    assert_eq!(world.received.len(), sent, "nothing reached an app-server");
}

#[test]
fn client_information_that_no_app_server_reads_harms_no_other_client() {
    let mut world = World::bare(SubagentApprovals::default());
    let bad = [r#""title":"\ud83d""#.to_owned(), format!(r#""x":{}1{}"#, "[".repeat(200), "]".repeat(200))];
    for (id, more) in (1..).zip(bad) {
        let client = ClientId(id);
        world.come(client);
        let info = format!(r#"{{"name":"evil","version":"1",{more}}}"#);
        let text = format!(r#"{{"id":"i","method":"initialize","params":{{"clientInfo":{info}}}}}"#);
        say(&mut world, client, &text);
        assert_eq!(errors(&world, client, &json!("i")), 1);
    }
    world.replace();
    let good = world.client(9, experimental());
    world.settle();
    assert!(world.answer(good, 1).is_some_and(|answer| answer.get("result").is_some()));
    world.thread(good);
}

#[test]
fn stored_client_information_that_no_app_server_reads_is_discarded() {
    let mut world = World::bare(SubagentApprovals::default());
    let kept = r#"{"clientInfo":{"name":"evil","version":"1","title":"\ud83d"},"capabilities":{}}"#;
    world.feed(Event::ClientIdentityRestored(kept.into()));
    world.replace();
    let client = world.client(1, experimental());
    world.settle();
    world.thread(client);
    assert!(world.reports.iter().any(|report| matches!(report, Report::ClientInfoDiscarded { .. })));
}

#[test]
fn client_information_that_is_never_answered_gives_way_to_that_of_the_next_client() {
    let mut world = World::bare(SubagentApprovals::default());
    world.feed(Event::ClientIdentityRestored(r#"{"clientInfo":{"name":"evil","version":"1"}}"#.into()));
    world.unanswered_name = Some("evil");
    world.replace();
    world.settle();
    let client = world.client(1, experimental());
    world.settle_for(2_000);
    world.thread(client);
    assert!(world.reports.iter().any(|report| matches!(report, Report::ClientInfoDiscarded { .. })));
}

fn asked(world: &World, client: ClientId) -> Value {
    world.notes(client, APPROVAL).last().expect("asked")["id"].clone()
}

#[test]
fn an_answer_that_no_app_server_takes_is_refused_and_the_next_one_goes_on() {
    let mut world = World::new();
    let (first, second) = (world.client(1, experimental()), world.client(2, experimental()));
    let thread = world.thread(first);
    world.turn(first, &thread, "a");
    world.call(second, "thread/resume", json!({"threadId": thread}));
    world.request_approval(&thread);
    world.settle();
    let number = asked(&world, first);
    for wrong in [r#""error":{"message":"no"}"#, r#""result":{"decision":"\ud83d"}"#, r#""error":7"#] {
        say(&mut world, first, &format!(r#"{{"id":{number},{wrong}}}"#));
        assert!(world.answers.is_empty(), "{wrong}");
        let refused =
            |report: &Report| matches!(report, Report::AnswerRefused { client, .. } if *client == first);
        assert!(world.reports.iter().any(refused), "{wrong}");
    }
    say(&mut world, second, &json!({"id": number, "result": {"decision": "accept"}}).to_string());
    assert_eq!(world.answers.len(), 1);
    assert_eq!(world.answers[0].1["result"]["decision"], "accept");
}

#[test]
fn an_answer_that_the_app_server_did_not_take_is_followed_by_the_next_one() {
    let mut world = World::new();
    let (first, second) = (world.client(1, experimental()), world.client(2, experimental()));
    let thread = world.thread(first);
    world.turn(first, &thread, "a");
    world.call(second, "thread/resume", json!({"threadId": thread}));
    world.request_approval(&thread);
    world.settle();
    world.drops_answers = 2;
    let number = asked(&world, first);
    for (client, decision) in [(first, "accept"), (second, "decline")] {
        say(&mut world, client, &json!({"id": number, "result": {"decision": decision}}).to_string());
    }
    assert!(world.answers.is_empty() && world.drops_answers == 1, "only the first one went on");
    world.settle_for(ANSWER_CONFIRM_TIMEOUT_MS + 1_000);
    assert!(world.answers.is_empty() && world.drops_answers == 0, "then the next one");
    world.settle_for(ANSWER_CONFIRM_TIMEOUT_MS + 1_000);
    assert_eq!(world.notes(first, APPROVAL).len(), 2, "then the clients are asked once more");
    say(&mut world, first, &json!({"id": number, "result": {"decision": "accept"}}).to_string());
    assert_eq!(world.answers.len(), 1);
    assert_eq!(world.notes(second, "serverRequest/resolved").len(), 1);
}

#[test]
fn a_request_that_is_never_answered_gets_an_error_and_blocks_no_handover() {
    let mut world = World::new();
    let client = world.client(1, experimental());
    let thread = world.thread(client);
    world.turn(client, &thread, "a");
    world.complete(&thread);
    let old = world.current.expect("a server");
    world.ignored_method = Some("thread/turns/list");
    let number = world.ask(client, "thread/turns/list", json!({"threadId": thread}));
    world.settle();
    world.replace();
    world.settle_for(2_000);
    assert!(world.retired.is_empty() && world.answer(client, number).is_none());
    world.settle_for(RESPONSE_TIMEOUT_MS + 10_000);
    let answer = world.answer(client, number).expect("an answer");
    assert_eq!(answer["error"]["data"]["reason"], "appServerUnresponsive");
    assert_eq!(world.retired, [old]);
    assert!(world.reports.iter().any(|report| matches!(report, Report::Unanswered { count: 1, .. })));
    let connection = world
        .received
        .iter()
        .rfind(|(_, text)| text["method"] == "thread/turns/list")
        .expect("heard")
        .clone();
    let late = json!({"id": connection.1["id"], "result": {"data": []}}).to_string();
    world.feed(Event::ConnectionMessage(connection.0, late.into()));
    assert_eq!(errors(&world, client, &json!(number)), 1, "a late answer is dropped");
}

#[test]
fn the_params_of_a_known_method_are_no_array() {
    let mut world = World::new();
    let client = world.client(1, json!({}));
    let thread = world.thread(client);
    let sent = world.received.len();
    for (method, params) in [
        ("thread/memoryMode/set", json!([thread, "disabled"])),
        ("thread/read", json!([thread])),
        ("process/spawn", json!([["x"], "h", "/"])),
    ] {
        say(&mut world, client, &json!({"id": method, "method": method, "params": params}).to_string());
        assert_eq!(errors(&world, client, &json!(method)), 1, "{method}");
    }
    assert_eq!(world.received.len(), sent);
    say(&mut world, client, r#"{"id":"f","method":"some/futureThing","params":[1]}"#);
    assert!(world.received.iter().any(|(_, text)| text["method"] == "some/futureThing"));
}

#[test]
fn a_thread_that_is_named_in_another_way_is_found_where_it_is() {
    let mut world = World::new();
    let client = world.client(1, experimental());
    let thread = world.thread(client);
    world.turn(client, &thread, "stays");
    let old = world.current.expect("a server");
    world.replace();
    world.settle_for(500);
    for params in [
        format!(r#"{{"threadId":"x","threadId":"{thread}"}}"#),
        format!(r#"{{"threadId":"{thread}","turnId":5}}"#),
        format!(r#"{{"thread\u0049d":"{thread}"}}"#),
    ] {
        say(&mut world, client, &format!(r#"{{"id":"r","method":"thread/read","params":{params}}}"#));
        let (connection, _) =
            world.received.iter().rfind(|(_, text)| text["method"] == "thread/read").expect("heard");
        assert_eq!(*connection, Connection::Shared(old), "{params}");
    }
}

#[test]
fn a_method_whose_slash_is_escaped_is_understood() {
    let mut world = World::new();
    let client = world.client(1, experimental());
    say(&mut world, client, r#"{"id":"l","method":"thread\/loaded\/list","params":{}}"#);
    let texts = &world.clients[&client].texts;
    assert!(texts.iter().any(|text| text["id"] == "l" && text.get("result").is_some()), "{texts:?}");
}

/// The resume that makes the client a viewer is unanswered when its unsubscribe comes.
#[test]
fn an_unsubscribe_right_behind_the_resume_of_an_unloaded_thread_ends_the_subscription() {
    let mut world = World::new();
    let first = world.client(1, experimental());
    let thread = world.thread(first);
    world.turn(first, &thread, "a");
    world.complete(&thread);
    world.settle();
    world.leave(first);
    world.settle_for(UNLOAD_DELAY_MS + 60_000);
    assert!(!world.has_loaded(ServerId(1), &thread), "unloaded without viewers");
    let second = world.client(2, experimental());
    world.settle();
    let resume = world.ask(second, "thread/resume", json!({"threadId": thread}));
    let unsubscribe = world.ask(second, "thread/unsubscribe", json!({"threadId": thread}));
    world.settle();
    assert!(world.answer(second, resume).expect("an answer")["result"]["thread"].is_object());
    assert_eq!(world.answer(second, unsubscribe).expect("an answer")["result"]["status"], "unsubscribed");
}
