use std::time::Duration;

use serde_json::json;

use super::transcript::{Record, TurnStatus};
use super::{Action, Decision, Signal};
use crate::ExitReason;
use crate::limits::DELTAS_PER_BATCH;

mod histories;
mod rig;

use rig::{Rig, UNLOAD_DELAY};

const SHORT: Duration = Duration::from_secs(5);
const QUESTION: &str = "item/commandExecution/requestApproval";

#[test]
fn all_subscribers_see_the_same_messages_in_the_same_order() {
    let mut rig = Rig::new();
    let (alice, bob) = (rig.client(1), rig.client(2));
    let thread = rig.thread(alice);
    rig.turn(alice, &thread, "[[deltas=1]]");
    rig.pass(SHORT);
    rig.request(bob, "thread/resume", json!({"threadId": thread, "excludeTurns": true}));
    let (from_alice, from_bob) = (rig.count(alice), rig.count(bob));
    let unsubscribed = rig.client(3);
    rig.turn(unsubscribed, &thread, "[[deltas=50 shell=echo hi;;]]");
    rig.pass(SHORT);
    let seen = |client, from| rig.received[&client].iter().skip(from).cloned().collect::<Vec<_>>();
    assert_eq!(seen(alice, from_alice), seen(bob, from_bob));
    assert!(rig.told(bob, from_bob).contains(&"turn/completed".to_owned()));
    assert!(!rig.told(unsubscribed, 0).iter().any(|method| method.starts_with("item/")));
}

#[test]
fn a_record_of_a_turn_is_written_before_it_is_sent() {
    let mut rig = Rig::new();
    let alice = rig.client(1);
    let thread = rig.thread(alice);
    rig.turn(alice, &thread, "[[deltas=2]]");
    rig.pass(SHORT);
    let written = rig.actions.iter().position(|action| {
        matches!(
            action,
            Action::Append { record: Record::TurnEnded { status: TurnStatus::Completed, .. }, .. }
        )
    });
    let told = rig
        .actions
        .iter()
        .position(|action| matches!(action, Action::Send { frame, .. } if frame.contains("turn/completed")));
    assert!(written.expect("written") < told.expect("told"));
}

#[test]
fn other_clients_are_served_between_the_batches_of_a_long_answer() {
    let mut rig = Rig::new();
    let alice = rig.client(1);
    let thread = rig.thread(alice);
    rig.turn(alice, &thread, "[[deltas=1000 size=4]]");
    let before = rig.count(alice);
    rig.step(super::Input::TimePassed);
    assert_eq!(rig.count(alice) - before, 1 + DELTAS_PER_BATCH as usize);
    rig.pass(SHORT);
    let deltas = rig.told(alice, 0).iter().filter(|method| method.ends_with("/delta")).count();
    assert_eq!(deltas, 1000);
}

#[test]
fn the_first_answer_to_an_approval_decides() {
    let mut rig = Rig::new();
    let (alice, bob) = (rig.client(1), rig.client(2));
    let thread = rig.thread(alice);
    rig.turn(alice, &thread, "[[approve=true;; deltas=1]]");
    rig.pass(SHORT);
    let uninitialized = rig.uninitialized_client(3);
    rig.answer(uninitialized, 0, Decision::Cancel);
    rig.answer(bob, 7, Decision::Cancel);
    assert!(!rig.told(alice, 0).contains(&"serverRequest/resolved".to_owned()));
    rig.answer(bob, 0, Decision::Accept);
    rig.answer(alice, 0, Decision::Cancel);
    rig.pass(SHORT);
    let resolved = rig.told(alice, 0).iter().filter(|method| *method == "serverRequest/resolved").count();
    assert_eq!(resolved, 1);
    let last = rig.received[&alice].last().expect("messages");
    assert_eq!(last["params"]["turn"]["status"], "completed");
}

#[test]
fn an_approval_without_subscribers_waits_for_the_next_subscriber() {
    let mut rig = Rig::new();
    let (alice, bob) = (rig.client(1), rig.client(2));
    let thread = rig.thread(alice);
    rig.turn(alice, &thread, "[[approve=true;;]]");
    rig.step(super::Input::Closed(alice));
    rig.pass(UNLOAD_DELAY * 3);
    assert!(!rig.told(bob, 0).contains(&QUESTION.to_owned()));
    rig.request(bob, "thread/resume", json!({"threadId": thread, "excludeTurns": true}));
    assert_eq!(rig.told(bob, 0).last().map(String::as_str), Some(QUESTION));
}

#[test]
fn an_idle_thread_is_unloaded_after_its_delay_and_not_before() {
    let mut rig = Rig::new();
    let (alice, bob) = (rig.client(1), rig.client(2));
    let thread = rig.thread(alice);
    rig.turn(alice, &thread, "[[deltas=10 delay=1]]");
    rig.step(super::Input::Closed(alice));
    rig.pass(UNLOAD_DELAY + Duration::from_secs(9));
    assert_eq!(rig.request(bob, "thread/loaded/list", json!({}))["result"]["data"], json!([thread]));
    rig.pass(Duration::from_secs(2));
    assert_eq!(rig.request(bob, "thread/loaded/list", json!({}))["result"]["data"], json!([]));
    assert!(rig.told(bob, 0).ends_with(&["thread/status/changed".into(), "thread/closed".into()]));
}

