//! The ancestors of a sub-agent's thread. Upstream names the parent in `thread/read` and in the response to
//! `thread/resume` (0.131.0 to 0.171.0), and in no notification.

use serde_json::json;

use crate::hub::event::ThreadId;
use crate::hub::refusal::Refusal;
use crate::hub::requests::pending::InternalRequest;
use crate::hub::{Hub, Timer, text};
use crate::limits::{LINEAGE_MAX, RETRY_AFTER_MS};

/// The ancestors of a thread.
#[derive(Clone, Debug, Default)]
pub struct Lineage {
    /// The known ancestors, the parent first.
    ancestors: Vec<ThreadId>,
    progress: Progress,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Progress {
    /// The last known ancestor, or the thread itself, may have a parent.
    #[default]
    Open,
    /// The app-server is asked for the next one.
    Requested,
    /// There are no more ancestors, or no more can be learned.
    Complete,
}

impl Lineage {
    /// The known ancestors, the parent first.
    pub fn ancestors(&self) -> &[ThreadId] {
        &self.ancestors
    }

    /// Applies upstream's description of the thread itself.
    pub fn describe(&mut self, thread: &str) {
        if self.ancestors.is_empty()
            && self.progress != Progress::Complete
            && text::member(thread, "source").is_some()
        {
            self.found(parent_of(thread));
        }
    }

    /// The parent of the last known ancestor, or that it has none.
    fn found(&mut self, parent: Option<ThreadId>) {
        match parent {
            Some(parent) if self.ancestors.len() < LINEAGE_MAX && !self.ancestors.contains(&parent) => {
                self.ancestors.push(parent);
                self.progress = Progress::Open;
            }
            _ => self.progress = Progress::Complete,
        }
    }

    /// The connection broke before the response.
    pub fn on_response_lost(&mut self) {
        if self.progress == Progress::Requested {
            self.progress = Progress::Open;
        }
    }
}

/// The parent in a description of a thread.
fn parent_of(thread: &str) -> Option<ThreadId> {
    let named = text::string(thread, "parentThreadId");
    let parent = named.or_else(|| {
        let source = text::member(thread, "source")?.get();
        let spawned = text::member(text::member(source, "subAgent")?.get(), "thread_spawn")?.get();
        text::string(spawned, "parent_thread_id")
    });
    parent.map(|parent| ThreadId::from(&*parent))
}

impl Hub {
    /// Requests the ancestors of a thread that are not known, and updates the recipients of its server requests.
    pub(in crate::hub) fn learn_lineage(&mut self, id: &ThreadId) {
        self.trace_lineage(id);
        self.update_recipients(id);
    }

    pub(in crate::hub) fn trace_lineage(&mut self, id: &ThreadId) {
        loop {
            let Some(thread) = self.threads.get(id) else { return };
            if thread.lineage.progress != Progress::Open {
                return;
            }
            let last = thread.lineage.ancestors.last().unwrap_or(id).clone();
            let known = self.threads.get(&last).filter(|_| last != *id).map(|known| known.lineage.clone());
            let (connection, next) =
                (thread.connection(), known.as_ref().and_then(|known| known.ancestors.first().cloned()));
            let is_known = known.is_some_and(|known| next.is_some() || known.progress == Progress::Complete);
            let Some(thread) = self.threads.get_mut(id) else { return };
            if is_known {
                thread.lineage.found(next);
                continue;
            }
            thread.lineage.progress = Progress::Requested;
            let request = InternalRequest::Lineage { thread: id.clone(), of: last.clone() };
            return self.send_internal(connection, request, "thread/read", &json!({"threadId": &*last}));
        }
    }

    /// The response to `thread/read` of a thread or of its farthest known ancestor.
    pub(in crate::hub) fn on_lineage(&mut self, id: &ThreadId, of: &ThreadId, outcome: Result<&str, &str>) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        thread.lineage.on_response_lost();
        if thread.lineage.ancestors.last().unwrap_or(id) == of {
            match outcome {
                Ok(result) => {
                    let reported = text::member(result, "thread");
                    thread.lineage.found(reported.and_then(|reported| parent_of(reported.get())));
                }
                Err(error) if Refusal::of(error) == Refusal::RetrySoon => {
                    return self.set_timer(RETRY_AFTER_MS, Timer::Lineage(id.clone()));
                }
                Err(_) => thread.lineage.found(None),
            }
        }
        self.learn_lineage(id);
    }
}

#[cfg(test)]
mod tests {
    use super::parent_of;

    #[test]
    fn the_parent_is_named_in_either_of_two_ways() {
        let spawned = r#"{"source":{"subAgent":{"thread_spawn":{"parent_thread_id":"p","depth":1}}}}"#;
        let named =
            r#"{"parentThreadId":"q","source":{"subAgent":{"thread_spawn":{"parent_thread_id":"p"}}}}"#;
        assert_eq!(parent_of(spawned).as_deref(), Some("p"));
        assert_eq!(parent_of(named).as_deref(), Some("q"));
        for none in
            [r#"{"source":"vscode","parentThreadId":null}"#, r#"{"source":{"subAgent":"review"}}"#, "{}"]
        {
            assert_eq!(parent_of(none), None, "{none}");
        }
    }
}
