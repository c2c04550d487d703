//! Scenes about whole threads, and about what is refused.

use codexd_testkit::Client;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::stage::Stage;

const MISSING_THREAD: &str = "01a1f753-6b57-7b12-90c4-0103728d38e4";

/// Before and after `initialize`: unknown methods, missing parameters, threads that are not there.
pub(super) async fn refusals(stage: &mut Stage) -> anyhow::Result<()> {
    let alice = stage.uninitialized("alice").await?;
    for (method, params) in [
        ("thread/list", json!({})),
        ("thread/read", json!({})),
        ("no/such/method", json!({})),
        ("initialize", json!({})),
        ("initialize", json!({"clientInfo": {"name": "alice"}})),
    ] {
        alice.ask(method, params).await?.err();
    }
    alice.initialize("alice", stage.capabilities()).await?;
    alice.wait_method("remoteControl/status/changed").await?;
    let input = json!([{"type": "text", "text": "x"}]);
    let full = |thread: &str| json!({"threadId": thread, "name": "n", "turnId": "t", "expectedTurnId": "t", "input": input});
    for method in [
        "thread/read",
        "thread/resume",
        "thread/turns/list",
        "thread/unsubscribe",
        "thread/name/set",
        "thread/archive",
        "thread/unarchive",
        "turn/start",
        "turn/steer",
        "turn/interrupt",
    ] {
        for params in [json!({}), json!({"threadId": 7}), full("bad"), full(MISSING_THREAD)] {
            alice.ask(method, params).await?.ok();
        }
    }
    for (method, params) in [
        ("initialize", json!({"clientInfo": {"name": "alice", "version": "1"}})),
        ("no/such/method", json!({})),
        ("server/diagnostics", json!({})),
        ("turn/start", json!({"threadId": MISSING_THREAD, "input": [{"type": "smell"}]})),
        ("turn/start", json!({"threadId": MISSING_THREAD, "input": "x"})),
        ("thread/name/set", json!({"threadId": MISSING_THREAD, "name": ""})),
    ] {
        alice.ask(method, params).await?.err();
    }
    alice.send(json!({"id": "text", "method": "thread/loaded/list"})).await?;
    alice.wait("an answer with a text for an id", |message| message["id"] == "text").await?;
    Ok(())
}

