//! What happens in app-servers by itself.

use serde_json::{Value, json};

use super::World;
use super::server::{DiskTurn, Loaded, Model, Running};
use crate::hub::{Connection, ServerId};

/// How soon a turn shows that an app-server begins by itself.
const SHOWS_WITHIN_MS: u64 = 20;
/// The turn of a message that has left the queue shows later, on a loaded machine.
const QUEUED_SHOWS_WITHIN_MS: u64 = 1_000;

impl World {
    pub(super) fn next_due(&self) -> Option<u64> {
        self.due.iter().map(|(due, _)| *due).chain(self.late.iter().map(|(due, ..)| *due)).min()
    }

    pub(super) fn time_passed(&mut self) {
        let now = self.now;
        let (due, rest) = std::mem::take(&mut self.due).into_iter().partition(|(due, _)| *due <= now);
        self.due = rest;
        let due: Vec<(u64, String)> = due;
        due.iter().for_each(|(_, thread)| self.show(thread));
        let (late, rest) = std::mem::take(&mut self.late).into_iter().partition(|(due, ..)| *due <= now);
        self.late = rest;
        let late: Vec<(u64, ServerId, String)> = late;
        for (_, server, thread) in late {
            if self.loaded(server, &thread).is_some_and(|loaded| loaded.closing) {
                self.unloaded(server, &thread, true);
            }
        }
    }

    /// An active goal, or a queued message, begins a turn in a thread that is idle.
    pub(super) fn begin_by_itself(&mut self, server: ServerId, thread: &str) {
        let continues = self.goals.get(thread) == Some(&"active");
        let queued = self.queues.get(thread).is_some_and(|count| *count > 0);
        let id = format!("turn{}", self.next_name);
        let drains = self.servers.get(&server).is_none_or(|model| model.draining);
        let Some(loaded) =
            self.loaded(server, thread).filter(|loaded| loaded.turn.is_none() && !loaded.closing)
        else {
            return;
        };
        if drains || !(continues || queued) {
            return;
        }
        loaded.turn = Some(Running { id, shown: false, text: String::new(), asks: None });
        self.next_name += 1;
        if queued && let Some(count) = self.queues.get_mut(thread) {
            *count -= 1;
        }
        if queued {
            // In no list and no turn: the message shows again when its turn does.
            self.notify_about(server, thread, "thread/queue/changed", json!({"threadId": thread}));
        }
        let shows_within = if queued { QUEUED_SHOWS_WITHIN_MS } else { SHOWS_WITHIN_MS };
        self.due.push((self.now + shows_within, thread.to_owned()));
    }

    /// The servers that have a thread with a turn.
    pub fn runs_in(&self, thread: &str) -> Option<ServerId> {
        let has = |model: &Model| model.threads.get(thread).is_some_and(|loaded| loaded.turn.is_some());
        self.servers.iter().find(|(_, model)| model.lives && has(model)).map(|(id, _)| *id)
    }

    /// The server that has a thread.
    fn is_in(&self, thread: &str) -> Option<ServerId> {
        let has = |model: &Model| model.threads.get(thread).is_some_and(|loaded| !loaded.closing);
        self.servers.iter().find(|(_, model)| model.lives && has(model)).map(|(id, _)| *id)
    }

    pub fn running(&self) -> Vec<String> {
        let models = self.servers.values().filter(|model| model.lives);
        let threads = models.flat_map(|model| &model.threads);
        threads.filter(|(_, loaded)| loaded.turn.is_some()).map(|(id, _)| id.clone()).collect()
    }

    /// An accepted turn shows: the thread is active.
    pub fn show(&mut self, thread: &str) {
        let Some(server) = self.runs_in(thread) else { return };
        let Some(loaded) = self.loaded(server, thread) else { return };
        let keeps = !loaded.ephemeral;
        let Some(turn) = loaded.turn.as_mut() else { return };
        if std::mem::replace(&mut turn.shown, true) {
            return;
        }
        let id = turn.id.clone();
        if keeps {
            self.disk.entry(thread.to_owned()).or_default();
        }
        let status = json!({"threadId": thread, "status": {"type": "active", "activeFlags": []}});
        self.notify_about(server, thread, "thread/status/changed", status);
        let turn = json!({"id": id, "items": [], "status": "inProgress"});
        self.notify_about(server, thread, "turn/started", json!({"threadId": thread, "turn": turn}));
        let item = json!({"type": "agentMessage", "id": format!("i-{id}"), "text": ""});
        self.notify_about(
            server,
            thread,
            "item/started",
            json!({"threadId": thread, "turnId": id, "item": item}),
        );
    }

