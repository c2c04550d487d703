//! A test rig: the model with a fake clock, a fake disk and fake clients.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use codexd_protocol::RequestId;
use serde_json::{Value, json};

use crate::call::Call;
use crate::ids::{ConnectionId, ServerRequestId, ThreadId};
use crate::model::transcript::{Record, Transcript};
use crate::model::{Action, Decision, Found, Input, Lookup, Signal, State, Wants};
use crate::settings::Settings;
use crate::timestamp::Timestamp;

pub(super) const UNLOAD_DELAY: Duration = Duration::from_secs(60);

/// The model, and all that it sent and wrote.
pub(super) struct Rig {
    pub(super) state: State,
    pub(super) now: Timestamp,
    /// The files, as the records in them.
    pub(super) disk: BTreeMap<ThreadId, Vec<Record>>,
    archived: BTreeSet<ThreadId>,
    /// What each connection received.
    pub(super) received: BTreeMap<ConnectionId, Vec<Value>>,
    /// Every action, in order, as far as the tests look at it.
    pub(super) actions: Vec<Action>,
    next_id: i64,
}

impl Rig {
    pub(super) fn new() -> Self {
        Self::seeded(0)
    }

    pub(super) fn seeded(seed: u64) -> Self {
        let settings = Settings {
            codex_home: "/h".into(),
            cwd: "/w".into(),
            version: "1.2.3".into(),
            model: "m".into(),
            model_provider: "p".into(),
            unload_delay: UNLOAD_DELAY,
            installation_id: "i".into(),
            server_name: "s".into(),
            remote_control: false,
        };
        Self {
            state: State::new(settings, seed),
            now: Timestamp::from_millis(1_795_150_801_000),
            disk: BTreeMap::new(),
            archived: BTreeSet::new(),
            received: BTreeMap::new(),
            actions: Vec::new(),
            next_id: 0,
        }
    }

    /// An initialized client.
    pub(super) fn client(&mut self, number: u64) -> ConnectionId {
        let connection = self.uninitialized_client(number);
        self.request(connection, "initialize", json!({"clientInfo": {"name": "c", "version": "1"}}));
        connection
    }

    pub(super) fn uninitialized_client(&mut self, number: u64) -> ConnectionId {
        let connection = ConnectionId(number);
        self.step(Input::Opened(connection));
        connection
    }

    /// Sends a request and returns its one response.
    pub(super) fn request(&mut self, connection: ConnectionId, method: &str, params: Value) -> Value {
        self.next_id += 1;
        let call = Call::parse(method, Some(params));
        let lookup =
            call.as_ref().map(|call| self.look_up(self.state.wants(call))).unwrap_or(Lookup::Nothing);
        let before = self.received.get(&connection).map_or(0, Vec::len);
        self.step(Input::Request { connection, id: RequestId::Integer(self.next_id), call, lookup });
        let news = self.received.get(&connection).into_iter().flatten().skip(before);
        let is_reply = |message: &&Value| message.get("method").is_none();
        let replies: Vec<Value> = news.filter(is_reply).cloned().collect();
        assert_eq!(replies.len(), 1, "{method}: {replies:?}");
        assert_eq!(replies[0]["id"], self.next_id);
        replies[0].clone()
    }

    pub(super) fn answer(&mut self, connection: ConnectionId, request: i64, decision: Decision) {
        self.step(Input::Response { connection, request: ServerRequestId(request), decision });
    }

    pub(super) fn signal(&mut self, signal: Signal) {
        self.step(Input::Signalled(signal));
    }

    /// Starts a thread; returns its id.
    pub(super) fn thread(&mut self, connection: ConnectionId) -> String {
        let reply = self.request(connection, "thread/start", json!({"cwd": "/w"}));
        reply["result"]["thread"]["id"].as_str().expect("a thread").to_owned()
    }

    /// Starts a turn; returns its id.
    pub(super) fn turn(&mut self, connection: ConnectionId, thread: &str, text: &str) -> String {
        let input = json!([{"type": "text", "text": text}]);
        let reply = self.request(connection, "turn/start", json!({"threadId": thread, "input": input}));
        reply["result"]["turn"]["id"].as_str().unwrap_or_else(|| panic!("{reply}")).to_owned()
    }

    /// Advances the clock until nothing more is due within `limit`.
    pub(super) fn pass(&mut self, limit: Duration) {
        let end = self.now.after(limit);
        while let Some(due) = self.state.next_due().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.step(Input::TimePassed);
        }
        self.now = end;
    }

    /// The methods of the notifications that a client received, from message `from` on.
    pub(super) fn told(&self, connection: ConnectionId, from: usize) -> Vec<String> {
        let news = self.received.get(&connection).into_iter().flatten().skip(from);
        news.filter_map(|message| Some(message["method"].as_str()?.to_owned())).collect()
    }

    pub(super) fn count(&self, connection: ConnectionId) -> usize {
        self.received.get(&connection).map_or(0, Vec::len)
    }

    pub(super) fn step(&mut self, input: Input) {
        for action in self.state.step(input, self.now) {
            match &action {
                Action::Send { to, frame } => {
                    let message: Value = serde_json::from_str(frame).expect("JSON");
                    for connection in to {
                        self.received.entry(*connection).or_default().push(message.clone());
                    }
                }
                Action::Append { thread, record } => {
                    self.disk.entry(*thread).or_default().push(record.clone());
                }
                Action::Archive(thread) => assert!(self.archived.insert(*thread)),
                Action::Unarchive(thread) => assert!(self.archived.remove(thread)),
                _ => {}
            }
            self.actions.push(action);
        }
    }

    fn look_up(&self, wants: Wants) -> Lookup {
        let read = |records: &Vec<Record>| Transcript::replay(records.clone()).map(Arc::new);
        match wants {
            Wants::Nothing => Lookup::Nothing,
            Wants::Memory => Lookup::Memory { resident_bytes: 1 },
            Wants::Threads { archived } => {
                let some = self.disk.iter().filter(|(id, _)| self.archived.contains(id) == archived);
                Lookup::Threads(some.filter_map(|(_, records)| read(records)).collect())
            }
            Wants::Thread { thread, .. } => Lookup::Thread(Found {
                transcript: self.disk.get(&thread).and_then(read),
                archived: self.archived.contains(&thread),
                other_writer: false,
            }),
        }
    }
}
