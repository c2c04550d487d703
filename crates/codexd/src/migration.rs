//! What the report of a handover says about threads that cannot move to the new app-server.

use codexd_core::contract::status::Problem;
use codexd_core::foreign_text::quote;
use serde_json::Value;

const FOUND: &str = "thread-not-migrated";

/// A problem for each thread that the new app-server refuses, while the handover is not completed.
pub fn refused(handover: &Value) -> Vec<Problem> {
    if handover["state"] == "completed" {
        return Vec::new();
    }
    let waiting = handover["threadsWaiting"].as_array().into_iter().flatten();
    waiting
        .filter_map(|waiting| Some(problem(waiting["threadId"].as_str()?, waiting["reason"].as_str()?)))
        .collect()
}

/// Whether the handover waits only for threads that the new app-server refuses.
pub fn waits_for_refused_alone(handover: &Value) -> bool {
    let waiting = handover["threadsWaiting"].as_array().map(Vec::as_slice).unwrap_or_default();
    handover["state"] == "waiting"
        && handover["connectionsWaiting"].as_u64().unwrap_or_default() == 0
        && !waiting.is_empty()
        && waiting.iter().all(|waiting| waiting["blockedOn"] == "refused")
}

fn problem(thread: &str, reason: &str) -> Problem {
    let (thread, reason) = (quote(thread), quote(reason));
    let message = format!(
        "thread {thread} stays on the old app-server because the new one cannot load it: {reason}; the gateway retries"
    );
    Problem { found: FOUND.to_owned(), message }
}

#[cfg(test)]
mod tests {
    use super::{refused, waits_for_refused_alone};
    use serde_json::json;

    #[test]
    fn each_refused_thread_is_a_problem_and_those_that_wait_for_a_turn_are_none() {
        let turn = json!({"threadId": "a", "blockedOn": "turn"});
        let refusal = json!({"threadId": "b", "blockedOn": "refused", "reason": "no provider"});
        let mut handover =
            json!({"state": "waiting", "connectionsWaiting": 0, "threadsWaiting": [turn, refusal]});
        let problems = refused(&handover);
        assert_eq!(problems.len(), 1);
        assert!(problems[0].message.contains("thread b") && problems[0].message.contains("no provider"));
        assert!(!waits_for_refused_alone(&handover), "a turn ends by itself");
        handover["threadsWaiting"].as_array_mut().expect("threads").remove(0);
        assert!(waits_for_refused_alone(&handover));
        handover["state"] = "completed".into();
        assert!(refused(&handover).is_empty() && !waits_for_refused_alone(&handover));
    }
}
