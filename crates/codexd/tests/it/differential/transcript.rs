//! What two servers may say differently, and the rest as comparable lines.
//!
//! Left out, because only a real server has reason to say it:
//! - `warning`, `configWarning`: it does not know the mock model, and misses a sandbox tool on this machine;
//! - `readState`, `readStates`: unread marks, which this server does not keep.
//!
//! Made equal:
//! - cursors, which point into the rollout file (kept: whether there is one);
//! - the names of rollout files, which must differ;
//! - the address of the model, which only a real server has to name;
//! - the order between an answer and what is told meanwhile, which the real server does not keep (an interrupted turn may
//!   end before the interrupt is answered): answers come first, then what was told, each in order;
//! - the order between the end of a command and what is told meanwhile, that the thread is active again and the counts of
//!   tokens and limits, which it does not keep either: the answer that asked for the command may end before the command;
//! - how often in a row a status is told: a thread that is archived may be said to be not loaded twice;
//! - the counts of tokens and limits right before the end of an interrupted turn: a busy machine leaves them out;
//! - pieces of an answer, which come at moments of their own: a run of them is left out, and the scenes that are about
//!   pieces look at them themselves.

use codexd_testkit::Normaliser;
use codexd_testkit::client::{Direction, Entry};
use serde_json::Value;

const UNTOLD: [&str; 3] = ["warning", "configWarning", "item/agentMessage/delta"];
const UNKEPT: [&str; 2] = ["readState", "readStates"];
const CURSORS: [&str; 4] = ["nextCursor", "backwardsCursor", "turnsBackwardsCursor", "itemsBackwardsCursor"];

/// What a client received, line by line, from a server of which each notification says when it was made, or none does (as
/// 0.131.0 has it).
///
/// # Panics
/// If it is otherwise, or anything but a notification says so.
pub(crate) fn lines(name: &str, dated: bool, record: &[Entry], normal: &mut Normaliser) -> Vec<String> {
    let mut told: Vec<Entry> = record.to_vec();
    told.retain(|entry| !UNTOLD.contains(&entry.message["method"].as_str().unwrap_or_default()));
    for entry in told.iter_mut().filter(|entry| entry.direction == Direction::Received) {
        let message = &entry.message;
        let is_notification = message["method"].is_string() && message["id"].is_null();
        assert_eq!(message["emittedAtMs"].is_u64(), dated && is_notification, "{name}: {message}");
        simplify(&mut entry.message);
    }
    let lines = normal.lines(&told);
    let received = lines.into_iter().filter(|line| line.starts_with('<'));
    let (answers, mut told): (Vec<_>, Vec<_>) = received.partition(|line| line.starts_with("< answer to "));
    forgive_races(&mut told);
    answers.into_iter().chain(told).map(|line| format!("{name} {line}")).collect()
}

/// Takes out what is luck in what a real server tells; see the head of this file.
fn forgive_races(told: &mut Vec<String>) {
    // The output of a command that has ended before anybody looked comes only with its end, which has all of it.
    told.retain(|line| !line.starts_with("< item/commandExecution/outputDelta "));
    told.dedup_by(|next, line| line.starts_with("< thread/status/changed ") && next == line);
    for end in 1..told.len() {
        let mut at = end;
        while at > 0 && is_command_completed(&told[at]) && may_come_behind_a_command(&told[at - 1]) {
            told.swap(at - 1, at);
            at -= 1;
        }
    }
    let mut at = told.len();
    let mut near_interrupted_end = false;
    while at > 0 {
        at -= 1;
        let line = &told[at];
        if near_interrupted_end && is_count(line) {
            told.remove(at);
        } else if !line.starts_with("< thread/status/changed ") {
            near_interrupted_end =
                line.starts_with("< turn/completed ") && line.contains(r#""status":"interrupted""#);
        }
    }
}

fn may_come_behind_a_command(line: &str) -> bool {
    let is_active_again =
        line.starts_with("< thread/status/changed ") && line.contains(r#""activeFlags":[],"#);
    is_active_again || is_count(line)
}

fn is_count(line: &str) -> bool {
    ["< thread/tokenUsage/updated ", "< account/rateLimits/updated "]
        .iter()
        .any(|kind| line.starts_with(kind))
}

fn is_command_completed(line: &str) -> bool {
    line.starts_with("< item/completed ") && line.contains(r#""type":"commandExecution""#)
}

fn simplify(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|name, _| !UNKEPT.contains(&name.as_str()));
            for (name, member) in members {
                match member {
                    Value::String(text) if CURSORS.contains(&name.as_str()) => "<cursor>".clone_into(text),
                    Value::String(text) if name == "path" => {
                        *text = text.replace("/embedded-", "/<rollout>-").replace("/rollout-", "/<rollout>-");
                    }
                    Value::String(text) if name == "message" => {
                        if let Some((before, _)) = text.split_once(", url: http") {
                            *text = before.to_owned();
                        }
                    }
                    other => simplify(other),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(simplify),
        _ => {}
    }
}
