//! What the mock model saw, in order.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::bail;
use serde_json::Value;
use tokio::sync::watch;

/// One thing that happened at the mock model.
#[derive(Clone, Debug)]
pub enum ModelEvent {
    /// A request came.
    Received(ModelRequest),
    /// The answer to it was written whole (or failed as asked).
    Finished {
        /// The request's number.
        number: usize,
    },
    /// The server hung up before the answer was whole.
    Abandoned {
        /// The request's number.
        number: usize,
    },
}

/// A request for an answer.
#[derive(Clone, Debug)]
pub struct ModelRequest {
    /// From 1, in order of arrival.
    pub number: usize,
    /// The last message of the user.
    pub user_message: String,
    /// Whether a tool has run since that message.
    pub after_tool: bool,
    /// The headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The request's JSON.
    pub body: Value,
}

/// The shared log; waiting on it needs no particular runtime.
#[derive(Clone, Debug)]
pub(super) struct Log {
    events: Arc<Mutex<Vec<ModelEvent>>>,
    length: watch::Sender<usize>,
}

impl Log {
    pub(super) fn new() -> Log {
        Log { events: Arc::default(), length: watch::channel(0).0 }
    }

    pub(super) fn add(&self, event: ModelEvent) {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.push(event);
        self.length.send_replace(events.len());
    }

    pub(super) fn events(&self) -> Vec<ModelEvent> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until `look` finds what it wants in the whole log.
    pub(super) async fn wait<T>(
        &self,
        timeout: Duration,
        what: &str,
        mut look: impl FnMut(&[ModelEvent]) -> Option<T>,
    ) -> anyhow::Result<T> {
        let mut length = self.length.subscribe();
        let search = async {
            loop {
                length.mark_unchanged();
                if let Some(found) = look(&self.events()) {
                    return Some(found);
                }
                length.changed().await.ok()?;
            }
        };
        match tokio::time::timeout(timeout, search).await {
            Ok(Some(found)) => Ok(found),
            _ => bail!("the mock model waited {timeout:?} for {what}; it saw {:?}", self.events()),
        }
    }
}
