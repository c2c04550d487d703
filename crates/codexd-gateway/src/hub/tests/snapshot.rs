//! The snapshot that `codexd debug hub` prints.

use codexd_core::clock::Monotonic;
use codexd_core::config::SubagentApprovals;
use serde_json::Value;

use crate::hub::{Action, ClientId, Event, Hub};

#[test]
fn the_snapshot_has_methods_and_ages_but_no_content() {
    let (mut hub, mut out) = (Hub::new(SubagentApprovals::default()), Vec::new());
    let (client, asker) = (ClientId(1), ClientId(2));
    let introduction = r#"{"id":0,"method":"initialize","params":{"clientInfo":{"name":"n","version":"1"}}}"#;
    let turn = r#"{"id":1,"method":"turn/start","params":{"threadId":"t","input":"secret"}}"#;
    let events = [
        Event::ClientConnected(client),
        Event::ClientMessage(client, introduction.into()),
        Event::ClientMessage(client, turn.into()),
        Event::ClientConnected(asker),
    ];
    for event in events {
        hub.step(event, Monotonic(1_000), &mut out);
    }
    out.clear();
    let ask = r#"{"id":7,"method":"codexd/debug/hub","params":{}}"#;
    hub.step(Event::ClientMessage(asker, ask.into()), Monotonic(3_500), &mut out);
    let [Action::SendToClient(to, text)] = &out[..] else { panic!("one answer, before initialize: {out:?}") };
    assert_eq!(*to, asker);
    let answer: Value = serde_json::from_str(text).expect("JSON");
    let clients = answer["result"]["clients"].as_array().expect("clients");
    let waiting = clients.iter().find(|one| one["client"] == 1).expect("the client");
    assert_eq!(
        (&waiting["queue"][0]["method"], &waiting["queue"][0]["ageMs"]),
        (&"turn/start".into(), &2_500.into())
    );
    assert!(answer["id"] == 7 && !text.contains("secret"), "{text}");
}
