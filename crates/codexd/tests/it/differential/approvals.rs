//! Scenarios about commands that a client has to approve.

use anyhow::Context;
use serde_json::{Value, json};

use super::stage::{Actor, Stage};

const QUESTION: &str = "item/commandExecution/requestApproval";

/// A thread with two subscribers, in which the model waits for an approval.
struct Question {
    alice: Actor,
    bob: Actor,
    thread: String,
    turn: String,
    id: Value,
}

impl Question {
    async fn ask(stage: &mut Stage) -> anyhow::Result<Question> {
        let (alice, bob) = (stage.enter("alice").await?, stage.enter("bob").await?);
        let thread = alice.thread(stage).await?;
        alice.turn(&thread, "[[deltas=1]]").await?;
        bob.join(&thread).await?;
        alice.forget();
        let turn = alice.start_turn(&thread, "run [[shell=echo hi;; escalate=1 deltas=2]]").await?;
        let id = alice.wait_method(QUESTION).await?["id"].clone();
        bob.wait_method(QUESTION).await?;
        Ok(Question { alice, bob, thread, turn, id })
    }

    /// Waits until everybody has seen the end, and reads the history.
    async fn settle(&self) -> anyhow::Result<()> {
        self.alice.wait_turn(&self.turn).await?;
        self.bob.wait_turn(&self.turn).await?;
        self.alice.wait_method("serverRequest/resolved").await?;
        self.bob.wait_method("serverRequest/resolved").await?;
        self.alice.ask("thread/read", json!({"threadId": self.thread, "includeTurns": true})).await?.ok();
        Ok(())
    }
}

/// A late viewer gets the approval again; an unsubscribed client answers it; a later answer changes nothing.
pub(super) async fn accepted(stage: &mut Stage) -> anyhow::Result<()> {
    let question = Question::ask(stage).await?;
    let (late, unsubscribed) = (stage.enter("late").await?, stage.enter("unsubscribed").await?);
    late.ask("thread/resume", json!({"threadId": question.thread})).await?.ok();
    let repeated = late.wait_method(QUESTION).await?;
    assert_eq!(repeated["id"], question.id);
    unsubscribed.respond(&question.id, json!({"decision": "accept"})).await?;
    unsubscribed.wait_status("idle").await?;
    question.bob.respond(&question.id, json!({"decision": "cancel"})).await?;
    question.settle().await?;
    late.wait_turn(&question.turn).await?;
    Ok(())
}

/// The turn goes on without the command, which the history forgets.
pub(super) async fn declined(stage: &mut Stage) -> anyhow::Result<()> {
    let question = Question::ask(stage).await?;
    question.bob.respond(&question.id, json!({"decision": "decline"})).await?;
    question.settle().await
}

/// The turn ends.
pub(super) async fn cancelled(stage: &mut Stage) -> anyhow::Result<()> {
    let question = Question::ask(stage).await?;
    question.bob.respond(&question.id, json!({"decision": "cancel"})).await?;
    question.settle().await
}

/// Neither a decision nor a result: the command failed.
pub(super) async fn malformed(stage: &mut Stage) -> anyhow::Result<()> {
    let question = Question::ask(stage).await?;
    question.bob.respond(&question.id, json!({"decision": "perhaps"})).await?;
    question.settle().await?;
    question.alice.forget();
    let turn = question.alice.start_turn(&question.thread, "[[shell=true;; escalate=1]]").await?;
    let asked = question.alice.wait_method(QUESTION).await?;
    question.alice.send(json!({"id": asked["id"], "error": {"code": 1, "message": "no"}})).await?;
    question.alice.wait_turn(&turn).await?;
    question.bob.wait_turn(&turn).await?;
    Ok(())
}

/// The question is settled after the turn has ended.
pub(super) async fn interrupted(stage: &mut Stage) -> anyhow::Result<()> {
    let question = Question::ask(stage).await?;
    let params = json!({"threadId": question.thread, "turnId": question.turn});
    question.bob.call("turn/interrupt", params).await?;
    question.settle().await
}

/// Accepted for the session: the same command is not asked about again.
pub(super) async fn remembered(stage: &mut Stage) -> anyhow::Result<()> {
    let question = Question::ask(stage).await?;
    question.bob.respond(&question.id, json!({"decision": "acceptForSession"})).await?;
    question.settle().await?;
    let done = question.alice.turn(&question.thread, "[[shell=echo hi;; escalate=1 deltas=1]]").await?;
    let id = done["params"]["turn"]["id"].as_str().context("a turn has an id")?;
    question.bob.wait_turn(id).await?;
    Ok(())
}
