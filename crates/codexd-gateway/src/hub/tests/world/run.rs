//! Runs the world: delivers what is under way, lets time pass, and performs the actions of the hub.

use std::collections::VecDeque;

use serde_json::Value;

use super::World;
use crate::hub::{Action, Connection, Event};

impl World {
    /// Delivers everything, and lets time pass for what is due within `ms`.
    pub fn settle(&mut self) {
        self.settle_for(0);
    }

    pub fn settle_for(&mut self, ms: u64) {
        let end = self.now + ms;
        loop {
            while let Some(connection) =
                self.up.iter().find(|(_, queue)| !queue.is_empty()).map(|(connection, _)| *connection)
            {
                self.deliver(connection);
            }
            match self.hub.deadline() {
                due if due.map(|due| due.0).into_iter().chain(self.next_due()).any(|due| due <= end) => {
                    let due = due.map(|due| due.0).into_iter().chain(self.next_due()).min();
                    self.now = self.now.max(due.unwrap_or_default());
                    self.feed(Event::DeadlineReached);
                }
                _ => break,
            }
        }
        self.now = end;
    }

    /// Links with something under way.
    pub fn busy_connections(&self) -> Vec<Connection> {
        self.up.iter().filter(|(_, queue)| !queue.is_empty()).map(|(connection, _)| *connection).collect()
    }

    pub fn deliver(&mut self, connection: Connection) {
        if let Some(event) = self.up.get_mut(&connection).and_then(VecDeque::pop_front) {
            self.connection_changes(&event);
            self.feed(event);
        }
    }

    pub fn feed(&mut self, event: Event) {
        self.time_passed();
        let mut out = Vec::new();
        if self.trace {
            println!("{} {event:?}", self.now);
        }
        self.hub.set_unix_time(1_800_000_000_000 + self.now);
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
            Action::SendToClient(client, text) => {
                let value: Value = serde_json::from_str(&text).expect("JSON");
                if let Some(seen) = self.clients.get_mut(&client) {
                    assert!(!seen.left, "a client that left is told {value}");
                    if let (Some(id), None) = (value["id"].as_i64(), value.get("method")) {
                        let open = seen.open.remove(&id);
                        let Some((method, asked)) = open else { panic!("a second answer: {value}") };
                        if method == "thread/unsubscribe" {
                            // A join that was asked for before it is answered by now.
                            let thread = asked["threadId"].as_str().unwrap_or_default();
                            seen.watching.remove(thread);
                            seen.through.retain(|_, of| of != thread);
                        }
                        let thread = value["result"]["thread"]["id"].as_str();
                        if let (Some(thread), "thread/start" | "thread/resume") = (thread, &*method) {
                            seen.watching.insert(thread.to_owned());
                            seen.joined.insert(thread.to_owned());
                        }
                    }
                }
                self.seen(client, value);
            }
            Action::Admit(_) => {}
            Action::Probe(server) => self.probe_answered(server),
            Action::Connect(connection, initialize) => self.connect(connection, &initialize),
            Action::SendUpstream(connection, text) => {
                self.check_load(connection, &text);
                self.on_sent(connection, &text);
            }
            Action::Close(connection) => self.close(connection),
            Action::CheckRollout { thread, .. } => {
                let exists = self.disk.contains_key(&thread);
                self.feed(Event::RolloutChecked { thread, exists });
            }
            Action::Retire(server) => self.retire(server),
            Action::PersistGoals { number, .. } if self.disk_hangs => self.unstored = Some(number),
            Action::PersistGoals { number, goals } => {
                self.persisted_goals = goals;
                self.feed(Event::GoalsPersisted(number));
            }
            Action::PersistClientIdentity(identity) => self.stored_identity = Some(identity),
            Action::StoreThreadSettings { thread, settings: Some(settings) } => {
                self.stored_settings.insert(thread, settings);
            }
            Action::StoreThreadSettings { thread, settings: None } => {
                self.stored_settings.remove(&thread);
            }
            Action::Report(report) => self.reports.push(report),
        }
    }
}
