//! What was recorded between a supervisor, a command and a gateway whose replies carried no ids: this version reads both ends.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use codexd_core::launch_spec::{DrainSignal, StopPolicy};
use codexd_core::lifecycle::SupervisorSeen;
use serde_json::{Value, json};

use super::connection::{ConnectionError, SupervisorConnection};
use super::framing::{self, Message};
use super::wire::{Order, Report};
use crate::process;

const RECORDED: &str = include_str!("../../../tests/data/supervisor-protocol-0.jsonl");

fn recorded(is_wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
    let all = RECORDED.lines().map(|line| serde_json::from_str(line).expect("JSON"));
    all.filter(is_wanted).map(|entry: Value| entry["line"].clone()).collect()
}

/// What an older supervisor sent on one connection.
fn sent_on(connection: &str) -> Vec<Value> {
    recorded(|entry| entry["connection"] == connection && entry["from"] == "supervisor")
}

/// A connection to a supervisor that reports `first` at connect, and `then` when it has read an order, which it gives back.
fn play(first: Vec<Value>, then: Vec<Value>) -> (SupervisorConnection, JoinHandle<Value>) {
    let (near, far) = UnixStream::pair().expect("a pair");
    let mut connection = SupervisorConnection::new(near, process::myself().expect("me")).expect("linked");
    let player = std::thread::spawn(move || {
        let mut reader = BufReader::new(far.try_clone().expect("cloned"));
        let send = |lines: Vec<Value>| {
            lines.iter().for_each(|line| (&far).write_all(format!("{line}\n").as_bytes()).expect("sent"));
        };
        send(first);
        let mut order = String::new();
        reader.read_line(&mut order).expect("an order");
        send(then);
        serde_json::from_str(&order).expect("JSON")
    });
    let deadline = Instant::now() + Duration::from_secs(20);
    assert!(connection.greeting(deadline).expect("it reports first how things stand"));
    (connection, player)
}

fn replay(connection: &str, order: &Order) -> (SupervisorConnection, Result<(), ConnectionError>) {
    let mut first = sent_on(connection);
    let then = first.split_off(2);
    let (mut connection, player) = play(first, then);
    let outcome = connection.order(order);
    let read = player.join().expect("played");
    assert_eq!(read["order"], serde_json::to_value(order).expect("JSON")["order"]);
    assert_eq!(read["id"], Value::Null, "an older supervisor knows no ids");
    (connection, outcome)
}

fn of_command(connection: &str, nth: usize) -> Order {
    let orders = recorded(|entry| entry["connection"] == connection && entry["from"] == "command");
    serde_json::from_value(orders[nth].clone()).expect("an order")
}

#[test]
fn every_order_of_an_older_command_or_gateway_is_read() {
    let orders = recorded(|entry| entry["from"] != "supervisor");
    assert!(orders.len() > 5);
    for order in orders {
        let read = framing::read_order(order.to_string().as_bytes());
        assert!(read.order.is_ok() && read.id.is_none(), "{order}: {read:?}");
    }
}

#[test]
fn every_report_of_an_older_supervisor_is_read() {
    for report in recorded(|entry| entry["from"] == "supervisor") {
        match framing::read_message(report.to_string().as_bytes()) {
            Some(Message::Report(Report::State { protocol, .. })) => assert_eq!(protocol, 0),
            Some(Message::Report(_)) => {}
            other => panic!("{report}: {other:?}"),
        }
    }
}

#[test]
fn a_replacement_by_an_older_supervisor_is_followed_to_the_new_server() {
    let (mut connection, outcome) = replay("restart --now", &of_command("restart --now", 0));
    outcome.expect("taken");
    assert!(matches!(connection.seen, SupervisorSeen::Stopping(_)), "{:?}", connection.seen);
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut seen = Vec::new();
    while let Ok(report) = connection.next(deadline) {
        match report {
            Report::Exited { exit } => seen.push(("exited", exit.pid.0)),
            Report::Spawned { pid } => seen.push(("spawned", pid.0)),
            _ => {}
        }
    }
    assert_eq!(seen, [("exited", 2826), ("spawned", 2946)]);
}

