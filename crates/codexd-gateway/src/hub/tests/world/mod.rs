//! A small world for the hub: app-servers that keep what 0.169.0 keeps and lose what it loses, clients that remember what
//! they were told, and messages that are under way until somebody delivers them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::{Value, json};

use crate::host::PersistedGoals;
use codexd_core::config::SubagentApprovals;

use crate::hub::{ClientId, Connection, Event, Hub, Report, ServerId, Text};

mod bystanders;
mod connections;
mod goals;
mod happens;
mod loads;
mod passing;
mod refusing;
mod run;
mod seen;
mod serve;
mod server;
pub mod settings;

use connections::Phase;
pub use connections::Refuses;
pub use refusing::Obstacle;
use server::Model;
pub use server::{Closing, DiskTurn};

/// What one client saw.
#[derive(Debug, Default)]
pub struct Seen {
    pub texts: Vec<Value>,
    next_id: i64,
    pub open: BTreeMap<i64, (String, Value)>,
    pub left: bool,
    /// Threads that it has ever started, or asked to resume.
    pub joined: BTreeSet<String>,
    /// Threads that it watches.
    pub watching: BTreeSet<String>,
    /// Turns that it saw begin and did not stop watching, with their thread.
    pub through: BTreeMap<String, String>,
    /// It does not want deltas.
    pub without_deltas: bool,
}

pub struct World {
    pub hub: Hub,
    subagent_approvals: SubagentApprovals,
    /// The `initialize` of the next connections of these kinds is refused.
    pub refuses: Vec<Refuses>,
    /// A sub-agent's thread begins with a warning, before its turn.
    pub warns: bool,
    pub trace: bool,
    pub now: u64,
    servers: BTreeMap<ServerId, Model>,
    pub current: Option<ServerId>,
    pub outgoing: Vec<ServerId>,
    next_server: u64,
    pub disk: BTreeMap<String, Vec<DiskTurn>>,
    /// Unmaterialised threads are only in memory.
    next_name: u64,
    /// Under way to the hub, first in first out on each connection.
    up: BTreeMap<Connection, VecDeque<Event>>,
    /// The connections that the hub has asked for and that it does not know to be gone.
    connections: BTreeMap<Connection, Phase>,
    pub clients: BTreeMap<ClientId, Seen>,
    pub reports: Vec<Report>,
    pub retired: Vec<ServerId>,
    /// Turns that were accepted and cut by an unsubscribe.
    pub cut: Vec<String>,
    /// Answers to questions, as the server heard them.
    pub answers: Vec<(u64, Value)>,
    /// Requests that came to a server.
    pub received: Vec<(Connection, Value)>,
    /// The whole text of each turn, as its server said it.
    pub said: BTreeMap<String, String>,
    /// The parents of sub-agents' threads, which are on disk.
    pub parents: BTreeMap<String, String>,
    /// Goals and queues are on disk.
    pub goals: BTreeMap<String, &'static str>,
    pub queues: BTreeMap<String, u32>,
    /// Goals that clients want to go on.
    pub wanted_goals: BTreeSet<String>,
    /// Goals that a turn has ended.
    pub achieved_goals: BTreeSet<String>,
    /// Goals that clients have paused.
    pub paused_goals: BTreeSet<String>,
    /// The layers of the configuration, the highest first.
    pub config_layers: Vec<Value>,
    /// No app-server can load a thread for now.
    pub config_is_broken: bool,
    /// What the gateway wants remembered.
    persisted_goals: PersistedGoals,
    /// Every connection breaks when it is up.
    pub break_often: bool,
    pub connects: usize,
    /// Nothing is written; the number of what is to be.
    pub disk_hangs: bool,
    pub unstored: Option<u64>,
    stored_identity: Option<Text>,
    /// The settings of threads that the gateway has stored.
    pub stored_settings: BTreeMap<String, Text>,
    /// They were lost with the last gateway.
    pub settings_are_lost: bool,
    /// What a thread was loaded with, as the app-server that has it understands it.
    pub loaded_with: BTreeMap<String, settings::Settings>,
    /// An `initialize` under this name is not answered.
    pub unanswered_name: Option<&'static str>,
    /// Requests of this method are not answered.
    pub ignored_method: Option<&'static str>,
    /// So many answers to questions are dropped by the app-server.
    pub drops_answers: u32,
    /// What keeps app-servers from loading threads, until it is removed.
    pub obstacle: Option<Obstacle>,
    /// What becomes of the word of the next unloading.
    pub closing: Closing,
    /// Turns that a server begins by itself show soon.
    due: Vec<(u64, String)>,
    /// Words that come late.
    late: Vec<(u64, ServerId, String)>,
    /// Commands and processes that run on dedicated connections: the connection, the request or the handle.
    pub running_there: Vec<(Connection, Value)>,
    /// Requests that a draining server refused unseen.
    pub(super) refused: Vec<(u64, i64)>,
    /// The last request of each client about each thread that came to a server.
    last: BTreeMap<(u64, String), i64>,
}

