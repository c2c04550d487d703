//! What an app-server keeps and answers.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{Obstacle, World};
use crate::hub::{Connection, Event, ServerId, Text};

/// A turn on disk.
#[derive(Clone, Debug)]
pub struct DiskTurn {
    pub id: String,
    pub status: &'static str,
    pub text: String,
}

/// A turn in a server.
#[derive(Clone, Debug)]
pub struct Running {
    pub id: String,
    /// It was accepted; the thread does not say so yet. An unsubscribe in this window cuts it.
    pub shown: bool,
    pub text: String,
    pub asks: Option<u64>,
}

/// A loaded thread.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    pub subscribed: bool,
    pub turn: Option<Running>,
    /// It unloads when the turn ends, unheard.
    pub leaves: bool,
    pub ephemeral: bool,
    /// Commands in the background: unloading kills them.
    pub terminals: u32,
    /// Own connections that are subscribed as well: to a sub-agent's.
    pub own: BTreeSet<Connection>,
    /// It is being unloaded; no app-server can load it yet.
    pub closing: bool,
}

impl Loaded {
    /// Nothing runs in it and no connection is subscribed to it: an app-server unloads such a thread.
    pub(super) fn is_unused(&self) -> bool {
        let is_idle = self.turn.is_none() && self.terminals == 0 && !self.closing;
        is_idle && !self.subscribed && self.own.is_empty()
    }
}

#[derive(Debug, Default)]
pub struct Model {
    pub lives: bool,
    pub draining: bool,
    pub threads: BTreeMap<String, Loaded>,
    pub next_ask: u64,
}

/// What becomes of the word that a thread is unloaded.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Closing {
    #[default]
    AtOnce,
    Late(u64),
    Never,
}

pub(super) type Answer = Result<Value, (String, Value)>;

pub(super) fn refused(message: &str) -> Answer {
    Err((message.to_owned(), Value::Null))
}

impl World {
    pub(super) fn push(&mut self, connection: Connection, value: Value) {
        if self.is_connected(connection) {
            let event = Event::ConnectionMessage(connection, Text::from(value.to_string()));
            self.up.entry(connection).or_default().push_back(event);
        }
    }

    pub fn lives(&self, server: ServerId) -> bool {
        self.servers.get(&server).is_some_and(|model| model.lives)
    }

    pub fn note(&mut self, server: ServerId, method: &str, params: Value) {
        self.push(
            Connection::Shared(server),
            json!({"method": method, "params": params, "emittedAtMs": self.now}),
        );
    }

    pub(super) fn receive(&mut self, connection: Connection, text: &Text) {
        let value: Value = serde_json::from_str(text).expect("JSON");
        self.received.push((connection, value.clone()));
        let server = connection.server();
        if value.get("method").is_none() {
            if let Some(left) = self.drops_answers.checked_sub(1) {
                self.drops_answers = left;
                return;
            }
            if let Some(ask) = value["id"].as_u64() {
                self.asked_and_answered(server, ask, value);
            }
            return;
        }
        let (method, params) = (value["method"].as_str().unwrap_or_default(), &value["params"]);
        if self.ignored_method == Some(method) {
            return;
        }
        let outcome = match method {
            "fs/watch" if params["path"] == "refused" => refused("no such path"),
            "process/spawn" if params["cwd"] != "/" => refused("no such directory"),
            "command/exec" | "process/spawn" if self.is_taken(connection, method, params) => {
                refused("duplicate active process")
            }
            "command/exec" | "process/spawn" => {
                self.running_there.push((connection, value.clone()));
                if method == "command/exec" {
                    return;
                }
                Ok(json!({}))
            }
            // Until the test has it answered.
            "thread/search" | "thread/search/stream" if params["searchTerm"] == "long" => return,
            _ => self.serve(connection, method, params),
        };
        let (client, number) = (params["from"][0].as_u64(), params["from"][1].as_i64());
        if let (Some(client), Some(number)) = (client, number) {
            match outcome.as_ref().err().is_some_and(|(_, data)| !data.is_null()) {
                // It is sent again, behind what was not refused.
                true => self.refused.push((client, number)),
                false => self.in_order(client, number, params),
            }
        }
        // An answer of a connection without a subscription changes nothing.
        let is_stranger = outcome.as_ref().is_ok_and(|result| result["status"] == "notSubscribed");
        let is_refused = outcome.is_err();
        let mut reply = json!({"id": value["id"]});
        match outcome {
            Ok(result) => reply["result"] = result,
            Err((message, data)) => {
                reply["error"] =
                    json!({"code": Obstacle::code_of(&message), "message": message, "data": data});
            }
        }
        self.push(connection, reply);
        if !is_stranger && !is_refused {
            self.after_answer(connection, method, params);
        }
    }

    /// What a client asks about a thread comes in the order in which it was sent.
    fn in_order(&mut self, client: u64, number: i64, params: &Value) {
        if self.refused.contains(&(client, number)) {
            return;
        }
        let Some(thread) = params["threadId"].as_str() else { return };
        let last = self.last.insert((client, thread.to_owned()), number);
        assert!(last.is_none_or(|last| last < number), "{client} is heard out of order: {params}");
    }

