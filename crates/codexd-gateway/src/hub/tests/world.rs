//! A small world for the hub: app-servers that keep what 0.169.0 keeps and lose what it loses, clients that remember what
//! they were told, and messages that are under way until somebody delivers them.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Value, json};

use crate::hub::{Action, ClientId, Event, Hub, Link, Report, ServerId, Text};

/// A turn on disk.
#[derive(Clone, Debug)]
pub struct DiskTurn {
    pub id: String,
    pub status: &'static str,
    pub text: String,
}

/// A turn in a server.
#[derive(Clone, Debug)]
struct Running {
    id: String,
    /// It was accepted; the thread does not say so yet. An unsubscribe in this window cuts it.
    shown: bool,
    text: String,
    asks: Option<u64>,
}

/// A loaded thread.
#[derive(Clone, Debug, Default)]
struct Loaded {
    subscribed: bool,
    turn: Option<Running>,
    /// It unloads when the turn ends, unheard.
    leaves: bool,
}

#[derive(Debug, Default)]
struct Model {
    lives: bool,
    draining: bool,
    threads: BTreeMap<String, Loaded>,
    next_ask: u64,
}

/// What one client saw.
#[derive(Debug, Default)]
pub struct Seen {
    pub texts: Vec<Value>,
    next_id: i64,
    pub open: BTreeMap<i64, String>,
    pub left: bool,
}

pub struct World {
    pub hub: Hub,
    pub trace: bool,
    pub now: u64,
    servers: BTreeMap<ServerId, Model>,
    pub current: Option<ServerId>,
    pub outgoing: Vec<ServerId>,
    next_server: u64,
    pub disk: BTreeMap<String, Vec<DiskTurn>>,
    /// Unmaterialised threads are only in memory.
    next_name: u64,
    /// Under way to the hub, first in first out on each link.
    up: BTreeMap<Link, VecDeque<Event>>,
    pub clients: BTreeMap<ClientId, Seen>,
    pub reports: Vec<Report>,
    pub retired: Vec<ServerId>,
    /// Turns that were accepted and cut by an unsubscribe.
    pub cut: Vec<String>,
    /// Answers to questions, as the server heard them.
    pub answers: Vec<(u64, Value)>,
    /// Requests that came to a server.
    pub heard: Vec<(Link, Value)>,
}

impl World {
    /// A world with one app-server that answers.
    pub fn new() -> Self {
        let mut world = Self {
            hub: Hub::new(),
            trace: false,
            now: 1_000,
            servers: BTreeMap::new(),
            current: None,
            outgoing: Vec::new(),
            next_server: 1,
            disk: BTreeMap::new(),
            next_name: 1,
            up: BTreeMap::new(),
            clients: BTreeMap::new(),
            reports: Vec::new(),
            retired: Vec::new(),
            cut: Vec::new(),
            answers: Vec::new(),
            heard: Vec::new(),
        };
        world.begin_server();
        world.settle();
        world
    }

    /// A new app-server that takes the place of the current one.
    pub fn begin_server(&mut self) -> ServerId {
        let id = ServerId(self.next_server);
        self.next_server += 1;
        self.servers.insert(id, Model { lives: true, ..Model::default() });
        self.current = Some(id);
        self.tell_servers();
        id
    }

    /// Live replacement: the current one is to leave.
    pub fn replace(&mut self) -> ServerId {
        self.outgoing.extend(self.current);
        self.begin_server()
    }

    fn tell_servers(&mut self) {
        let (current, outgoing) = (self.current, self.outgoing.clone());
        self.feed(Event::Servers { current, outgoing });
    }

    /// An app-server dies. `graceful`: its turns are whole on disk, unheard.
    pub fn kill(&mut self, id: ServerId, graceful: bool) {
        let Some(model) = self.servers.get_mut(&id) else { return };
        model.lives = false;
        let threads = std::mem::take(&mut model.threads);
        for (thread, loaded) in threads {
            if let Some(turn) = loaded.turn.filter(|turn| turn.shown) {
                let status = if graceful { "completed" } else { "interrupted" };
                let text = if graceful { format!("{}-end", turn.text) } else { String::new() };
                self.disk.entry(thread).or_default().push(DiskTurn { id: turn.id, status, text });
            }
        }
        let links: Vec<Link> = self.up.keys().copied().filter(|link| link.server() == id).collect();
        for link in links {
            self.up.insert(link, VecDeque::from([Event::LinkLost(link)]));
        }
    }