impl World {
    /// A world with one app-server that answers.
    pub fn new() -> Self {
        Self::with(SubagentApprovals::default())
    }

    pub fn with(subagent_approvals: SubagentApprovals) -> Self {
        let mut world = Self::bare(subagent_approvals);
        world.begin_server();
        world.settle();
        world
    }

    /// A world without an app-server.
    pub fn bare(subagent_approvals: SubagentApprovals) -> Self {
        Self {
            hub: Hub::new(subagent_approvals),
            subagent_approvals,
            refuses: Vec::new(),
            warns: false,
            trace: std::env::var_os("HUB_TRACE").is_some(),
            now: 1_000,
            servers: BTreeMap::new(),
            current: None,
            outgoing: Vec::new(),
            next_server: 1,
            disk: BTreeMap::new(),
            next_name: 1,
            up: BTreeMap::new(),
            connections: BTreeMap::new(),
            clients: BTreeMap::new(),
            reports: Vec::new(),
            retired: Vec::new(),
            cut: Vec::new(),
            answers: Vec::new(),
            received: Vec::new(),
            said: BTreeMap::new(),
            parents: BTreeMap::new(),
            goals: BTreeMap::new(),
            queues: BTreeMap::new(),
            wanted_goals: BTreeSet::new(),
            achieved_goals: BTreeSet::new(),
            paused_goals: BTreeSet::new(),
            config_layers: Vec::new(),
            config_is_broken: false,
            persisted_goals: PersistedGoals::default(),
            break_often: false,
            connects: 0,
            disk_hangs: false,
            unstored: None,
            stored_identity: None,
            stored_settings: BTreeMap::new(),
            settings_are_lost: false,
            loaded_with: BTreeMap::new(),
            unanswered_name: None,
            ignored_method: None,
            drops_answers: 0,
            obstacle: None,
            closing: Closing::AtOnce,
            due: Vec::new(),
            late: Vec::new(),
            running_there: Vec::new(),
            refused: Vec::new(),
            last: BTreeMap::new(),
        }
    }

    /// A new app-server that takes the place of the current one.
    pub fn begin_server(&mut self) -> ServerId {
        let id = ServerId(self.next_server);
        self.next_server += 1;
        self.servers.insert(id, Model { lives: true, ..Model::default() });
        self.current = Some(id);
        self.report_servers();
        id
    }

    /// Live replacement: the current one is to leave.
    pub fn replace(&mut self) -> ServerId {
        self.outgoing.extend(self.current);
        self.begin_server()
    }

    pub fn report_servers(&mut self) {
        let (current, outgoing) = (self.current, self.outgoing.clone());
        self.feed(Event::Servers { current, outgoing });
    }

    /// The host says that a dead one is gone.
    pub fn report_gone(&mut self, id: ServerId) {
        self.outgoing.retain(|other| *other != id);
        if self.current == Some(id) {
            self.current = None;
        }
        self.report_servers();
    }

    /// A client connects.
    pub fn come(&mut self, id: ClientId) {
        self.clients.insert(id, Seen::default());
        self.feed(Event::ClientConnected(id));
    }

    pub fn client(&mut self, id: u64, capabilities: Value) -> ClientId {
        let id = ClientId(id);
        let without_deltas = capabilities.get("optOutNotificationMethods").is_some();
        self.clients.insert(id, Seen { without_deltas, ..Seen::default() });
        self.feed(Event::ClientConnected(id));
        let info = json!({"name": "client", "version": "1"});
        self.ask(id, "initialize", json!({"clientInfo": info, "capabilities": capabilities}));
        id
    }

    pub fn leave(&mut self, id: ClientId) {
        if let Some(seen) = self.clients.get_mut(&id) {
            seen.left = true;
            seen.open.clear();
        }
        self.feed(Event::ClientDisconnected(id));
    }

    /// Sends a request; gives its id.
    pub fn ask(&mut self, id: ClientId, method: &str, mut params: Value) -> i64 {
        let Some(seen) = self.clients.get_mut(&id) else { return 0 };
        seen.next_id += 1;
        let number = seen.next_id;
        params["from"] = json!([id.0, number]);
        if method == "thread/unsubscribe" {
            let thread = params["threadId"].as_str().unwrap_or_default();
            seen.watching.remove(thread);
            seen.through.retain(|_, of| of != thread);
        }
        if method == "thread/resume" {
            seen.joined.insert(params["threadId"].as_str().unwrap_or_default().to_owned());
        }
        if method == "thread/goal/set" && params["status"] == "paused" {
            // Whether that arrives or not, the goal need not continue.
            self.wanted_goals.remove(params["threadId"].as_str().unwrap_or_default());
        }
        seen.open.insert(number, (method.to_owned(), params.clone()));
        let text = json!({"id": number, "method": method, "params": params}).to_string();
        self.feed(Event::ClientMessage(id, text.into()));
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
}
