//! Messages that name another request by its id.

use serde_json::{Value, json};

use super::experimental;
use super::world::World;
use crate::hub::{ClientId, Connection, Event};
use crate::routes::{Requester, request_id_members};

/// Sends a request under an id of any form.
fn ask_as(world: &mut World, client: ClientId, id: &Value, method: &str, params: &Value) {
    let text = json!({"id": id, "method": method, "params": params}).to_string();
    world.feed(Event::ClientMessage(client, text.into()));
    world.settle();
}

/// The last request of this method that came upstream, and over which connection.
fn received(world: &World, method: &str) -> (Connection, Value) {
    let last = world.received.iter().rfind(|(_, value)| value["method"] == method);
    last.unwrap_or_else(|| panic!("{method} did not come")).clone()
}

/// A client with a search that takes long, under this id.
fn searching(world: &mut World, id: u64, request: &Value) -> ClientId {
    let client = world.client(id, experimental());
    ask_as(world, client, request, "thread/search/stream", &json!({"searchTerm": "long"}));
    client
}

fn tell(world: &mut World, connection: Connection, method: &str, params: Value) {
    let text = json!({"method": method, "params": params}).to_string();
    world.feed(Event::ConnectionMessage(connection, text.into()));
    world.settle();
}

#[test]
fn a_request_names_another_one_by_the_id_that_upstream_knows() {
    let names = |row: &crate::routes::RequestIdMember| row.message.ends_with("/cancel");
    for row in request_id_members().filter(names) {
        for request in [json!("search-0"), json!(7), json!("ä\"\\")] {
            let mut world = World::new();
            let client = searching(&mut world, 1, &request);
            let (connection, search) = received(&world, "thread/search/stream");
            let named = request;
            ask_as(&mut world, client, &json!("cancel"), row.message, &json!({(row.member): named}));
            let (cancel_connection, cancel) = received(&world, row.message);
            assert_eq!(
                (cancel_connection, &cancel["params"][row.member]),
                (connection, &search["id"]),
                "{}",
                row.message
            );
            assert_ne!(cancel["id"], search["id"]);
            let texts = &world.clients[&client].texts;
            assert!(texts.iter().any(|text| text["id"] == "cancel" && text.get("result").is_some()));
            ask_as(&mut world, client, &json!("array"), row.message, &json!([named]));
            assert_eq!(received(&world, row.message).1["params"][0], search["id"]);
        }
    }
}

#[test]
fn an_id_may_be_written_with_escapes() {
    let mut world = World::new();
    let client = searching(&mut world, 1, &json!("a-b"));
    let text = r#"{"id":"c","method":"thread/search/stream/cancel","params":{"requestId":"a\u002db"}}"#;
    world.feed(Event::ClientMessage(client, text.into()));
    world.settle();
    let named = received(&world, "thread/search/stream/cancel").1["params"]["requestId"].clone();
    assert_eq!(named, received(&world, "thread/search/stream").1["id"]);
}

#[test]
fn a_request_cannot_name_one_of_another_client_or_one_that_does_not_run() {
    let mut world = World::new();
    searching(&mut world, 1, &json!("mine"));
    let other = world.client(2, experimental());
    let ids = |world: &World| -> Vec<Value> {
        world.received.iter().map(|(_, value)| value["id"].clone()).collect()
    };
    for row in request_id_members().filter(|row| row.message.ends_with("/cancel")) {
        for named in ids(&world).into_iter().chain([json!("mine"), json!("1")]) {
            let sent = ids(&world);
            ask_as(&mut world, other, &json!("cancel"), row.message, &json!({(row.member): named}));
            let (connection, cancel) = received(&world, row.message);
            assert!(
                matches!(connection, Connection::Dedicated(client, _) if client == other),
                "{connection:?}"
            );
            assert!(!sent.contains(&cancel["params"][row.member]), "{named} is {cancel}");
        }
        // What is no id upstream refuses in its own words.
        for wrong in [json!({"requestId": null}), json!({"requestId": 1.5}), json!({}), json!([])] {
            ask_as(&mut world, other, &json!("wrong"), row.message, &wrong);
            assert_eq!(received(&world, row.message).1["params"], wrong);
        }
    }
}

