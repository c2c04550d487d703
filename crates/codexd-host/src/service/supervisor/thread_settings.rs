//! The thread settings that the gateway has stored here, in memory only, for the next gateway.
//!
//! The supervisor does not parse them. They may hold credentials: they are never logged or written to disk.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;

use codexd_core::limits::{THREAD_SETTINGS_SENT_BYTES, THREAD_SETTINGS_STORED_MAX_BYTES};

use super::Supervisor;
use super::clients::ClientId;
use super::wire::Report;

/// The settings by thread id.
#[derive(Default)]
pub struct ThreadSettings {
    threads: BTreeMap<String, String>,
    bytes: usize,
    /// An app-server was adopted from another supervisor, which may have stored settings.
    pub are_inherited: bool,
    /// A gateway has connected that knows all settings and stores them here.
    pub are_given: bool,
}

impl fmt::Debug for ThreadSettings {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("ThreadSettings").field("threads", &self.threads.len()).finish_non_exhaustive()
    }
}

impl ThreadSettings {
    /// Replaces the settings of a thread; `None` deletes them. Returns whether they fit.
    fn store(&mut self, thread: String, settings: Option<String>) -> bool {
        if let Some(previous) = self.threads.remove(&thread) {
            self.bytes -= thread.len() + previous.len();
        }
        let Some(settings) = settings else { return true };
        let more = thread.len() + settings.len();
        if self.bytes + more > THREAD_SETTINGS_STORED_MAX_BYTES {
            return false;
        }
        self.bytes += more;
        self.threads.insert(thread, settings);
        true
    }

    /// The next settings after the thread `after`, at least one if there is one, and whether they are the last.
    fn next(&self, after: Option<&str>) -> (Vec<(String, String)>, bool) {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = self.threads.range::<str, _>((from, Bound::Unbounded)).peekable();
        let (mut threads, mut bytes) = (Vec::new(), 0);
        while let Some((thread, settings)) =
            rest.next_if(|(_, settings)| bytes == 0 || bytes + settings.len() <= THREAD_SETTINGS_SENT_BYTES)
        {
            bytes += thread.len() + settings.len();
            threads.push((thread.clone(), settings.clone()));
        }
        (threads, rest.peek().is_none())
    }
}

impl Supervisor {
    pub(super) fn store_thread_settings(&mut self, from: ClientId, thread: String, settings: Option<String>) {
        if !self.clients.is_gateway(from) {
            return;
        }
        if !self.thread_settings.store(thread.clone(), settings) {
            self.clients.send_if_gateway(from, &Report::ThreadSettingsRefused { thread });
        }
    }

    pub(super) fn send_thread_settings(&mut self, from: ClientId, after: Option<&str>) {
        let (threads, is_last) = self.thread_settings.next(after);
        let may_lack = self.thread_settings.are_inherited && !self.thread_settings.are_given;
        self.clients.send_if_gateway(from, &Report::ThreadSettings { threads, is_last, may_lack });
        self.thread_settings.are_given |= is_last;
    }
}

#[cfg(test)]
mod tests {
    use super::ThreadSettings;
    use codexd_core::limits::{THREAD_SETTINGS_SENT_BYTES, THREAD_SETTINGS_STORED_MAX_BYTES};

    fn all(stored: &ThreadSettings) -> Vec<String> {
        let (mut after, mut all): (Option<String>, _) = (None, Vec::new());
        loop {
            let (threads, is_last) = stored.next(after.as_deref());
            assert!(is_last || !threads.is_empty());
            all.extend(threads.into_iter().map(|(thread, _)| thread));
            if is_last {
                return all;
            }
            after = all.last().cloned();
        }
    }

    #[test]
    fn the_last_stored_settings_are_sent_in_parts() {
        let mut stored = ThreadSettings::default();
        assert!(all(&stored).is_empty());
        for thread in 0..7 {
            assert!(stored.store(format!("t{thread}"), Some("x".repeat(THREAD_SETTINGS_SENT_BYTES / 2 + 1))));
        }
        assert!(stored.store("t3".into(), Some("y".repeat(THREAD_SETTINGS_SENT_BYTES * 2))));
        assert!(stored.store("t5".into(), None));
        assert_eq!(all(&stored), ["t0", "t1", "t2", "t3", "t4", "t6"]);
    }

    #[test]
    fn settings_beyond_the_bound_are_refused_until_others_are_deleted() {
        let mut stored = ThreadSettings::default();
        let large = || Some("x".repeat(THREAD_SETTINGS_STORED_MAX_BYTES - 2));
        assert!(stored.store("a".into(), large()));
        assert!(!stored.store("b".into(), Some("xx".into())));
        assert_eq!(all(&stored), ["a"]);
        assert!(stored.store("a".into(), None) && stored.store("b".into(), large()));
        assert_eq!(stored.bytes, THREAD_SETTINGS_STORED_MAX_BYTES - 1);
    }
}