    /// The host says that a dead one is gone.
    pub fn bury(&mut self, id: ServerId) {
        self.outgoing.retain(|other| *other != id);
        if self.current == Some(id) {
            self.current = None;
        }
        self.tell_servers();
    }

    pub fn client(&mut self, id: u64, capabilities: Value) -> ClientId {
        let id = ClientId(id);
        self.clients.insert(id, Seen::default());
        self.feed(Event::ClientCame(id));
        let info = json!({"name": "client", "version": "1"});
        self.ask(id, "initialize", json!({"clientInfo": info, "capabilities": capabilities}));
        id
    }

    pub fn leave(&mut self, id: ClientId) {
        if let Some(seen) = self.clients.get_mut(&id) {
            seen.left = true;
            seen.open.clear();
        }
        self.feed(Event::ClientLeft(id));
    }

    /// Sends a request; gives its id.
    pub fn ask(&mut self, id: ClientId, method: &str, params: Value) -> i64 {
        let Some(seen) = self.clients.get_mut(&id) else { return 0 };
        seen.next_id += 1;
        let number = seen.next_id;
        seen.open.insert(number, method.to_owned());
        let text = json!({"id": number, "method": method, "params": params}).to_string();
        self.feed(Event::ClientSaid(id, text.into()));
        number
    }

    /// The answer to a request, after everything was delivered.
    pub fn call(&mut self, id: ClientId, method: &str, params: Value) -> Value {
        let number = self.ask(id, method, params);
        self.settle();
        self.answer(id, number).unwrap_or_else(|| panic!("{method} was not answered"))
    }

    pub fn answer(&self, id: ClientId, number: i64) -> Option<Value> {
        let texts = &self.clients[&id].texts;
        texts.iter().find(|text| text["id"] == number && text.get("method").is_none()).cloned()
    }

    /// A new thread of a client.
    pub fn thread(&mut self, id: ClientId) -> String {
        let answer = self.call(id, "thread/start", json!({}));
        answer["result"]["thread"]["id"].as_str().expect("an id").to_owned()
    }

