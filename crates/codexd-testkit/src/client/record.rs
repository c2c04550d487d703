//! Everything that went over one connection, and waiting for more of it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::bail;
use serde_json::Value;
use tokio::sync::watch;

/// Which way a message went.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Direction {
    /// From the client.
    Sent,
    /// From the server.
    Received,
}

/// One message of a connection.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Which way it went.
    pub direction: Direction,
    /// When the client sent or saw it.
    pub at: Instant,
    /// The message; a JSON string if what came was not JSON.
    pub message: Value,
}

/// How the server ended a connection.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Closed {
    /// The code and reason of its closing frame, if it sent one (1005: a frame without a code).
    pub frame: Option<(u16, String)>,
    /// What broke, if the connection was not closed properly.
    pub error: Option<String>,
}

/// What went over a connection, for after the client is gone.
#[derive(Clone, Debug)]
pub struct Recording(pub(super) std::sync::Arc<Record>);

impl Recording {
    /// Everything sent and received so far, in order.
    pub fn entries(&self) -> Vec<Entry> {
        self.0.entries()
    }
}

#[derive(Debug)]
pub(super) struct Record {
    seen: Mutex<Seen>,
    version: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Seen {
    entries: Vec<Entry>,
    closed: Option<Closed>,
}

impl Record {
    pub(super) fn new() -> Record {
        Record { seen: Mutex::default(), version: watch::channel(0).0 }
    }

    pub(super) fn add(&self, direction: Direction, message: Value) {
        self.seen().entries.push(Entry { direction, at: Instant::now(), message });
        self.version.send_modify(|version| *version += 1);
    }

    pub(super) fn close(&self, closed: Closed) {
        self.seen().closed = Some(closed);
        self.version.send_modify(|version| *version += 1);
    }

    pub(super) fn len(&self) -> usize {
        self.seen().entries.len()
    }

    pub(super) fn entries(&self) -> Vec<Entry> {
        self.seen().entries.clone()
    }

    /// Waits for a received message at or after `from` that matches.
    pub(super) async fn wait(
        &self,
        from: usize,
        timeout: Duration,
        what: &str,
        mut matches: impl FnMut(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        let mut next = from;
        let outcome = self.watch(timeout, |seen| {
            let later = seen.entries.iter().skip(next);
            next = seen.entries.len();
            let mut received = later.filter(|entry| entry.direction == Direction::Received);
            match received.find(|entry| matches(&entry.message)) {
                Some(entry) => Some(Ok(entry.message.clone())),
                None => seen.closed.clone().map(Err),
            }
        });
        match outcome.await {
            Some(Ok(message)) => Ok(message),
            Some(Err(closed)) => {
                bail!("the connection ended before {what}: {closed:?}; {}", self.summary(from))
            }
            None => bail!("waited {timeout:?} for {what}; {}", self.summary(from)),
        }
    }

    pub(super) async fn wait_closed(&self, timeout: Duration) -> anyhow::Result<Closed> {
        match self.watch(timeout, |seen| seen.closed.clone()).await {
            Some(closed) => Ok(closed),
            None => bail!("waited {timeout:?} for the end of the connection"),
        }
    }

    /// Looks after every change until `look` finds something; `None` at the deadline.
    async fn watch<T>(&self, timeout: Duration, mut look: impl FnMut(&Seen) -> Option<T>) -> Option<T> {
        let mut version = self.version.subscribe();
        let search = async {
            loop {
                version.mark_unchanged();
                let found = look(&self.seen());
                if found.is_some() {
                    return found;
                }
                version.changed().await.ok()?;
            }
        };
        tokio::time::timeout(timeout, search).await.ok().flatten()
    }

    /// What came since `from`, short enough for an error.
    fn summary(&self, from: usize) -> String {
        const SHOWN: usize = 40;
        let seen = self.seen();
        let received = seen.entries.iter().skip(from).filter(|entry| entry.direction == Direction::Received);
        let mut names: Vec<String> = received
            .map(|entry| match entry.message["method"].as_str() {
                Some(method) => method.to_owned(),
                None => format!("answer {}", entry.message["id"]),
            })
            .collect();
        let hidden = names.len().saturating_sub(SHOWN);
        names.drain(..hidden);
        format!("came so far: {hidden} messages, then {names:?}")
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