#[test]
fn a_thread_that_is_subscribed_again_stays() {
    let mut rig = Rig::new();
    let alice = rig.client(1);
    let thread = rig.thread(alice);
    rig.turn(alice, &thread, "[[deltas=1]]");
    rig.pass(SHORT);
    rig.request(alice, "thread/unsubscribe", json!({"threadId": thread}));
    rig.pass(UNLOAD_DELAY - Duration::from_secs(1));
    rig.request(alice, "thread/resume", json!({"threadId": thread, "excludeTurns": true}));
    rig.pass(UNLOAD_DELAY * 2);
    assert_eq!(rig.request(alice, "thread/loaded/list", json!({}))["result"]["data"], json!([thread]));
}

#[test]
fn an_ephemeral_thread_never_touches_the_disk() {
    let mut rig = Rig::new();
    let alice = rig.client(1);
    let reply = rig.request(alice, "thread/start", json!({"ephemeral": true}));
    let thread = reply["result"]["thread"]["id"].as_str().expect("a thread").to_owned();
    rig.turn(alice, &thread, "[[shell=true;;]]");
    rig.pass(SHORT);
    assert!(rig.disk.is_empty());
    assert!(rig.actions.iter().all(|action| matches!(action, Action::Send { .. })));
}

#[test]
fn a_turn_that_hangs_ends_only_when_it_is_interrupted() {
    let mut rig = Rig::new();
    let alice = rig.client(1);
    let thread = rig.thread(alice);
    let turn = rig.turn(alice, &thread, "[[hang deltas=2]]");
    rig.pass(Duration::from_secs(100_000));
    assert_eq!(rig.told(alice, 0).last().map(String::as_str), Some("item/agentMessage/delta"));
    rig.request(alice, "turn/interrupt", json!({"threadId": thread, "turnId": turn}));
    assert_eq!(rig.told(alice, 0).last().map(String::as_str), Some("turn/completed"));
}

#[test]
fn a_crash_comes_when_the_model_is_called() {
    let mut rig = Rig::new();
    let alice = rig.client(1);
    let thread = rig.thread(alice);
    rig.turn(alice, &thread, "[[crash first_delay=2]]");
    rig.pass(Duration::from_secs(1));
    assert!(!rig.actions.iter().any(|action| matches!(action, Action::Abort)));
    rig.now = rig.now.after(Duration::from_secs(1));
    rig.step(super::Input::TimePassed);
    assert!(matches!(rig.actions.last(), Some(Action::Abort)));
}

fn exits(rig: &Rig) -> Vec<ExitReason> {
    let exit = |action: &Action| match action {
        Action::Exit(reason) => Some(*reason),
        _ => None,
    };
    rig.actions.iter().filter_map(exit).collect()
}

#[test]
fn an_idle_server_exits_at_the_first_signal() {
    for signal in [Signal::Terminate, Signal::Interrupt, Signal::HangUp] {
        let mut rig = Rig::new();
        let alice = rig.client(1);
        rig.thread(alice);
        rig.signal(signal);
        assert_eq!(exits(&rig), [ExitReason::Drained]);
    }
}

#[test]
fn a_draining_server_waits_for_its_turn_and_starts_no_other() {
    let mut rig = Rig::new();
    let alice = rig.client(1);
    let thread = rig.thread(alice);
    rig.turn(alice, &thread, "[[deltas=10 delay=100]]");
    rig.signal(Signal::Terminate);
    let refused = rig.request(alice, "thread/start", json!({}));
    assert_eq!(refused["error"]["data"]["reason"], "serverShuttingDown");
    rig.pass(Duration::from_secs(999));
    assert!(exits(&rig).is_empty());
    rig.pass(Duration::from_secs(2));
    assert_eq!(exits(&rig).first(), Some(&ExitReason::Drained));
}

#[test]
fn a_second_signal_forces_unless_it_is_a_hang_up() {
    for (first, second, forces) in [
        (Signal::Terminate, Signal::Terminate, true),
        (Signal::Interrupt, Signal::Terminate, true),
        (Signal::HangUp, Signal::Interrupt, true),
        (Signal::Terminate, Signal::HangUp, false),
        (Signal::HangUp, Signal::HangUp, false),
    ] {
        let mut rig = Rig::new();
        let alice = rig.client(1);
        let thread = rig.thread(alice);
        rig.turn(alice, &thread, "[[hang]]");
        rig.signal(first);
        rig.signal(second);
        assert_eq!(exits(&rig).contains(&ExitReason::Forced), forces, "{first:?} {second:?}");
    }
}

#[test]
fn pages_of_turns_show_every_turn_once() {
    let mut rig = Rig::new();
    let alice = rig.client(1);
    let thread = rig.thread(alice);
    let turns: Vec<String> = (0..7)
        .map(|_| {
            let turn = rig.turn(alice, &thread, "[[deltas=1]]");
            rig.pass(SHORT);
            turn
        })
        .collect();
    for (direction, wanted) in
        [("asc", turns.clone()), ("desc", turns.iter().rev().cloned().collect::<Vec<_>>())]
    {
        let (mut seen, mut cursor) = (Vec::new(), json!(null));
        loop {
            let params =
                json!({"threadId": thread, "limit": 3, "cursor": cursor, "sortDirection": direction});
            let page = rig.request(alice, "thread/turns/list", params)["result"].clone();
            let data = page["data"].as_array().cloned().unwrap_or_default();
            seen.extend(data.iter().filter_map(|turn| turn["id"].as_str().map(str::to_owned)));
            cursor = page["nextCursor"].clone();
            if cursor.is_null() {
                break;
            }
        }
        assert_eq!(seen, wanted, "{direction}");
    }
}