    /// A turn that runs and has said `text`.
    pub fn turn(&mut self, id: ClientId, thread: &str, text: &str) -> String {
        let answer = self.call(id, "turn/start", json!({"threadId": thread, "input": []}));
        let turn = answer["result"]["turn"]["id"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
        self.show(thread);
        self.delta(thread, text);
        self.settle();
        turn
    }

    pub fn notes(&self, id: ClientId, method: &str) -> Vec<&Value> {
        self.clients[&id].texts.iter().filter(|text| text["method"] == *method).collect()
    }

    /// All text of an answer that a client saw.
    pub fn text(&self, id: ClientId, turn: &str) -> String {
        let of = |note: &&&Value| note["params"]["turnId"] == *turn;
        let deltas = self.notes(id, "item/agentMessage/delta");
        deltas.iter().filter(of).filter_map(|note| note["params"]["delta"].as_str()).collect()
    }

    /// Delivers everything, and lets time pass for what is due within `ms`.
    pub fn settle(&mut self) {
        self.settle_for(0);
    }

    pub fn settle_for(&mut self, ms: u64) {
        let end = self.now + ms;
        loop {
            while let Some(link) = self.up.iter().find(|(_, queue)| !queue.is_empty()).map(|(link, _)| *link)
            {
                self.deliver(link);
            }
            match self.hub.deadline() {
                Some(due) if due.0 <= end => {
                    self.now = self.now.max(due.0);
                    self.feed(Event::TimeCame);
                }
                _ => break,
            }
        }
        self.now = end;
    }

    /// Links with something under way.
    pub fn busy_links(&self) -> Vec<Link> {
        self.up.iter().filter(|(_, queue)| !queue.is_empty()).map(|(link, _)| *link).collect()
    }

    pub fn deliver(&mut self, link: Link) {
        if let Some(event) = self.up.get_mut(&link).and_then(VecDeque::pop_front) {
            if matches!(event, Event::LinkLost(_)) {
                self.up.remove(&link);
            }
            self.feed(event);
        }
    }

    pub fn feed(&mut self, event: Event) {
        let mut out = Vec::new();
        if self.trace {
            println!("{} {event:?}", self.now);
        }
        self.hub.step(event, codexd_core::clock::Monotonic(self.now), &mut out);
        for action in out {
            if self.trace {
                println!("      {action:?}");
            }
            self.perform(action);
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Tell(client, text) => {
                let value: Value = serde_json::from_str(&text).expect("JSON");
                if let Some(seen) = self.clients.get_mut(&client) {
                    assert!(!seen.left, "a client that left is told {value}");
                    if let (Some(id), None) = (value["id"].as_i64(), value.get("method")) {
                        let open = seen.open.remove(&id);
                        assert!(open.is_some(), "a second answer: {value}");
                    }
                    seen.texts.push(value);
                }
            }
            Action::Greet(server) => {
                if self.servers.get(&server).is_some_and(|model| model.lives) {
                    let agent = json!({"userAgent": "client/0.169.0 (x) y (codex_app_server_daemon; 0)"});
                    let event = Event::Greeted(server, agent.to_string().into());
                    self.up.entry(Link::Shared(server)).or_default().push_back(event);
                }
            }
            Action::Connect(link, _) => {
                let lives = self.servers.get(&link.server()).is_some_and(|model| model.lives);
                let agent = json!({"userAgent": "client/0.169.0 (x) y (client; 1)"}).to_string();
                let event = if lives { Event::LinkUp(link, agent.into()) } else { Event::LinkLost(link) };
                self.up.entry(link).or_default().push_back(event);
            }
            Action::Say(link, text) => self.hear(link, &text),
            Action::Close(link) => {
                self.up.remove(&link);
            }
            Action::LookFor { thread, .. } => {
                let exists = self.disk.contains_key(&thread);
                self.feed(Event::Looked { thread, exists });
            }
            Action::Retire(server) => {
                let model = self.servers.get(&server);
                assert!(
                    model.is_none_or(|model| model.threads.values().all(|loaded| loaded.turn.is_none())),
                    "retired with a turn"
                );
                self.retired.push(server);
            }
            Action::Report(report) => self.reports.push(report),
            Action::Cut(..) => {}
        }
    }

    fn push(&mut self, link: Link, value: Value) {
        let lives = self.servers.get(&link.server()).is_some_and(|model| model.lives);
        if lives {
            let event = Event::LinkSaid(link, Text::from(value.to_string()));
            self.up.entry(link).or_default().push_back(event);
        }
    }

    fn note(&mut self, server: ServerId, method: &str, params: Value) {
        self.push(Link::Shared(server), json!({"method": method, "params": params, "emittedAtMs": self.now}));
    }

    fn hear(&mut self, link: Link, text: &Text) {
        let value: Value = serde_json::from_str(text).expect("JSON");
        self.heard.push((link, value.clone()));
        let server = link.server();
        if value.get("method").is_none() {
            if let Some(ask) = value["id"].as_u64() {
                self.asked_and_answered(server, ask, value);
            }
            return;
        }
        let (method, params) = (value["method"].as_str().unwrap_or_default(), &value["params"]);
        let outcome = self.serve(link, method, params);
        let mut reply = json!({"id": value["id"]});
        match outcome {
            Ok(result) => reply["result"] = result,
            Err((message, data)) => {
                reply["error"] = json!({"code": -32600, "message": message, "data": data});
            }
        }
        self.push(link, reply);
        if let Link::Shared(server) = link {
            self.after_answer(server, method, params);
        }
    }

    /// What is told behind an answer.
    fn after_answer(&mut self, server: ServerId, method: &str, params: &Value) {
        let Some(thread) = params["threadId"].as_str().map(str::to_owned) else { return };
        let loaded = self.servers.get(&server).and_then(|model| model.threads.get(&thread)).cloned();
        match (method, loaded) {
            ("thread/unsubscribe", Some(loaded)) if !loaded.subscribed => match loaded.turn {
                Some(turn) if turn.shown => {
                    self.cut.push(turn.id);
                    if let Some(loaded) = self.loaded(server, &thread) {
                        loaded.leaves = true;
                    }
                }
                Some(turn) => {
                    self.cut.push(turn.id);
                    self.unload(server, &thread);
                }
                None => self.unload(server, &thread),
            },
            ("thread/resume", Some(_)) => {
                let status = self.thread_json(server, &thread)["status"].clone();
                self.note(server, "thread/status/changed", json!({"threadId": thread, "status": status}));
                self.note(server, "thread/goal/cleared", json!({"threadId": thread}));
            }
            _ => {}
        }
    }

    fn unload(&mut self, server: ServerId, thread: &str) {
        if let Some(model) = self.servers.get_mut(&server) {
            model.threads.remove(thread);
        }
        let status = json!({"threadId": thread, "status": {"type": "notLoaded"}});
        self.note(server, "thread/status/changed", status);
        self.note(server, "thread/closed", json!({"threadId": thread}));
    }

    fn loaded(&mut self, server: ServerId, thread: &str) -> Option<&mut Loaded> {
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
        json!({"id": thread, "status": status, "path": format!("/rollouts/{thread}"), "ephemeral": false})
    }

    fn serve(&mut self, link: Link, method: &str, params: &Value) -> Result<Value, (String, Value)> {
        let server = link.server();
        let refused = |message: &str| Err((message.to_owned(), Value::Null));
        let thread = params["threadId"].as_str().unwrap_or_default().to_owned();
        let model = self.servers.get(&server).expect("a server");
        let starts = matches!(method, "thread/start" | "turn/start" | "thread/fork" | "thread/resume");
        if model.draining && starts {
            return Err(("Server is draining".into(), json!({"reason": "serverShuttingDown"})));
        }
        match method {
            "thread/loaded/list" => {
                Ok(json!({"data": model.threads.keys().collect::<Vec<_>>(), "nextCursor": null}))
            }
            "thread/start" => {
                let id = format!("t{}", self.next_name);
                self.next_name += 1;
                let loaded = Loaded { subscribed: true, ..Loaded::default() };
                self.servers.get_mut(&server).expect("a server").threads.insert(id.clone(), loaded);
                Ok(json!({"thread": self.thread_json(server, &id)}))
            }
            "thread/resume" => {
                let elsewhere = |(id, model): (&ServerId, &Model)| {
                    *id != server && model.lives && model.threads.contains_key(&thread)
                };
                let is_here = model.threads.contains_key(&thread);
                if self.servers.iter().any(elsewhere) {
                    return refused("thread already has an active writer");
                }
                if !is_here && !self.disk.contains_key(&thread) {
                    return refused("no rollout found for thread id");
                }
                let model = self.servers.get_mut(&server).expect("a server");
                model.threads.entry(thread.clone()).or_default().subscribed = true;
                Ok(json!({"thread": self.thread_json(server, &thread)}))
            }
            "thread/unsubscribe" => match self.loaded(server, &thread) {
                Some(loaded) if loaded.subscribed => {
                    loaded.subscribed = false;
                    Ok(json!({"status": "unsubscribed"}))
                }
                Some(_) => Ok(json!({"status": "notSubscribed"})),
                None => Ok(json!({"status": "notLoaded"})),
            },
            "turn/start" => {
                let id = format!("turn{}", self.next_name);
                self.next_name += 1;
                let Some(loaded) = self.loaded(server, &thread) else { return refused("thread not found") };
                let turn =
                    loaded.turn.get_or_insert(Running { id, shown: false, text: String::new(), asks: None });
                let id = turn.id.clone();
                Ok(json!({"turn": {"id": id, "items": [], "status": "inProgress"}}))
            }
            "thread/turns/list" => {
                let turns = self.disk.get(&thread).into_iter().flatten().rev();
                let data = turns.map(|turn| {
                    let item =
                        json!({"type": "agentMessage", "id": format!("d-{}", turn.id), "text": turn.text});
                    json!({"id": turn.id, "status": turn.status, "items": [item], "itemsView": "full"})
                });
                Ok(json!({"data": data.collect::<Vec<_>>(), "nextCursor": null}))
            }
            "thread/goal/get" => Ok(json!({"goal": null})),
            "thread/queue/list" | "thread/backgroundTerminals/list" => {
                Ok(json!({"data": [], "nextCursor": null}))
            }
            "thread/read" => Ok(json!({"thread": self.thread_json(server, &thread)})),
            _ => Ok(json!({"echo": method, "params": params})),
        }
    }

    /// The servers that have a thread with a turn.
    fn runs_in(&self, thread: &str) -> Option<ServerId> {
        let has = |model: &Model| model.threads.get(thread).is_some_and(|loaded| loaded.turn.is_some());
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
        let Some(turn) = self.loaded(server, thread).and_then(|loaded| loaded.turn.as_mut()) else { return };
        if std::mem::replace(&mut turn.shown, true) {
            return;
        }
        let id = turn.id.clone();
        self.disk.entry(thread.to_owned()).or_default();
        let status = json!({"threadId": thread, "status": {"type": "active", "activeFlags": []}});
        self.note(server, "thread/status/changed", status);
        let turn = json!({"id": id, "items": [], "status": "inProgress"});
        self.note(server, "turn/started", json!({"threadId": thread, "turn": turn}));
        let item = json!({"type": "agentMessage", "id": format!("i-{id}"), "text": ""});
        self.note(server, "item/started", json!({"threadId": thread, "turnId": id, "item": item}));
    }

    pub fn delta(&mut self, thread: &str, text: &str) {
        let Some(server) = self.runs_in(thread) else { return };
        let Some(turn) = self.loaded(server, thread).and_then(|loaded| loaded.turn.as_mut()) else { return };
        if !turn.shown {
            return;
        }
        turn.text.push_str(text);
        let id = turn.id.clone();
        let params = json!({"threadId": thread, "turnId": id, "itemId": format!("i-{id}"), "delta": text});
        self.note(server, "item/agentMessage/delta", params);
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
        let params = json!({"kind": "command", "threadId": thread});
        let method = "item/commandExecution/requestApproval";
        self.push(Link::Shared(server), json!({"method": method, "id": number, "params": params}));
    }

    fn asked_and_answered(&mut self, server: ServerId, ask: u64, value: Value) {
        self.answers.push((ask, value));
        let Some(model) = self.servers.get_mut(&server) else { return };
        let asking = model.threads.iter_mut().find_map(|(id, loaded)| {
            let turn = loaded.turn.as_mut().filter(|turn| turn.asks == Some(ask))?;
            turn.asks = None;
            Some(id.clone())
        });
        if let Some(thread) = asking {
            self.note(server, "serverRequest/resolved", json!({"threadId": thread, "requestId": ask}));
        }
    }

    pub fn complete(&mut self, thread: &str) {
        let Some(server) = self.runs_in(thread) else { return };
        self.show(thread);
        let Some(loaded) = self.loaded(server, thread) else { return };
        let Some(turn) = loaded.turn.take() else { return };
        let leaves = std::mem::take(&mut loaded.leaves);
        if let Some(ask) = turn.asks {
            self.note(server, "serverRequest/resolved", json!({"threadId": thread, "requestId": ask}));
        }
        let done = DiskTurn { id: turn.id.clone(), status: "completed", text: turn.text.clone() };
        self.disk.entry(thread.to_owned()).or_default().push(done);
        if leaves {
            return self.unload(server, thread);
        }
        let item = json!({"type": "agentMessage", "id": format!("i-{}", turn.id), "text": turn.text});
        let completed = json!({"threadId": thread, "turnId": turn.id, "item": item});
        self.note(server, "item/completed", completed);
        self.note(server, "thread/status/changed", json!({"threadId": thread, "status": {"type": "idle"}}));
        let turn = json!({"id": turn.id, "items": [], "status": "completed"});
        self.note(server, "turn/completed", json!({"threadId": thread, "turn": turn}));
    }

    pub fn drain(&mut self, id: ServerId) {
        if let Some(model) = self.servers.get_mut(&id) {
            model.draining = true;
        }
    }

    pub fn has_loaded(&self, server: ServerId, thread: &str) -> bool {
        self.servers.get(&server).is_some_and(|model| model.threads.contains_key(thread))
    }

    /// Whether a server has a thread that is nowhere on disk.
    pub fn holds_unwritten(&self, server: ServerId) -> bool {
        let threads = self.servers.get(&server).into_iter().flat_map(|model| model.threads.keys());
        threads.into_iter().any(|thread| !self.disk.contains_key(thread))
    }
}