    /// What is told behind an answer.
    fn after_answer(&mut self, connection: Connection, method: &str, params: &Value) {
        let Some(thread) = params["threadId"].as_str().map(str::to_owned) else { return };
        let server = connection.server();
        let Some(loaded) = self.loaded(server, &thread).cloned() else { return };
        match method {
            "thread/unsubscribe" if !loaded.subscribed && loaded.own.is_empty() && !loaded.closing => {
                self.cut.extend(loaded.turn.iter().map(|turn| turn.id.clone()));
                self.cut.extend((loaded.terminals > 0).then(|| format!("terminals of {thread}")));
                match loaded.turn {
                    Some(turn) if turn.shown => {
                        if let Some(loaded) = self.loaded(server, &thread) {
                            loaded.leaves = true;
                        }
                    }
                    _ => self.unload(server, &thread),
                }
            }
            "thread/resume" if matches!(connection, Connection::Shared(_)) => {
                let status = self.thread_json(server, &thread)["status"].clone();
                self.note(server, "thread/status/changed", json!({"threadId": thread, "status": status}));
                match self.goals.get(&thread) {
                    Some(status) => {
                        let goal = super::goals::goal(&thread, status);
                        self.note(server, "thread/goal/updated", json!({"threadId": thread, "goal": goal}));
                    }
                    None => self.note(server, "thread/goal/cleared", json!({"threadId": thread})),
                }
                if let Some(ask) = loaded.turn.and_then(|turn| turn.asks) {
                    self.put_question(server, &thread, ask);
                }
                self.begin_by_itself(server, &thread);
            }
            "thread/goal/set" => {
                let goal = super::goals::goal(&thread, self.goals.get(&thread).copied().unwrap_or_default());
                self.note(server, "thread/goal/updated", json!({"threadId": thread, "goal": goal}));
                self.begin_by_itself(server, &thread);
            }
            "thread/queue/add" => self.begin_by_itself(server, &thread),
            _ => {}
        }
    }

    pub(super) fn unload(&mut self, server: ServerId, thread: &str) {
        match std::mem::take(&mut self.closing) {
            Closing::AtOnce => self.unloaded(server, thread, true),
            Closing::Never => self.unloaded(server, thread, false),
            Closing::Late(ms) => {
                if let Some(loaded) = self.loaded(server, thread) {
                    loaded.closing = true;
                    loaded.turn = None;
                    // Whether the gateway may cause that was checked at its unsubscribe.
                    loaded.terminals = 0;
                }
                self.late.push((self.now + ms, server, thread.to_owned()));
            }
        }
    }

    pub(super) fn unloaded(&mut self, server: ServerId, thread: &str, told: bool) {
        if let Some(model) = self.servers.get_mut(&server) {
            model.threads.remove(thread);
        }
        if told {
            let status = json!({"threadId": thread, "status": {"type": "notLoaded"}});
            self.note(server, "thread/status/changed", status);
            self.note(server, "thread/closed", json!({"threadId": thread}));
        }
    }

    pub(super) fn loaded(&mut self, server: ServerId, thread: &str) -> Option<&mut Loaded> {
        self.servers.get_mut(&server)?.threads.get_mut(thread)
    }

    pub(super) fn thread_json(&self, server: ServerId, thread: &str) -> Value {
        let loaded = self.servers.get(&server).and_then(|model| model.threads.get(thread));
        let status = match loaded {
            None => json!({"type": "notLoaded"}),
            Some(Loaded { turn: Some(Running { shown: true, .. }), .. }) => {
                json!({"type": "active", "activeFlags": []})
            }
            Some(_) => json!({"type": "idle"}),
        };
        let ephemeral = loaded.is_some_and(|loaded| loaded.ephemeral);
        let path = (!ephemeral).then(|| format!("/rollouts/{thread}"));
        let source = match self.parents.get(thread) {
            Some(parent) => json!({"subAgent": {"thread_spawn": {"parent_thread_id": parent}}}),
            None => json!("vscode"),
        };
        let provider = Obstacle::provider_of(thread);
        json!({"id": thread, "status": status, "path": path, "ephemeral": ephemeral, "source": source,
            "cwd": "/work", "modelProvider": provider})
    }

    /// An app-server dies. `graceful`: its turns are whole on disk, unheard.
    pub fn kill(&mut self, id: ServerId, graceful: bool) {
        self.goals_are_forgotten();
        let Some(model) = self.servers.get_mut(&id) else { return };
        model.lives = false;
        let threads = std::mem::take(&mut model.threads);
        for (thread, loaded) in threads {
            let keeps = !loaded.ephemeral;
            if let Some(turn) = loaded.turn.filter(|turn| turn.shown && keeps) {
                let status = if graceful { "completed" } else { "interrupted" };
                let text = if graceful { format!("{}-end", turn.text) } else { String::new() };
                if graceful {
                    self.said.insert(turn.id.clone(), text.clone());
                }
                self.disk.entry(thread).or_default().push(DiskTurn { id: turn.id, status, text });
            }
        }
        self.running_there.retain(|(connection, _)| connection.server() != id);
        self.break_connections_of(id);
    }
}