#[test]
fn a_server_that_ended_before_an_older_supervisor_read_the_order_is_not_the_next_one() {
    let mut then = sent_on("restart --now").split_off(2);
    let exit = json!({"pid": 2826, "code": 1, "signal": null, "at": "2026-11-29T03:02:19.874Z", "requested": false, "stderrTail": ""});
    then.insert(0, json!({"report": "exited", "exit": exit}));
    let mut first = sent_on("restart --now");
    first.truncate(2);
    let (mut connection, player) = play(first, then);
    connection.order(&of_command("restart --now", 0)).expect("taken");
    player.join().expect("played");
    let deadline = Instant::now() + Duration::from_secs(20);
    while let Ok(report) = connection.next(deadline) {
        assert!(!matches!(report, Report::Exited { exit } if !exit.requested));
    }
}

#[test]
fn a_promotion_by_an_older_supervisor_is_done_when_the_successor_is_the_current_server() {
    let mut lines = sent_on("restart");
    let promoted = lines.iter().position(|line| line["pid"] == 2826).expect("promoted");
    let answered =
        lines.iter().rposition(|line| line["report"] == "socketFolderChanged" && line["pid"].is_null());
    assert!(answered.is_some());
    // All that comes before the order was given, which is the answer to the order before, is reported late.
    let first = lines.drain(..2).collect();
    let (mut connection, player) = play(first, lines);
    connection.generations.clear();
    let promote = of_command("restart", 1);
    connection.order(&promote).expect("taken");
    player.join().expect("played");
    assert_eq!(connection.seen, SupervisorSeen::Keeping(codexd_core::identity::Pid(2826)), "{promoted}");
}

#[test]
fn an_older_supervisor_that_leaves_has_carried_out_the_stop() {
    let policy = StopPolicy { signal: DrainSignal::Terminate, grace_ms: Some(60_000) };
    let (mut connection, outcome) = replay("stop", &Order::Stop { policy, failed: false });
    outcome.expect("taken");
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut left = false;
    while let Ok(report) = connection.next(deadline) {
        left |= matches!(report, Report::Leaving);
    }
    assert!(left);
}

#[test]
fn a_refusal_by_an_older_supervisor_is_the_answer() {
    let mut first = sent_on("restart --now");
    first.truncate(2);
    let refused = json!({"report": "refused", "message": "no room", "errno": 28});
    let (mut connection, player) = play(first, vec![refused]);
    let outcome = connection.order(&of_command("restart --now", 0));
    player.join().expect("played");
    assert!(matches!(outcome, Err(ConnectionError::OrderRefused(refusal)) if refusal.errno == Some(28)));
}

fn current_supervisor() -> Vec<Value> {
    let mut first = sent_on("restart --now");
    first.truncate(2);
    first[0]["protocol"] = json!(1);
    first
}

#[test]
fn only_the_reply_with_the_id_of_an_order_answers_it() {
    let then = vec![
        json!({"report": "exited", "exit": {"pid": 2826, "code": 1, "signal": null, "at": "x", "requested": false, "stderrTail": ""}}),
        json!({"re": 7, "status": "refused", "message": "of another"}),
        json!({"report": "refused", "message": "of another", "errno": null}),
        json!({"re": 1, "status": "progress", "field": "of a later version"}),
        json!({"report": "ofALaterVersion", "x": 1}),
        json!({"report": "spawned", "pid": 5}),
        json!({"re": 1, "status": "ok"}),
        json!({"report": "swept", "ended": 0, "left": []}),
    ];
    let (mut connection, player) = play(current_supervisor(), then);
    connection.order(&of_command("restart --now", 0)).expect("taken");
    assert_eq!(player.join().expect("played")["id"], 1);
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut reports = Vec::new();
    while let Ok(report) = connection.next(deadline) {
        reports.push(report);
    }
    assert!(matches!(reports[..], [Report::Spawned { .. }, Report::Swept { .. }]), "{reports:?}");
}

#[test]
fn a_refused_order_gives_its_reason() {
    let then = vec![json!({"re": 1, "status": "refused", "message": "no room", "errno": 28})];
    let (mut connection, player) = play(current_supervisor(), then);
    let outcome = connection.order(&of_command("restart --now", 0));
    player.join().expect("played");
    assert!(matches!(outcome, Err(ConnectionError::OrderRefused(refusal)) if refusal.message == "no room"));
}
