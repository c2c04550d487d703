//! What clients saw.

use serde_json::Value;

use super::World;
use crate::hub::ClientId;

impl World {
    pub fn notes(&self, id: ClientId, method: &str) -> Vec<&Value> {
        self.clients[&id].texts.iter().filter(|text| text["method"] == *method).collect()
    }

    /// Whether any client ever heard of a thread.
    pub fn was_told_of(&self, thread: &str) -> bool {
        let names =
            |text: &Value| text["params"]["threadId"] == *thread || text["result"]["thread"]["id"] == *thread;
        self.clients.values().any(|seen| seen.texts.iter().any(names))
    }

    /// All text of an answer that a client saw.
    pub fn text(&self, id: ClientId, turn: &str) -> String {
        let of = |note: &&&Value| note["params"]["turnId"] == *turn;
        let deltas = self.notes(id, "item/agentMessage/delta");
        let seen: String =
            deltas.iter().filter(of).filter_map(|note| note["params"]["delta"].as_str()).collect();
        if !seen.is_empty() {
            return seen;
        }
        // An item whose beginning was lost is told whole.
        let whole = self.notes(id, "item/completed");
        whole.iter().filter(of).filter_map(|note| note["params"]["item"]["text"].as_str()).collect()
    }
}

impl World {
    /// A client is told something.
    pub(super) fn seen(&mut self, client: ClientId, value: Value) {
        self.assert_no_bystander_is_asked(client, &value);
        let Some(seen) = self.clients.get_mut(&client) else { return };
        let params = &value["params"];
        let thread = params["threadId"].as_str().unwrap_or_default().to_owned();
        match value["method"].as_str() {
            Some("turn/started") if seen.watching.contains(&thread) => {
                let turn = params["turn"]["id"].as_str().unwrap_or_default();
                seen.through.insert(turn.to_owned(), thread);
            }
            Some("thread/closed") => {
                let lasts = self.disk.contains_key(&thread);
                assert!(!seen.watching.remove(&thread) || !lasts, "{client:?} hears that {thread} is closed");
            }
            _ => {}
        }
        seen.texts.push(value);
    }
}