    /// Broadcasts go to everybody, the rest to subscribers.
    fn notify_about(&mut self, server: ServerId, thread: &str, method: &str, params: Value) {
        let subscribed = self.loaded(server, thread).is_some_and(|loaded| loaded.subscribed);
        if subscribed || method.starts_with("thread/status") {
            self.note(server, method, params);
        }
    }

    pub fn delta(&mut self, thread: &str, text: &str) {
        let Some(server) = self.runs_in(thread) else { return };
        let Some(turn) = self.loaded(server, thread).and_then(|loaded| loaded.turn.as_mut()) else { return };
        if !turn.shown {
            return;
        }
        turn.text.push_str(text);
        let (id, all) = (turn.id.clone(), turn.text.clone());
        self.said.insert(id.clone(), all);
        let params = json!({"threadId": thread, "turnId": id, "itemId": format!("i-{id}"), "delta": text});
        self.notify_about(server, thread, "item/agentMessage/delta", params);
    }

    /// The turn asks for an approval.
    pub fn request_approval(&mut self, thread: &str) {
        let Some(server) = self.runs_in(thread) else { return };
        let Some(model) = self.servers.get_mut(&server) else { return };
        let waits = |loaded: &Loaded| loaded.turn.as_ref().is_some_and(|turn| turn.asks.is_some());
        if model.threads.get(thread).is_some_and(waits) {
            return;
        }
        let number = model.next_ask;
        model.next_ask += 1;
        if let Some(turn) = model.threads.get_mut(thread).and_then(|loaded| loaded.turn.as_mut()) {
            turn.asks = Some(number);
        }
        self.put_question(server, thread, number);
    }

    pub(super) fn put_question(&mut self, server: ServerId, thread: &str, number: u64) {
        let params = json!({"kind": "command", "threadId": thread});
        let method = "item/commandExecution/requestApproval";
        let Some(loaded) = self.loaded(server, thread) else { return };
        let mut connections: Vec<Connection> = loaded.own.iter().copied().collect();
        connections.extend(loaded.subscribed.then_some(Connection::Shared(server)));
        for connection in connections {
            self.push(connection, json!({"method": method, "id": number, "params": params}));
        }
    }

    pub(super) fn asked_and_answered(&mut self, server: ServerId, ask: u64, value: Value) {
        let Some(model) = self.servers.get_mut(&server) else { return };
        let asking = model.threads.iter_mut().find_map(|(id, loaded)| {
            let turn = loaded.turn.as_mut().filter(|turn| turn.asks == Some(ask))?;
            turn.asks = None;
            Some(id.clone())
        });
        self.answers.push((ask, value));
        if let Some(thread) = asking {
            self.notify_about(
                server,
                &thread,
                "serverRequest/resolved",
                json!({"threadId": thread, "requestId": ask}),
            );
        }
    }

    pub fn complete(&mut self, thread: &str) {
        let Some(server) = self.runs_in(thread) else { return };
        self.show(thread);
        let Some(loaded) = self.loaded(server, thread) else { return };
        let Some(turn) = loaded.turn.take() else { return };
        let (keeps, leaves) = (!loaded.ephemeral, !loaded.subscribed && loaded.own.is_empty());
        if let Some(ask) = turn.asks {
            let params = json!({"threadId": thread, "requestId": ask});
            self.notify_about(server, thread, "serverRequest/resolved", params);
        }
        self.said.insert(turn.id.clone(), turn.text.clone());
        if keeps {
            let done = DiskTurn { id: turn.id.clone(), status: "completed", text: turn.text.clone() };
            self.disk.entry(thread.to_owned()).or_default().push(done);
        }
        if leaves {
            return self.unload(server, thread);
        }
        let item = json!({"type": "agentMessage", "id": format!("i-{}", turn.id), "text": turn.text});
        let completed = json!({"threadId": thread, "turnId": turn.id, "item": item});
        self.notify_about(server, thread, "item/completed", completed);
        let idle = json!({"threadId": thread, "status": {"type": "idle"}});
        self.notify_about(server, thread, "thread/status/changed", idle);
        let turn = json!({"id": turn.id, "items": [], "status": "completed"});
        self.notify_about(server, thread, "turn/completed", json!({"threadId": thread, "turn": turn}));
        self.begin_by_itself(server, thread);
    }

    /// A command goes on in the background, or ends there.
    pub fn terminal(&mut self, thread: &str) {
        let Some(server) = self.is_in(thread) else { return };
        let runs = self.runs_in(thread).is_some();
        let Some(loaded) = self.loaded(server, thread) else { return };
        match loaded.terminals {
            0 if runs && !loaded.ephemeral => loaded.terminals = 1,
            _ => loaded.terminals = 0,
        }
    }

    pub fn end_terminals(&mut self, thread: &str) {
        for model in self.servers.values_mut() {
            model.threads.get_mut(thread).into_iter().for_each(|loaded| loaded.terminals = 0);
        }
    }

