//! Which thread is loaded when, after the loss of an app-server that had many.

use proptest::prelude::*;
use serde_json::json;

use super::experimental;
use super::histories::{History, cases, config, run, run_in};
use super::steps::{MANY_THREADS, Step, step_among_many};
use super::world::World;
use crate::hub::{ClientId, Connection};
use crate::limits::{BACKGROUND_LOADS_MAX, BACKGROUND_LOADS_YIELD_MS, DEMANDED_LOADS_MAX};

const THREADS: usize = 60;

/// A client that watches so many threads, each of which is on disk.
pub fn with_threads(world: &mut World, count: usize) -> (ClientId, Vec<String>) {
    let owner = world.client(1, experimental());
    let mut threads: Vec<String> = Vec::new();
    for _ in 0..count {
        let thread = world.thread(owner);
        world.turn(owner, &thread, "a");
        world.complete(&thread);
        world.settle();
        threads.push(thread);
    }
    (owner, threads)
}

/// The app-server dies and another one answers; nothing that it is asked for is answered yet.
pub fn crash(world: &mut World) -> Connection {
    let old = world.current.expect("a server");
    world.kill(old, false);
    world.settle();
    world.report_gone(old);
    world.received.clear();
    let connection = Connection::Shared(world.begin_server());
    world.deliver(connection);
    world.deliver(connection);
    connection
}

#[test]
fn after_a_crash_only_a_few_threads_are_loaded_at_once_in_the_background() {
    let mut world = World::new();
    let (_, threads) = with_threads(&mut world, THREADS);
    let connection = crash(&mut world);
    assert_eq!(world.loads_sent().len(), BACKGROUND_LOADS_MAX);
    while world.busy_connections().contains(&connection) {
        world.deliver(connection);
    }
    let (mut loaded, mut all) = (world.loads_sent(), threads);
    loaded.sort_unstable();
    all.sort_unstable();
    assert_eq!(loaded, all, "each once");
}

#[test]
fn a_load_that_a_client_waits_for_is_sent_at_once() {
    let mut world = World::new();
    let (owner, threads) = with_threads(&mut world, THREADS);
    crash(&mut world);
    let sent = world.loads_sent();
    let wanted = threads.iter().rfind(|thread| !sent.contains(thread)).expect("one that waits");
    let asked = world.ask(owner, "thread/read", json!({"threadId": wanted}));
    assert_eq!(world.loads_sent().last(), Some(wanted));
    world.settle();
    assert!(world.answer(owner, asked).expect("an answer")["result"].is_object());
}

#[test]
fn after_a_client_waited_for_a_thread_one_thread_at_once_is_loaded_in_the_background() {
    let mut world = World::new();
    let (owner, threads) = with_threads(&mut world, THREADS);
    let connection = crash(&mut world);
    let wanted = threads.last().expect("one");
    let asked = world.ask(owner, "thread/read", json!({"threadId": wanted}));
    while world.answer(owner, asked).is_none() {
        world.deliver(connection);
    }
    // Threads whose load has begun and that are not attached.
    while world.loads_in_flight() > 1 {
        world.deliver(connection);
    }
    let sent = world.loads_sent().len();
    while world.loads_sent().len() < sent + 3 {
        assert!(world.loads_in_flight() <= 1, "{} at once", world.loads_in_flight());
        world.deliver(connection);
    }
    world.pass(BACKGROUND_LOADS_YIELD_MS);
    assert_eq!(world.loads_in_flight(), BACKGROUND_LOADS_MAX);
}

#[test]
fn a_client_that_asks_while_no_app_server_answers_has_its_thread_loaded_first() {
    let mut world = World::new();
    let (owner, threads) = with_threads(&mut world, THREADS);
    let old = world.current.expect("a server");
    world.kill(old, false);
    world.settle();
    world.report_gone(old);
    world.received.clear();
    let wanted = &threads[THREADS / 2];
    world.ask(owner, "turn/start", json!({"threadId": wanted, "input": []}));
    let connection = Connection::Shared(world.begin_server());
    world.deliver(connection);
    world.deliver(connection);
    assert_eq!(world.loads_sent().first(), Some(wanted));
}

