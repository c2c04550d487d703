//! Threads and turns, as nearly every test needs them.

use std::path::Path;

use anyhow::Context;
use serde_json::{Value, json};

use super::Client;

impl Client {
    /// `thread/start` in a folder; gives the thread's id.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn start_thread(&self, folder: &Path) -> anyhow::Result<String> {
        let answer = self.call("thread/start", json!({"cwd": folder})).await?;
        let id = answer["thread"]["id"].as_str().with_context(|| format!("no thread id in {answer}"))?;
        Ok(id.to_owned())
    }

    /// `turn/start` with one text; gives the turn's id.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn start_turn(&self, thread: &str, text: &str) -> anyhow::Result<String> {
        let input = json!([{"type": "text", "text": text}]);
        let answer = self.call("turn/start", json!({"threadId": thread, "input": input})).await?;
        let id = answer["turn"]["id"].as_str().with_context(|| format!("no turn id in {answer}"))?;
        Ok(id.to_owned())
    }

    /// Waits for the `turn/completed` of a turn.
    ///
    /// # Errors
    /// As [`Client::wait`].
    pub async fn wait_turn(&self, turn: &str) -> anyhow::Result<Value> {
        let what = format!("the end of turn {turn}");
        self.wait(&what, |message| {
            message["method"] == "turn/completed" && message["params"]["turn"]["id"] == turn
        })
        .await
    }

    /// A whole turn; gives its `turn/completed`.
    ///
    /// # Errors
    /// As [`Client::call`] and [`Client::wait`].
    pub async fn turn(&self, thread: &str, text: &str) -> anyhow::Result<Value> {
        let turn = self.start_turn(thread, text).await?;
        self.wait_turn(&turn).await
    }

    /// The text of an agent message as its pieces came, since [`Client::forget`].
    pub fn streamed_text(&self, thread: &str) -> String {
        let pieces = self.received().into_iter().filter(|message| {
            message["method"] == "item/agentMessage/delta" && message["params"]["threadId"] == thread
        });
        pieces.filter_map(|message| Some(message["params"]["delta"].as_str()?.to_owned())).collect()
    }
}
