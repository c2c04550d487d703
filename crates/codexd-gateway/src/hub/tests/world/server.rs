//! What an app-server keeps and answers.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::settings::Settings;
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
    /// It is being unloaded; nobody can have it yet.
    pub closing: bool,
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

type Answer = Result<Value, (String, Value)>;

fn refused(message: &str) -> Answer {
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

    pub(super) fn hear(&mut self, connection: Connection, text: &Text) {
        let value: Value = serde_json::from_str(text).expect("JSON");
        self.heard.push((connection, value.clone()));
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
        // What a stranger to a thread says about it changes nothing there.
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

    fn thread_json(&self, server: ServerId, thread: &str) -> Value {
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

    fn serve(&mut self, connection: Connection, method: &str, params: &Value) -> Answer {
        let server = connection.server();
        let thread = params["threadId"].as_str().unwrap_or_default().to_owned();
        let refusal = self.obstructed(server, method, params);
        let model = self.servers.get_mut(&server).expect("a server");
        let rests = matches!(params["status"].as_str(), Some("paused" | "complete"));
        let begins_goal = method == "thread/goal/set" && !rests;
        let starts = matches!(method, "thread/start" | "turn/start" | "thread/fork" | "thread/resume");
        if model.draining && (starts || begins_goal) {
            return Err(("Server is draining".into(), json!({"reason": "serverShuttingDown"})));
        }
        let wants_it_loaded = matches!(
            method,
            "thread/backgroundTerminals/list" | "thread/goal/set" | "turn/start" | "turn/interrupt"
        );
        if wants_it_loaded && !model.threads.contains_key(&thread) {
            return refused("thread not found");
        }
        if let Some(refusal) = refusal {
            return Err((refusal, Value::Null));
        }
        match method {
            "thread/loaded/list" => {
                Ok(json!({"data": model.threads.keys().collect::<Vec<_>>(), "nextCursor": null}))
            }
            "thread/start" => {
                let id = format!("t{}", self.next_name);
                self.next_name += 1;
                let ephemeral = params["ephemeral"] == true;
                let loaded = Loaded { subscribed: true, ephemeral, ..Loaded::default() };
                self.servers.get_mut(&server).expect("a server").threads.insert(id.clone(), loaded);
                self.loaded_with.insert(id.clone(), Settings::given(params));
                Ok(self.loaded_answer(server, &id))
            }
            "thread/resume" => self.serve_resume(server, &thread, params),
            "thread/settings/update" => {
                let settings = self.loaded_with.entry(thread.clone()).or_default();
                settings.environments = params["environments"].clone();
                Ok(json!({}))
            }
            "thread/unsubscribe" => match (self.loaded(server, &thread), connection) {
                (None, _) => Ok(json!({"status": "notLoaded"})),
                (Some(loaded), Connection::Dedicated(..)) => {
                    let was = loaded.own.remove(&connection);
                    Ok(json!({"status": if was { "unsubscribed" } else { "notSubscribed" }}))
                }
                (Some(loaded), _) => {
                    let was = std::mem::take(&mut loaded.subscribed);
                    Ok(json!({"status": if was { "unsubscribed" } else { "notSubscribed" }}))
                }
            },
            "turn/start" => {
                let id = format!("turn{}", self.next_name);
                self.next_name += 1;
                let Some(loaded) = self.loaded(server, &thread) else { return refused("thread not found") };
                if loaded.closing {
                    return refused("thread is closing");
                }
                let turn =
                    loaded.turn.get_or_insert(Running { id, shown: false, text: String::new(), asks: None });
                let id = turn.id.clone();
                Ok(json!({"turn": {"id": id, "items": [], "status": "inProgress"}}))
            }
            "thread/turns/list" => Ok(json!({"data": self.turns(server, &thread), "nextCursor": null})),
            "thread/goal/get" => {
                let goal = self.goals.get(&thread).map(|status| super::goals::goal(&thread, status));
                Ok(json!({"goal": goal}))
            }
            "thread/goal/set" => {
                if self.loaded(server, &thread).is_none_or(|loaded| loaded.ephemeral) {
                    return refused("no goals here");
                }
                let status = match params["status"].as_str() {
                    Some("paused") => "paused",
                    Some("complete") => "complete",
                    Some("active") => "active",
                    None => self.goals.get(&thread).copied().unwrap_or("active"),
                    Some(_) => return refused("no such status"),
                };
                self.disk.entry(thread.clone()).or_default();
                let paused = params["status"] == "paused";
                if params.get("from").is_some() {
                    self.achieved_goals.remove(&thread);
                    self.paused_goals.remove(&thread);
                    self.paused_goals.extend(paused.then(|| thread.clone()));
                }
                // That of a sub-agent is its parent's business, and one that is being unloaded rests as upstream has it.
                let is_child = self.parents.contains_key(&thread);
                let begins = |loaded: &mut Loaded| !is_child && !loaded.closing;
                if params.get("from").is_some() && self.loaded(server, &thread).is_some_and(begins) {
                    self.wanted_goals.remove(&thread);
                    self.wanted_goals.extend((!paused).then(|| thread.clone()));
                }
                self.goals.insert(thread, status);
                Ok(json!({}))
            }
            "thread/queue/add" => {
                if self.loaded(server, &thread).is_none_or(|loaded| loaded.ephemeral) {
                    return refused("no queue here");
                }
                self.disk.entry(thread.clone()).or_default();
                *self.queues.entry(thread).or_default() += 1;
                Ok(json!({}))
            }
            "thread/queue/list" => {
                let count = self.queues.get(&thread).copied().unwrap_or_default();
                Ok(json!({"data": vec![1; count as usize], "nextCursor": null}))
            }
            "thread/backgroundTerminals/list" => {
                let count = self.loaded(server, &thread).map_or(0, |loaded| loaded.terminals);
                Ok(json!({"data": vec![1; count as usize], "nextCursor": null}))
            }
            "thread/read" => Ok(json!({"thread": self.thread_json(server, &thread)})),
            "config/read" => Ok(json!({"config": self.config(), "layers": self.config_layers})),
            _ => Ok(json!({"echo": method, "params": params})),
        }
    }

    fn serve_resume(&mut self, server: ServerId, thread: &str, params: &Value) -> Answer {
        let elsewhere = |(id, model): (&ServerId, &Model)| {
            *id != server && model.lives && model.threads.contains_key(thread)
        };
        if self.servers.iter().any(elsewhere) {
            return refused("thread already has an active writer");
        }
        let model = self.servers.get_mut(&server).expect("a server");
        let here = model.threads.get(thread);
        if here.is_some_and(|loaded| loaded.closing) {
            return refused("thread is closing; retry");
        }
        if self.config_is_broken && here.is_none() {
            return refused("failed to load configuration: /h/config.toml:1:1: invalid");
        }
        if !self.disk.contains_key(thread) {
            return refused("no rollout found for thread id");
        }
        let was_loaded = here.is_some();
        let loaded = model.threads.entry(thread.to_owned()).or_default();
        (loaded.subscribed, loaded.leaves) = (true, false);
        if !was_loaded {
            self.loaded_with.insert(thread.to_owned(), Settings::given(params));
        }
        Ok(self.loaded_answer(server, thread))
    }

    /// The answer to what loads a thread.
    fn loaded_answer(&self, server: ServerId, thread: &str) -> Value {
        let settings = self.loaded_with.get(thread).cloned().unwrap_or_default();
        let mut shown = self.thread_json(server, thread);
        shown["environments"] = settings.environments;
        json!({"thread": shown, "sandbox": settings.sandbox, "approvalPolicy": "on-request",
            "activePermissionProfile": null, "cwd": "/", "serviceTier": null, "runtimeWorkspaceRoots": ["/"]})
    }

    /// The turns of a thread, newest first. Of one that runs, the text is not told before it is whole.
    fn turns(&mut self, server: ServerId, thread: &str) -> Vec<Value> {
        let runs =
            self.loaded(server, thread).and_then(|loaded| loaded.turn.clone()).filter(|turn| turn.shown);
        let runs = runs.map(|turn| json!({"id": turn.id, "status": "inProgress", "items": []}));
        let done = self.disk.get(thread).into_iter().flatten().rev().map(|turn| {
            let item = json!({"type": "agentMessage", "id": format!("d-{}", turn.id), "text": turn.text});
            json!({"id": turn.id, "status": turn.status, "items": [item], "itemsView": "full"})
        });
        runs.into_iter().chain(done).take(4).collect()
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
        self.break_links_of(id);
    }
}
