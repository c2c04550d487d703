//! The settings of threads that the supervisor stores in its memory. A gateway gets them from the first supervisor that it
//! connects to, and sends them to each later one.

use std::collections::BTreeMap;

use codexd_gateway::host::ThreadSettings;
use codexd_host::service::supervisor::{Generation, Order};

/// The stage of the connection to the supervisor.
#[derive(Debug, Default, Eq, PartialEq)]
enum Stage {
    /// The supervisor has not reported yet whether it stores settings.
    #[default]
    Unheard,
    /// The supervisor sends what it has stored.
    Sends,
    /// The supervisor has the settings of this gateway.
    Stores,
    /// An older supervisor, which does not know the orders.
    DoesNotStore,
}

/// The settings of all threads.
#[derive(Default)]
pub struct StoredThreadSettings {
    threads: BTreeMap<String, String>,
    stage: Stage,
    /// This gateway has all settings that its predecessor stored and that are not lost.
    is_complete: bool,
    /// The last list of app-servers that arrived while the supervisor was sending settings: the gateway gets the settings
    /// first.
    pub generations: Option<Vec<Generation>>,
}

impl std::fmt::Debug for StoredThreadSettings {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("StoredThreadSettings").field("stage", &self.stage).finish_non_exhaustive()
    }
}

impl StoredThreadSettings {
    /// A new connection to a supervisor begins.
    pub fn conversation_begins(&mut self) {
        self.stage = Stage::Unheard;
        self.generations = None;
    }

    /// Whether this gateway has all settings that its predecessor stored and that are not lost.
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Whether other reports have to wait until the supervisor has sent the settings.
    pub fn is_being_sent(&self) -> bool {
        self.stage == Stage::Sends
    }

    /// The supervisor reported whether it stores settings. Returns the orders to send, for the first such report.
    pub fn supervisor_spoke(&mut self, stores: bool) -> Vec<Order> {
        if self.stage != Stage::Unheard {
            return Vec::new();
        }
        self.stage = match (stores, self.is_complete) {
            (false, _) => Stage::DoesNotStore,
            (true, false) => Stage::Sends,
            (true, true) => Stage::Stores,
        };
        match self.stage {
            Stage::Sends => vec![Order::SendThreadSettings { after: None }],
            Stage::Stores => {
                let all = self.threads.clone().into_iter();
                all.map(|(thread, settings)| Order::StoreThreadSettings { thread, settings: Some(settings) })
                    .collect()
            }
            Stage::Unheard | Stage::DoesNotStore => {
                self.is_complete = true;
                Vec::new()
            }
        }
    }

    /// The supervisor sent some settings. Returns the order for the next ones, `None` after the last.
    pub fn sent(&mut self, threads: Vec<(String, String)>, is_last: bool) -> Option<Order> {
        let after = threads.last().map(|(thread, _)| thread.clone());
        self.threads.extend(threads);
        if !is_last && after.is_some() {
            return Some(Order::SendThreadSettings { after });
        }
        self.stage = Stage::Stores;
        self.is_complete = true;
        None
    }

    /// All settings, for the gateway.
    pub fn all(&self) -> Vec<ThreadSettings> {
        let all = self.threads.iter();
        all.map(|(thread, settings)| ThreadSettings {
            thread: thread.clone(),
            settings: Some(settings.clone()),
        })
        .collect()
    }

    /// The gateway stores settings. Returns the order for the supervisor, if it accepts one now.
    pub fn store(&mut self, ThreadSettings { thread, settings }: ThreadSettings) -> Option<Order> {
        match &settings {
            Some(settings) => self.threads.insert(thread.clone(), settings.clone()),
            None => self.threads.remove(&thread),
        };
        (self.stage == Stage::Stores).then_some(Order::StoreThreadSettings { thread, settings })
    }
}

#[cfg(test)]
mod tests {
    use super::StoredThreadSettings;
    use codexd_gateway::host::ThreadSettings;
    use codexd_host::service::supervisor::Order;

    fn settings(thread: &str, settings: &str) -> ThreadSettings {
        ThreadSettings { thread: thread.into(), settings: Some(settings.into()) }
    }

    #[test]
    fn first_supervisor_sends_and_later_supervisors_are_given() {
        let mut stored = StoredThreadSettings::default();
        stored.conversation_begins();
        let orders = stored.supervisor_spoke(true);
        assert!(matches!(orders[..], [Order::SendThreadSettings { after: None }]) && stored.is_being_sent());
        let next = stored.sent(vec![("a".into(), "1".into())], false);
        assert!(matches!(next, Some(Order::SendThreadSettings { after: Some(after) }) if after == "a"));
        assert!(stored.sent(vec![("b".into(), "2".into())], true).is_none());
        assert_eq!(stored.all(), [settings("a", "1"), settings("b", "2")]);
        assert!(stored.store(settings("c", "3")).is_some());
        assert!(stored.supervisor_spoke(true).is_empty());

        stored.conversation_begins();
        assert!(stored.store(settings("d", "4")).is_none(), "no supervisor is connected");
        assert_eq!(stored.supervisor_spoke(true).len(), 4);
    }

    #[test]
    fn older_supervisor_hears_no_order_that_it_does_not_know() {
        let mut stored = StoredThreadSettings::default();
        stored.conversation_begins();
        assert!(stored.supervisor_spoke(false).is_empty() && !stored.is_being_sent());
        assert!(stored.store(settings("a", "1")).is_none());
        stored.conversation_begins();
        assert_eq!(stored.supervisor_spoke(true).len(), 1, "a newer one gets what the gateway has");
    }
}
