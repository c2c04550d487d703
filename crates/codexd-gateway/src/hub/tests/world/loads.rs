//! In which order the gateway loads threads.

use serde_json::Value;

use super::World;
use crate::hub::threads::state::ThreadState;
use crate::hub::threads::thread::Thread;
use crate::hub::{Connection, Event, Text};
use crate::limits::{BACKGROUND_LOADS_MAX, DEMANDED_LOADS_MAX};

impl World {
    /// A load that no client waits for is one of a few, and none of those that clients wait for stands back for it.
    pub(super) fn check_load(&self, connection: Connection, text: &Text) {
        let value: Value = serde_json::from_str(text).expect("JSON");
        let is_own = value["params"].get("from").is_none();
        let id = value["params"]["threadId"].as_str().unwrap_or_default();
        let Some(thread) = self.hub.threads.get(id).filter(|_| is_own && value["method"] == "thread/resume")
        else {
            return;
        };
        if !thread.is_recovering() || thread.demand.is_some() {
            return;
        }
        let count = |which: &dyn Fn(&Thread) -> bool| {
            self.hub.threads.values().filter(|thread| which(thread)).count()
        };
        let background = count(&|thread| thread.is_recovering() && thread.demand.is_none());
        assert!(background <= BACKGROUND_LOADS_MAX, "{background} loads in the background");
        let demanded = count(&|thread| thread.is_recovering() && thread.demand.is_some());
        // An outgoing app-server is not asked again for what it has refused: the successor is, once it answers.
        let is_outgoing = self.hub.servers.get(&connection.server()).is_some_and(|server| server.is_outgoing);
        let standing_back = count(&|thread| {
            thread.state == ThreadState::Orphaned
                && thread.demand.is_some()
                && thread.retry_at <= self.hub.now
                && thread.server == connection.server()
                && !(is_outgoing && thread.is_refused())
        });
        assert!(
            standing_back == 0 || demanded >= DEMANDED_LOADS_MAX,
            "{standing_back} that clients wait for stand back for {id}"
        );
    }

    /// The threads that the gateway loads by itself and that are not loaded yet, in the order in which they were sent.
    pub fn loads_sent(&self) -> Vec<String> {
        let of_gateway =
            |value: &&Value| value["method"] == "thread/resume" && value["params"].get("from").is_none();
        let received = self.received.iter().map(|(_, value)| value).filter(of_gateway);
        received.filter_map(|value| value["params"]["threadId"].as_str().map(str::to_owned)).collect()
    }

    /// Threads that the gateway loads at this moment.
    pub fn loads_in_flight(&self) -> usize {
        self.hub.threads.values().filter(|thread| thread.is_recovering()).count()
    }

    /// Lets time pass in which nothing else happens.
    pub fn pass(&mut self, ms: u64) {
        self.now += ms;
        self.feed(Event::DeadlineReached);
    }
}
