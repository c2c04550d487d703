//! Scenes about turns.

use serde_json::json;

use super::stage::Stage;

/// Start, one turn with its pieces, and every way to read it back.
pub(super) async fn first_turn(stage: &mut Stage) -> anyhow::Result<()> {
    let (alice, bystander) = (stage.enter("alice").await?, stage.enter("bystander").await?);
    let thread = alice.thread(stage).await?;
    alice.ask("thread/loaded/list", json!({})).await?.ok();
    alice.ask("thread/list", json!({})).await?.ok();
    alice.turn(&thread, "hello [[deltas=12 size=5]]").await?;
    let said: String = (0..12).map(|piece| format!("{:x<5}", format!("d{piece} "))).collect();
    assert_eq!(alice.streamed_text(&thread), said);
    assert_eq!(bystander.streamed_text(&thread), "");
    bystander.wait_status("idle").await?;
    for (method, params) in [
        ("thread/read", json!({"threadId": thread})),
        ("thread/read", json!({"threadId": thread, "includeTurns": true})),
        ("thread/list", json!({})),
        ("thread/turns/list", json!({"threadId": thread})),
        ("thread/turns/list", json!({"threadId": thread, "itemsView": "full"})),
        ("thread/turns/list", json!({"threadId": thread, "itemsView": "notLoaded"})),
    ] {
        bystander.ask(method, params).await?.ok();
    }
    alice.turn(&thread, "[[deltas=0]]").await?;
    for page in [json!({"limit": 1}), json!({"limit": 2}), json!({"sortDirection": "asc"})] {
        let mut params = page;
        params["threadId"] = json!(thread);
        alice.ask("thread/turns/list", params).await?.ok();
    }
    Ok(())
}

/// Commands that need no approval: one that speaks, one that is silent, one that fails.
pub(super) async fn commands(stage: &mut Stage) -> anyhow::Result<()> {
    let alice = stage.enter("alice").await?;
    let thread = alice.thread(stage).await?;
    for command in ["echo hi there", "true", "false"] {
        alice.turn(&thread, &format!("run [[shell={command};; deltas=1]]")).await?;
    }
    alice.ask("thread/read", json!({"threadId": thread, "includeTurns": true})).await?.ok();
    Ok(())
}

/// Two who subscribe and one who does not.
pub(super) async fn second_subscriber(stage: &mut Stage) -> anyhow::Result<()> {
    let alice = stage.enter("alice").await?;
    let thread = alice.thread(stage).await?;
    alice.turn(&thread, "[[deltas=1]]").await?;
    let bob = stage.enter("bob").await?;
    bob.ask("thread/resume", json!({"threadId": thread})).await?.ok();
    bob.joined().await?;
    bob.join(&thread).await?;
    bob.turn(&thread, "[[deltas=2]]").await?;
    alice.forget();
    bob.call("thread/unsubscribe", json!({"threadId": thread})).await?;
    bob.call("thread/unsubscribe", json!({"threadId": thread})).await?;
    bob.forget();
    alice.turn(&thread, "[[deltas=3]]").await?;
    bob.wait_status("idle").await?;
    assert_eq!(bob.streamed_text(&thread), "");
    Ok(())
}

/// Who comes late gets the pieces from the next one on, and no more.
pub(super) async fn joined_in_the_middle(stage: &mut Stage) -> anyhow::Result<()> {
    let (alice, bob) = (stage.enter("alice").await?, stage.enter("bob").await?);
    let thread = alice.thread(stage).await?;
    let turn = alice.speaking_turn(&thread, "[[deltas=500 delay=0.03]]").await?;
    bob.ask("thread/resume", json!({"threadId": thread})).await?.ok();
    alice.wait_turn(&turn).await?;
    bob.wait_turn(&turn).await?;
    let (whole, rest) = (alice.streamed_text(&thread), bob.streamed_text(&thread));
    assert!(whole.ends_with(&rest) && !rest.is_empty() && rest.len() < whole.len(), "{rest} of {whole}");
    Ok(())
}