    /// The turn of a thread begins a sub-agent, whose turn runs at once.
    pub fn spawn(&mut self, parent: &str) -> Option<String> {
        let server = self.runs_in(parent)?;
        let (child, turn) = (format!("t{}", self.next_name), format!("turn{}", self.next_name + 1));
        self.next_name += 2;
        let own = self.dedicated_to(server).into_iter().collect();
        let turn = Some(Running { id: turn, shown: false, text: String::new(), asks: None });
        let subscribed = self.is_connected(Connection::Shared(server));
        let ephemeral = self.loaded(server, parent).is_some_and(|parent| parent.ephemeral);
        let loaded = Loaded { subscribed, turn, own, ephemeral, ..Loaded::default() };
        self.servers.get_mut(&server)?.threads.insert(child.clone(), loaded);
        self.parents.insert(child.clone(), parent.to_owned());
        if self.warns {
            // Then this is the first that is heard of it.
            self.notify_about(server, &child, "warning", json!({"threadId": child, "message": "w"}));
        }
        self.show(&child);
        Some(child)
    }

    /// What runs on dedicated connections ends.
    pub fn end_what_runs_there(&mut self) {
        for (connection, value) in std::mem::take(&mut self.running_there) {
            let handle = &value["params"]["processHandle"];
            match value["method"] == "command/exec" {
                true => self.push(connection, json!({"id": value["id"], "result": {"exitCode": 0}})),
                false => {
                    let params = json!({"processHandle": handle, "exitCode": 0});
                    self.push(connection, json!({"method": "process/exited", "params": params}));
                }
            }
        }
    }

    /// The gateway closed a connection.
    pub(super) fn closed(&mut self, connection: Connection) {
        self.forget_connection(connection);
        let left = |client| self.clients.get(&client).is_none_or(|seen| seen.left);
        if let Connection::Dedicated(client, _) = connection
            && !left(client)
            && self.running_there.iter().any(|(running, _)| *running == connection)
        {
            self.cut.push(format!("what runs on {connection:?}"));
        }
        self.running_there.retain(|(running, _)| *running != connection);
    }

    pub(super) fn forget_connection(&mut self, connection: Connection) {
        let server = connection.server();
        let Some(model) = self.servers.get_mut(&server) else { return };
        let mut unused = Vec::new();
        for (thread, loaded) in &mut model.threads {
            if loaded.own.remove(&connection) && loaded.is_unused() {
                unused.push(thread.clone());
            }
        }
        unused.iter().for_each(|thread| self.unload(server, thread));
    }

    /// A shared connection breaks while its server lives: it is subscribed to nothing there any more.
    pub fn break_shared(&mut self, server: ServerId) {
        let connection = Connection::Shared(server);
        if self.is_connected(connection) {
            self.break_connection(connection);
            self.shared_broke(server);
        }
    }

    pub(super) fn shared_broke(&mut self, server: ServerId) {
        self.goals_are_forgotten();
        let Some(model) = self.servers.get_mut(&server) else { return };
        for loaded in model.threads.values_mut() {
            loaded.subscribed = false;
        }
        // What is idle unloads; a turn that does not show yet is cut.
        let shown = |turn: &Running| turn.shown;
        let idle = |loaded: &Loaded| loaded.own.is_empty() && !loaded.turn.as_ref().is_some_and(shown);
        model.threads.retain(|_, loaded| !idle(loaded));
        // With another subscriber it shows as soon as always, although its acceptance is not reported.
        let hidden =
            model.threads.iter().filter(|(_, loaded)| loaded.turn.as_ref().is_some_and(|turn| !turn.shown));
        let at = self.now + SHOWS_WITHIN_MS;
        self.due.extend(hidden.map(|(thread, _)| (at, thread.clone())));
    }

    pub fn drain(&mut self, id: ServerId) {
        if let Some(model) = self.servers.get_mut(&id) {
            model.draining = true;
        }
    }

    pub fn drains(&self, id: ServerId) -> bool {
        self.servers.get(&id).is_some_and(|model| model.draining)
    }

    pub fn has_loaded(&self, server: ServerId, thread: &str) -> bool {
        self.servers.get(&server).is_some_and(|model| model.threads.contains_key(thread))
    }

    /// Whether a server has something that cannot move: a thread that is nowhere on disk, or commands that run.
    pub fn holds_what_stays(&self, server: ServerId) -> bool {
        let threads = self.servers.get(&server).into_iter().flat_map(|model| &model.threads);
        let mut threads = threads.into_iter();
        threads.any(|(thread, loaded)| loaded.terminals > 0 || !self.disk.contains_key(thread))
            || self.running_there.iter().any(|(connection, _)| connection.server() == server)
    }
}