#[test]
fn a_client_that_waits_for_one_thread_is_not_behind_a_client_that_waits_for_all() {
    let mut world = World::new();
    let (owner, threads) = with_threads(&mut world, THREADS);
    let other = world.client(2, experimental());
    world.settle();
    let connection = crash(&mut world);
    for thread in &threads[..THREADS - 1] {
        world.ask(owner, "thread/read", json!({"threadId": thread}));
    }
    let sent = world.loads_sent().len();
    assert!(sent <= BACKGROUND_LOADS_MAX + DEMANDED_LOADS_MAX, "{sent} at once");
    let wanted = &threads[THREADS - 1];
    world.ask(other, "thread/resume", json!({"threadId": wanted}));
    while world.loads_sent().len() <= sent {
        world.deliver(connection);
    }
    assert_eq!(world.loads_sent().last(), Some(wanted));
    world.settle();
    assert!(world.clients[&owner].open.is_empty() && world.clients[&other].open.is_empty());
}

#[test]
fn the_threads_in_which_turns_ran_are_loaded_before_idle_ones() {
    let mut world = World::new();
    let (owner, mut threads) = with_threads(&mut world, THREADS);
    threads.sort_unstable();
    let running = &threads[THREADS - 1];
    world.turn(owner, running, "a");
    crash(&mut world);
    assert_eq!(world.loads_sent().first(), Some(running));
    world.settle();
    assert_eq!(world.notes(owner, "turn/completed").len(), THREADS + 1);
}

#[test]
fn lists_name_threads_that_are_not_loaded_again_yet() {
    let mut world = World::new();
    let (owner, threads) = with_threads(&mut world, THREADS);
    crash(&mut world);
    let asked = world.ask(owner, "thread/loaded/list", json!({}));
    world.settle();
    let answer = world.answer(owner, asked).expect("an answer");
    assert_eq!(answer["result"]["data"].as_array().map(Vec::len), Some(threads.len()));
    assert!(world.notes(owner, "thread/closed").is_empty());
}

#[test]
fn a_thread_that_its_last_client_leaves_meanwhile_is_not_loaded_again() {
    let mut world = World::new();
    let (owner, threads) = with_threads(&mut world, THREADS);
    let other = world.client(2, experimental());
    world.settle();
    crash(&mut world);
    let sent = world.loads_sent();
    let left = threads.iter().rfind(|thread| !sent.contains(thread)).expect("one that waits");
    let asked = world.ask(owner, "thread/unsubscribe", json!({"threadId": left}));
    let answer = world.answer(owner, asked).expect("at once");
    assert_eq!(answer["result"]["status"], "unsubscribed");
    world.settle();
    assert!(!world.loads_sent().contains(left));
    assert_eq!(world.notes(other, "thread/closed").len(), 1);
    world.leave(owner);
    world.settle_for(70_000);
    assert_eq!(world.notes(other, "thread/closed").len(), THREADS);
}

impl History {
    /// As many threads as a busy machine has, all of them on disk, watched by four clients in turn.
    pub fn with_many_threads(count: u64) -> Self {
        let mut history = Self::new();
        while history.threads.len() < usize::try_from(count).expect("a count") {
            let client = ClientId(history.threads.len() as u64 % 4 + 1);
            let thread = history.world.thread(client);
            history.threads.push(thread);
        }
        for thread in history.threads.clone() {
            history.world.turn(ClientId(1), &thread, "a");
            history.world.complete(&thread);
        }
        history.world.settle_for(1_000);
        history
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(80), ..config() })]

    /// Which loads are sent is looked at in the world, at each of them.
    #[test]
    fn many_threads_are_loaded_in_the_order_in_which_clients_wait_for_them(
        steps in prop::collection::vec(step_among_many(), 1..60)
    ) {
        run_in(History::with_many_threads(MANY_THREADS as u64), &steps)?;
    }
}

/// A new gateway cannot subscribe to what runs in an app-server that drains, and does not know what that is.
#[test]
fn an_app_server_that_drains_is_not_retired_under_a_turn_that_a_new_gateway_did_not_see() {
    run(&[
        Step::Turn(1, 0),
        Step::Show(0),
        Step::WhileOpening(1, Box::new(Step::Drain)),
        Step::Replace,
        Step::Restart(false),
    ])
    .expect("it holds");
}