#[test]
fn a_search_that_began_before_a_handover_is_cancelled_where_it_runs() {
    let mut world = World::new();
    let client = searching(&mut world, 1, &json!("long"));
    let (old, search) = received(&world, "thread/search/stream");
    world.replace();
    world.settle_for(200);
    world.call(client, "account/read", json!({}));
    assert_ne!(received(&world, "account/read").0, old, "what is new goes to the successor");
    let params = json!({"requestId": "long"});
    ask_as(&mut world, client, &json!("cancel"), "thread/search/stream/cancel", &params);
    let (connection, cancel) = received(&world, "thread/search/stream/cancel");
    assert_eq!((connection, &cancel["params"]["requestId"]), (old, &search["id"]));
}

#[test]
fn what_a_search_finds_on_its_way_is_told_to_its_client_under_its_own_id() {
    let mut world = World::new();
    let second = world.client(2, experimental());
    let number = world.ask(second, "thread/search/stream", json!({"searchTerm": "long"}));
    world.settle();
    let searches = [json!(number), json!("search-0")];
    let clients = [second, searching(&mut world, 1, &searches[1])];
    let sent: Vec<_> = (world.received.iter())
        .filter(|(_, value)| value["method"] == "thread/search/stream")
        .map(|(connection, value)| (*connection, value["id"].clone()))
        .collect();
    assert_eq!(sent.len(), 2);
    for ((connection, id), (client, request)) in sent.iter().zip(clients.iter().zip(&searches)) {
        let before: Vec<_> = clients.iter().map(|client| world.clients[client].texts.len()).collect();
        let params = json!({"requestId": id, "data": []});
        tell(&mut world, *connection, "thread/search/partial", params);
        let told = world.notes(*client, "thread/search/partial");
        assert_eq!(told.len(), 1);
        assert_eq!(told[0]["params"], json!({"requestId": request, "data": []}));
        let after = clients.iter().map(|client| world.clients[client].texts.len());
        assert_eq!(
            after.zip(before).filter(|(after, before)| after != before).count(),
            1,
            "only the client that asked"
        );
        // None follows the answer.
        let answer = json!({"id": id, "result": {"data": [], "nextCursor": null}}).to_string();
        world.feed(Event::ConnectionMessage(*connection, answer.into()));
        tell(&mut world, *connection, "thread/search/partial", json!({"requestId": id, "data": []}));
        assert_eq!(world.notes(*client, "thread/search/partial").len(), 1);
    }
}

#[test]
fn what_a_search_lists_during_a_handover_has_the_status_of_the_other_app_server() {
    let mut world = World::new();
    let client = world.client(1, experimental());
    let thread = world.thread(client);
    world.turn(client, &thread, "stays where it is");
    world.replace();
    world.settle_for(200);
    let request = json!("search");
    ask_as(&mut world, client, &request, "thread/search/stream", &json!({"searchTerm": "long"}));
    let (connection, search) = received(&world, "thread/search/stream");
    let listed =
        |status: &str| json!([{"thread": {"id": thread, "status": {"type": status}}, "snippet": "x"}]);
    let params = json!({"requestId": search["id"], "data": listed("notLoaded")});
    tell(&mut world, connection, "thread/search/partial", params);
    let told = world.notes(client, "thread/search/partial")[0].clone();
    assert_eq!(told["params"]["requestId"], request);
    assert_eq!(told["params"]["data"][0]["thread"]["status"]["type"], "active");
    assert_eq!(told["params"]["data"][0]["snippet"], "x");
    let answer = json!({"id": search["id"], "result": {"data": listed("notLoaded"), "nextCursor": null}});
    world.feed(Event::ConnectionMessage(connection, answer.to_string().into()));
    world.settle();
    let texts = &world.clients[&client].texts;
    let answer = texts.iter().find(|text| text["id"] == request).expect("an answer");
    assert_eq!(answer["result"]["data"][0]["thread"]["status"]["type"], "active");
}

#[test]
fn every_member_with_a_request_id_is_rewritten() {
    // The rows of the table and the code that rewrites each: cancels above, partial results above, questions in `asks.rs`.
    for row in request_id_members() {
        let known = match row.requester {
            Requester::Client => row.message.ends_with("/cancel") || row.message == "thread/search/partial",
            Requester::Server => row.message == "serverRequest/resolved",
        };
        assert!(known, "nothing rewrites {}", row.message);
    }
}