/// None of these is answered, and the connection stays.
pub(super) async fn noise(stage: &mut Stage) -> anyhow::Result<()> {
    let alice = stage.enter("alice").await?;
    for text in [
        "",
        "no json",
        "{",
        "[]",
        "{}",
        "7",
        "null",
        r#"[{"id":1,"method":"thread/list","params":{}}]"#,
        r#"{"id":null,"method":"thread/list","params":{}}"#,
        r#"{"id":1.5,"method":"thread/list","params":{}}"#,
        r#"{"id":99999999999999999999,"method":"thread/list","params":{}}"#,
        r#"{"method":"no/such/notification","params":{}}"#,
        r#"{"id":77,"result":{}}"#,
        r#"{"id":77,"error":{"code":1,"message":"x"}}"#,
    ] {
        alice.send_frame(Message::text(text)).await?;
    }
    alice.send_frame(Message::binary(&br#"{"id":2,"method":"thread/list","params":{}}"#[..])).await?;
    alice.send_frame(Message::Ping(vec![1].into())).await?;
    alice.ask("thread/loaded/list", json!({})).await?.ok();
    alice.send(json!({"jsonrpc": "2.0", "id": -5, "method": "thread/loaded/list", "params": {}})).await?;
    alice.wait("an answer with a negative id", |message| message["id"] == -5).await?;
    Ok(())
}

/// Names, the archive and the way back, seen by a bystander too.
pub(super) async fn named_and_archived(stage: &mut Stage) -> anyhow::Result<()> {
    let (alice, bystander) = (stage.enter("alice").await?, stage.enter("bystander").await?);
    let thread = alice.thread(stage).await?;
    alice.turn(&thread, "[[deltas=1]]").await?;
    for name in ["first", "  ", ""] {
        alice.ask("thread/name/set", json!({"threadId": thread, "name": name})).await?.ok();
    }
    bystander.wait_method("thread/name/updated").await?;
    let named = json!({"threadId": thread});
    for method in ["thread/read", "thread/archive"] {
        alice.ask(method, named.clone()).await?.ok();
    }
    alice.wait_method("thread/archived").await?;
    bystander.wait_method("thread/archived").await?;
    for (method, params) in [
        ("thread/loaded/list", json!({})),
        ("thread/list", json!({})),
        ("thread/list", json!({"archived": true})),
        ("thread/read", named.clone()),
        ("thread/turns/list", named.clone()),
        ("thread/resume", named.clone()),
        ("thread/archive", named.clone()),
        ("turn/start", json!({"threadId": thread, "input": []})),
        ("thread/unsubscribe", named.clone()),
        ("thread/unarchive", named.clone()),
    ] {
        alice.ask(method, params).await?.ok();
    }
    alice.wait_method("thread/unarchived").await?;
    bystander.wait_method("thread/unarchived").await?;
    alice.ask("thread/unarchive", named.clone()).await?.err();
    alice.ask("thread/list", json!({})).await?.ok();
    alice.join(&thread).await?;
    alice.turn(&thread, "[[deltas=1]]").await?;
    let turn = alice.speaking_turn(&thread, "[[deltas=500 delay=0.02]]").await?;
    bystander.ask("thread/archive", named).await?.ok();
    alice.wait_turn(&turn).await?;
    alice.wait_method("thread/archived").await?;
    bystander.ask("thread/read", json!({"threadId": thread, "includeTurns": true})).await?.ok();
    Ok(())
}

/// A thread without turns is visible to no other client, and gone when it is unloaded.
pub(super) async fn unmaterialized(stage: &mut Stage) -> anyhow::Result<()> {
    let (alice, bob) = (stage.enter("alice").await?, stage.enter("bob").await?);
    let thread = alice.thread(stage).await?;
    for (method, params) in [
        ("thread/resume", json!({"threadId": thread, "excludeTurns": true})),
        ("thread/resume", json!({"threadId": thread})),
        ("thread/read", json!({"threadId": thread})),
        ("thread/turns/list", json!({"threadId": thread})),
        ("thread/list", json!({})),
    ] {
        bob.ask(method, params).await?.ok();
    }
    alice.ask("thread/unsubscribe", json!({"threadId": thread})).await?.ok();
    alice.wait_method("thread/closed").await?;
    bob.wait_method("thread/closed").await?;
    for method in ["thread/read", "thread/resume", "thread/turns/list"] {
        bob.ask(method, json!({"threadId": thread})).await?.err();
    }
    let second = alice.thread(stage).await?;
    bob.ask("thread/archive", json!({"threadId": second})).await?.ok();
    alice.wait_method("thread/archived").await?;
    bob.wait_method("thread/archived").await?;
    Ok(())
}

/// An ephemeral thread can be used but not found.
pub(super) async fn ephemeral(stage: &mut Stage) -> anyhow::Result<()> {
    let (alice, bob) = (stage.enter("alice").await?, stage.enter("bob").await?);
    let started = alice.call("thread/start", json!({"cwd": stage.work(), "ephemeral": true})).await?;
    let thread = started["thread"]["id"].as_str().unwrap_or_default().to_owned();
    alice.turn(&thread, "[[deltas=1]]").await?;
    bob.wait_status("idle").await?;
    for (method, params) in [
        ("thread/read", json!({"threadId": thread})),
        ("thread/read", json!({"threadId": thread, "includeTurns": true})),
        ("thread/resume", json!({"threadId": thread})),
        ("thread/archive", json!({"threadId": thread})),
        ("thread/name/set", json!({"threadId": thread, "name": "n"})),
        ("thread/list", json!({})),
        ("thread/loaded/list", json!({})),
    ] {
        bob.ask(method, params).await?.ok();
    }
    Ok(())
}

/// A client that wants less gets less, and still gets answers.
pub(super) async fn opted_out(stage: &mut Stage) -> anyhow::Result<()> {
    let unwanted = json!(["thread/status/changed", "turn/started", "thread/started", "no/such/notification"]);
    let alice = stage.enter_with("alice", json!({"optOutNotificationMethods": unwanted})).await?;
    let bob = stage.enter("bob").await?;
    let thread = alice.start_thread(&stage.work()).await?;
    bob.wait_method("thread/started").await?;
    alice.turn(&thread, "[[deltas=1]]").await?;
    bob.wait_status("idle").await?;
    Ok(())
}

/// A thread that begins with the turns of another. (The embedded server cannot do it.)
pub(super) async fn forked(stage: &mut Stage) -> anyhow::Result<()> {
    let (alice, bob) = (stage.enter("alice").await?, stage.enter("bob").await?);
    let thread = alice.thread(stage).await?;
    alice.turn(&thread, "[[deltas=1]]").await?;
    for params in [
        json!({"threadId": thread}),
        json!({"threadId": thread, "excludeTurns": true}),
        json!({"threadId": MISSING_THREAD}),
        json!({"threadId": thread}),
    ] {
        bob.forget();
        if let Ok(forked) = bob.ask("thread/fork", params).await? {
            let fork = &forked["thread"]["id"];
            for client in [&alice, &bob] {
                let is_announced = |told: &Value| told["params"]["thread"]["id"] == *fork;
                client.wait("the announcement of the fork", is_announced).await?;
            }
        }
    }
    Ok(())
}

/// The last subscriber unsubscribes or disconnects: the thread is unloaded after its turn.
pub(super) async fn unloaded(stage: &mut Stage) -> anyhow::Result<()> {
    let bystander = stage.enter("bystander").await?;
    let alice = stage.enter("alice").await?;
    let thread = alice.thread(stage).await?;
    alice.turn(&thread, "[[deltas=1]]").await?;
    alice.call("thread/unsubscribe", json!({"threadId": thread})).await?;
    alice.wait_method("thread/closed").await?;
    bystander.wait_method("thread/closed").await?;
    for (method, params) in [
        ("thread/loaded/list", json!({})),
        ("thread/read", json!({"threadId": thread})),
        ("turn/start", json!({"threadId": thread, "input": [{"type": "text", "text": "x"}]})),
        ("thread/unsubscribe", json!({"threadId": thread})),
        ("thread/resume", json!({"threadId": thread})),
    ] {
        alice.ask(method, params).await?.ok();
    }
    alice.joined().await?;
    bystander.joined().await?;
    let second = Client::dial(&stage.place()).await?;
    second.initialize("second", json!({})).await?;
    second.call("thread/resume", json!({"threadId": thread, "excludeTurns": true})).await?;
    alice.call("thread/unsubscribe", json!({"threadId": thread})).await?;
    bystander.forget();
    second.start_turn(&thread, "[[deltas=20 delay=0.02]]").await?;
    second.wait_method("item/agentMessage/delta").await?;
    drop(second);
    bystander.wait_method("thread/closed").await?;
    alice.ask("thread/read", json!({"threadId": thread, "includeTurns": true})).await?.ok();
    Ok(())
}

/// Members of the wrong type, one at a time.
pub(super) async fn wrong_types(stage: &mut Stage) -> anyhow::Result<()> {
    let alice = stage.uninitialized("alice").await?;
    for client_info in [
        json!(7),
        json!({"name": 7, "version": "1"}),
        json!({"name": "alice", "version": 7}),
        json!({"name": "alice", "version": "1", "title": 7}),
    ] {
        alice.ask("initialize", json!({"clientInfo": client_info})).await?.err();
    }
    let info = json!({"name": "alice", "version": "1", "title": null});
    for capabilities in [
        json!(7),
        json!({"experimentalApi": "yes"}),
        json!({"experimentalApi": null}),
        json!({"requestAttestation": 7}),
        json!({"optOutNotificationMethods": "x"}),
        json!({"optOutNotificationMethods": [7]}),
    ] {
        alice.ask("initialize", json!({"clientInfo": info, "capabilities": capabilities})).await?.err();
    }
    alice.initialize("alice", stage.capabilities()).await?;
    alice.wait_method("remoteControl/status/changed").await?;
    for (method, member, values) in [
        ("thread/start", "model", &[json!(7)][..]),
        ("thread/start", "modelProvider", &[json!(7)]),
        ("thread/start", "cwd", &[json!(7)]),
        ("thread/start", "approvalPolicy", &[json!(7), json!("sometimes"), json!({"granular": 7})]),
        ("thread/start", "ephemeral", &[json!("yes"), json!(0)]),
        ("thread/resume", "excludeTurns", &[json!(7), json!(null)]),
        ("thread/read", "includeTurns", &[json!("x"), json!(null)]),
        ("thread/list", "cursor", &[json!(7)]),
        ("thread/list", "limit", &[json!("x"), json!(-1), json!(1.5), json!(5_000_000_000_u64)]),
        ("thread/list", "archived", &[json!("x")]),
        ("thread/loaded/list", "cursor", &[json!(7)]),
        ("thread/loaded/list", "limit", &[json!("x")]),
        ("thread/turns/list", "cursor", &[json!(7)]),
        ("thread/turns/list", "limit", &[json!(-1)]),
        ("thread/turns/list", "sortDirection", &[json!("up"), json!(7)]),
        ("thread/turns/list", "itemsView", &[json!("some"), json!(7)]),
        ("thread/name/set", "name", &[json!(7), json!(null)]),
        ("turn/start", "clientUserMessageId", &[json!(7)]),
        ("turn/start", "input", &[json!(7), json!([7]), json!([{"type": "text", "text": 7}])]),
        ("turn/start", "input", &[json!([{"type": "text", "text": "x", "text_elements": 7}])]),
        ("turn/steer", "expectedTurnId", &[json!(7)]),
        ("turn/interrupt", "turnId", &[json!(7)]),
    ] {
        for value in values {
            let mut params = json!({"threadId": MISSING_THREAD, "name": "n", "turnId": "t", "expectedTurnId": "t", "input": []});
            params[member] = value.clone();
            alice.ask(method, params).await?.err();
        }
    }
    Ok(())
}
