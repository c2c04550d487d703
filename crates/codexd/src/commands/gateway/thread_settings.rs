//! The settings of threads that the supervisor stores in its memory. A gateway gets them from the first supervisor that it talks to,
//! and gives them to each one that comes after that.

use std::collections::BTreeMap;

use codexd_gateway::host::ThreadSettings;
use codexd_host::service::supervisor::{Generation, Order};

/// How far the conversation with the supervisor is.
#[derive(Debug, Default, Eq, PartialEq)]
enum Stage {
    /// It has not said whether it stores settings.
    #[default]
    Unheard,
    /// It sends what it has stored.
    Sends,
    /// It has what this gateway has.
    Stores,
    /// It is an older one that does not know the orders.
    DoesNotStore,
}

/// What is to be stored.
#[derive(Default)]
pub struct StoredThreadSettings {
    threads: BTreeMap<String, String>,
    stage: Stage,
    /// This gateway knows what the one before it had stored, as far as anybody does.
    is_complete: bool,
    /// The last list of app-servers that came while the supervisor was sending: the gateway hears of settings first.
    pub generations: Option<Vec<Generation>>,
}

impl std::fmt::Debug for StoredThreadSettings {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("StoredThreadSettings").field("stage", &self.stage).finish_non_exhaustive()
    }
}

impl StoredThreadSettings {
    /// Another supervisor is at the other end.
    pub fn conversation_begins(&mut self) {
        self.stage = Stage::Unheard;
        self.generations = None;
    }

    /// Whether this gateway knows what the one before it had stored, as far as anybody does.
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Whether the gateway is to wait with what else the supervisor says.
    pub fn is_being_sent(&self) -> bool {
        self.stage == Stage::Sends
    }

    /// The supervisor has said whether it stores settings: the orders that follow the first time.
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

    /// The supervisor has sent some; the order for the next ones, or nothing if these were the last.
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

    /// All of them, for the gateway.
    pub fn all(&self) -> Vec<ThreadSettings> {
        let all = self.threads.iter();
        all.map(|(thread, settings)| ThreadSettings {
            thread: thread.clone(),
            settings: Some(settings.clone()),
        })
        .collect()
    }

    /// The gateway wants these stored; the order for the supervisor, if it takes it now.
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
        assert!(stored.store(settings("d", "4")).is_none(), "nobody listens");
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
