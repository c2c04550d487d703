//! What an app-server answers.

use serde_json::{Value, json};

use super::World;
use super::server::{Answer, Loaded, Model, Running, refused};
use super::settings::Settings;
use crate::hub::{Connection, ServerId};

impl World {
    pub(super) fn serve(&mut self, connection: Connection, method: &str, params: &Value) -> Answer {
        let server = connection.server();
        let thread = params["threadId"].as_str().unwrap_or_default().to_owned();
        let refusal = self.obstructed(server, method, params);
        let model = self.servers.get_mut(&server).expect("a server");
        let rests = matches!(params["status"].as_str(), Some("paused" | "complete"));
        let begins_goal = method == "thread/goal/set" && !rests;
        let starts = matches!(method, "thread/start" | "turn/start" | "thread/fork" | "thread/resume");
        if model.draining && (starts || begins_goal) {
            if begins_goal && params.get("from").is_some() {
                // The client wants the goal to go on, also if the refusal is lost with the connection.
                self.paused_goals.remove(&thread);
            }
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
            "thread/start" => self.serve_thread_start(server, params),
            "thread/resume" => self.serve_resume(server, &thread, params),
            "thread/settings/update" => {
                let settings = self.loaded_with.entry(thread.clone()).or_default();
                settings.environments = params["environments"].clone();
                Ok(json!({}))
            }
            "thread/unsubscribe" => self.serve_unsubscribe(connection, &thread),
            "turn/start" => self.serve_turn_start(server, &thread),
            "thread/turns/list" => Ok(json!({"data": self.turns(server, &thread), "nextCursor": null})),
            "thread/goal/get" => {
                let goal = self.goals.get(&thread).map(|status| super::goals::goal(&thread, status));
                Ok(json!({"goal": goal}))
            }
            "thread/goal/set" => self.serve_goal_set(server, thread, params),
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

    fn serve_thread_start(&mut self, server: ServerId, params: &Value) -> Answer {
        let id = format!("t{}", self.next_name);
        self.next_name += 1;
        let ephemeral = params["ephemeral"] == true;
        let loaded = Loaded { subscribed: true, ephemeral, ..Loaded::default() };
        self.servers.get_mut(&server).expect("a server").threads.insert(id.clone(), loaded);
        self.loaded_with.insert(id.clone(), Settings::given(params));
        Ok(self.loaded_answer(server, &id))
    }

    fn serve_turn_start(&mut self, server: ServerId, thread: &str) -> Answer {
        let id = format!("turn{}", self.next_name);
        self.next_name += 1;
        let Some(loaded) = self.loaded(server, thread) else { return refused("thread not found") };
        if loaded.closing {
            return refused("thread is closing");
        }
        let turn = loaded.turn.get_or_insert(Running { id, shown: false, text: String::new(), asks: None });
        let id = turn.id.clone();
        Ok(json!({"turn": {"id": id, "items": [], "status": "inProgress"}}))
    }

    fn serve_unsubscribe(&mut self, connection: Connection, thread: &str) -> Answer {
        match (self.loaded(connection.server(), thread), connection) {
            (None, _) => Ok(json!({"status": "notLoaded"})),
            (Some(loaded), Connection::Dedicated(..)) => {
                let was = loaded.own.remove(&connection);
                Ok(json!({"status": if was { "unsubscribed" } else { "notSubscribed" }}))
            }
            (Some(loaded), _) => {
                let was = std::mem::take(&mut loaded.subscribed);
                Ok(json!({"status": if was { "unsubscribed" } else { "notSubscribed" }}))
            }
        }
    }

    fn serve_goal_set(&mut self, server: ServerId, thread: String, params: &Value) -> Answer {
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
    pub(super) fn turns(&mut self, server: ServerId, thread: &str) -> Vec<Value> {
        let runs =
            self.loaded(server, thread).and_then(|loaded| loaded.turn.clone()).filter(|turn| turn.shown);
        let runs = runs.map(|turn| json!({"id": turn.id, "status": "inProgress", "items": []}));
        let done = self.disk.get(thread).into_iter().flatten().rev().map(|turn| {
            let item = json!({"type": "agentMessage", "id": format!("d-{}", turn.id), "text": turn.text});
            json!({"id": turn.id, "status": turn.status, "items": [item], "itemsView": "full"})
        });
        runs.into_iter().chain(done).take(4).collect()
    }
}