/// An interrupt by an unsubscribed client, before and after tokens were counted.
pub(super) async fn interrupted(stage: &mut Stage) -> anyhow::Result<()> {
    let (alice, bob) = (stage.enter("alice").await?, stage.enter("bob").await?);
    let thread = alice.thread(stage).await?;
    bob.ask("turn/interrupt", json!({"threadId": thread, "turnId": "none"})).await?.ok();
    let turn = alice.speaking_turn(&thread, "[[deltas=500 delay=0.02]]").await?;
    bob.ask("turn/interrupt", json!({"threadId": thread, "turnId": "none"})).await?.ok();
    bob.ask("turn/interrupt", json!({"threadId": thread, "turnId": turn})).await?.ok();
    alice.wait_turn(&turn).await?;
    alice.turn(&thread, "[[deltas=1]]").await?;
    let turn = alice.speaking_turn(&thread, "[[deltas=500 delay=0.02]]").await?;
    alice.ask("turn/interrupt", json!({"threadId": thread, "turnId": turn})).await?.ok();
    alice.wait_turn(&turn).await?;
    alice.ask("thread/read", json!({"threadId": thread, "includeTurns": true})).await?.ok();
    Ok(())
}

/// Steering cuts the answer that is being given.
pub(super) async fn steered(stage: &mut Stage) -> anyhow::Result<()> {
    let alice = stage.enter("alice").await?;
    let thread = alice.thread(stage).await?;
    let input = json!([{"type": "text", "text": "rather [[deltas=2]]"}]);
    let steer = |turn: &str| json!({"threadId": thread, "expectedTurnId": turn, "input": input});
    alice.ask("turn/steer", steer("none")).await?.ok();
    alice.turn(&thread, "[[deltas=1]]").await?;
    let turn = alice.speaking_turn(&thread, "[[deltas=500 delay=0.02]]").await?;
    alice.ask("turn/steer", steer("none")).await?.ok();
    alice.ask("turn/steer", json!({"threadId": thread, "expectedTurnId": turn, "input": []})).await?.ok();
    alice.ask("turn/steer", steer(&turn)).await?.ok();
    alice.wait_turn(&turn).await?;
    alice.ask("thread/read", json!({"threadId": thread, "includeTurns": true})).await?.ok();
    Ok(())
}

/// A second turn/start while a turn runs goes to that turn.
pub(super) async fn started_twice(stage: &mut Stage) -> anyhow::Result<()> {
    let (alice, bob) = (stage.enter("alice").await?, stage.enter("bob").await?);
    let thread = alice.thread(stage).await?;
    let first = alice.speaking_turn(&thread, "[[deltas=500 delay=0.02]]").await?;
    let second = bob.start_turn(&thread, "too [[deltas=2]]").await?;
    assert_eq!(first, second);
    alice.wait_turn(&first).await?;
    alice.ask("thread/read", json!({"threadId": thread, "includeTurns": true})).await?.ok();
    Ok(())
}

/// Every way in which the model fails, and that the thread goes on.
pub(super) async fn failing(stage: &mut Stage) -> anyhow::Result<()> {
    let (alice, bystander) = (stage.enter("alice").await?, stage.enter("bystander").await?);
    let thread = alice.thread(stage).await?;
    for failure in ["500", "429", "401", "503", "sse", "drop"] {
        alice.turn(&thread, &format!("[[fail={failure}]]")).await?;
        alice.ask("thread/read", json!({"threadId": thread, "includeTurns": true})).await?.ok();
    }
    alice.turn(&thread, "[[deltas=1]]").await?;
    alice.turn(&thread, "[[fail=sse]]").await?;
    bystander.forget();
    alice.turn(&thread, "[[deltas=1]]").await?;
    bystander.wait_status("idle").await?;
    Ok(())
}
