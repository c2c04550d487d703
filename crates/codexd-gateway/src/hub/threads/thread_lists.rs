//! Lists of threads. An app-server knows the status of its own threads only, so during a migration or recovery its
//! lists are completed with those of the others.

use serde_json::Value;

use crate::hub::event::{ServerId, Text};
use crate::hub::requests::pending::RequestKind;
use crate::hub::threads::state::ThreadState;
use crate::hub::threads::thread::Thread;
use crate::hub::{Hub, text};

impl Hub {
    /// The list of one app-server, completed with the threads of the others.
    pub(in crate::hub) fn completed_list(
        &self,
        server: ServerId,
        kind: RequestKind,
        text: &Text,
        request: &str,
    ) -> Text {
        // A request from before a handover may be answered during it, and the reverse.
        if kind == RequestKind::ThreadList && !self.completes_lists() {
            return text.clone();
        }
        let Some(result) = text::member(text, "result") else { return text.clone() };
        let Ok(mut value) = serde_json::from_str::<Value>(result.get()) else {
            return text.clone();
        };
        let last_page = value.get("nextCursor").is_none_or(Value::is_null);
        let Some(data) = value.get_mut("data").and_then(Value::as_array_mut) else {
            return text.clone();
        };
        let elsewhere = |thread: &&Thread| thread.is_unknown_to(server);
        match kind {
            RequestKind::LoadedList if last_page => {
                let params = text::member(request, "params");
                let cursor =
                    params.and_then(|params| text::string(params.get(), "cursor")).unwrap_or_default();
                let others = self.threads.values().filter(elsewhere);
                let others = others.filter(|thread| *thread.id > *cursor).map(|thread| thread.id.to_string());
                data.extend(others.map(Value::from));
                data.sort_unstable_by(|one, other| one.as_str().cmp(&other.as_str()));
                data.dedup();
            }
            RequestKind::ThreadList if !self.correct_statuses(server, data) => return text.clone(),
            _ => {}
        }
        text::splice(text, result.get(), &value.to_string())
    }

    /// Whether one app-server does not know the status of every thread.
    pub(in crate::hub) fn completes_lists(&self) -> bool {
        self.migration.is_under_way() || self.is_recovering()
    }

    /// Corrects the status of threads that other app-servers have. Returns whether anything changed.
    pub(in crate::hub) fn correct_statuses(&self, server: ServerId, data: &mut [Value]) -> bool {
        let mut changed = false;
        for listed in data {
            // `thread/search` wraps the threads that `thread/list` returns directly.
            let listed = match listed.get_mut("thread") {
                Some(_) => &mut listed["thread"],
                None => listed,
            };
            let id = listed.get("id").and_then(Value::as_str);
            let thread = id.and_then(|id| self.threads.get(id)).filter(|thread| thread.is_unknown_to(server));
            if let Some(status) = thread.and_then(|thread| serde_json::from_str(&thread.status).ok()) {
                changed |= listed["status"] != status;
                listed["status"] = status;
            }
        }
        changed
    }
}

impl Thread {
    /// Whether an app-server does not know the status that clients have of the thread.
    fn is_unknown_to(&self, server: ServerId) -> bool {
        // Clients do not know that it is not loaded, and it is about to be.
        let is_lost = matches!(self.state, ThreadState::Orphaned | ThreadState::Recovering { .. })
            && !self.is_background_load;
        self.server != server || is_lost
    }
}
