//! Threads that move to another app-server.

use serde_json::{Value, json};

use super::experimental;
use super::world::{Closing, World};
use crate::hub::{Connection, Event, HandoverState, Report};

#[test]
fn an_idle_thread_moves_at_once_and_a_busy_one_when_its_turn_ends() {
    let mut world = World::new();
    let client = world.client(1, experimental());
    let (idle, busy) = (world.thread(client), world.thread(client));
    for thread in [&idle, &busy] {
        world.turn(client, thread, "a");
        world.complete(thread);
    }
    world.call(client, "thread/resume", json!({"threadId": idle}));
    let turn = world.turn(client, &busy, "begun ");
    world.settle_for(100);
    let statuses = world.notes(client, "thread/status/changed").len();
    let goals = world.notes(client, "thread/goal/cleared").len();
    let old = world.current.expect("a server");
    let new = world.replace();
    world.settle_for(100);
    assert!(world.has_loaded(new, &idle) && !world.has_loaded(new, &busy));
    assert!(world.has_loaded(old, &busy));
    assert_eq!(world.notes(client, "thread/status/changed").len(), statuses, "the move is not reported");
    assert_eq!(world.notes(client, "thread/goal/cleared").len(), goals, "the move is not reported");
    world.delta(&busy, "ended");
    world.complete(&busy);
    world.settle_for(1_000);
    assert!(world.has_loaded(new, &busy));
    assert_eq!(world.retired, [old]);
    assert_eq!(world.text(client, &turn), "begun ended");
    assert!(world.cut.is_empty(), "{:?}", world.cut);
    assert!(world.notes(client, "thread/closed").is_empty());
    let not_loaded = |note: &&&Value| note["params"]["status"]["type"] == "notLoaded";
    assert!(world.notes(client, "thread/status/changed").iter().find(not_loaded).is_none());
    let last = world.reports.iter().rev().find_map(|report| match report {
        Report::Handover(report) => Some((report.state, report.threads_moved)),
        _ => None,
    });
    assert_eq!(last, Some((HandoverState::Completed, 2)));
    world.turn(client, &busy, "on the new one");
}

#[test]
fn threads_that_have_moved_are_reported_while_others_still_move() {
    let mut world = World::new();
    let client = world.client(1, experimental());
    let threads: Vec<String> = (0..20).map(|_| world.thread(client)).collect();
    for thread in &threads {
        world.turn(client, thread, "a");
        world.complete(thread);
    }
    world.settle_for(1_000);
    let new = world.replace();
    let has_moved = |world: &World| threads.iter().filter(|thread| world.has_loaded(new, thread)).count();
    // A slow disk: each answer takes a while.
    while has_moved(&world) < threads.len() {
        match world.busy_connections().first() {
            Some(connection) => world.deliver(*connection),
            None => world.settle_for(10),
        }
        world.now += 50;
        world.feed(Event::DeadlineReached);
    }
    world.settle_for(1_000);
    let reported = world.reports.iter().filter_map(|report| match report {
        Report::Handover(report) if report.state == HandoverState::Moving => Some(report),
        _ => None,
    });
    let reported: Vec<_> = reported.collect();
    let moved = |count: usize| reported.iter().any(|report| report.threads_moved >= count);
    assert!(moved(1) && moved(threads.len() / 2), "{reported:?}");
    assert!(
        reported.iter().all(|report| report.threads_moved + report.threads_waiting.len() >= threads.len())
    );
    assert_eq!(reported.iter().filter(|report| report.is_news).count(), 1, "the beginning alone is an event");
}

#[test]
fn the_end_of_an_app_server_that_was_asked_to_leave_is_reported_as_expected() {
    // The supervisor may report the request after the connection broke.
    for request in [Some(0), Some(1), None] {
        let mut world = World::new();
        let client = world.client(1, experimental());
        world.thread(client);
        let server = world.current.expect("a server");
        if request == Some(0) {
            world.feed(Event::ServerDraining(server));
        }
        world.break_connection(Connection::Shared(server));
        world.settle_for(0);
        if request == Some(1) {
            world.feed(Event::ServerDraining(server));
        }
        world.settle_for(1_000);
        let expected = world.reports.iter().find_map(|report| match report {
            Report::ServerLost { was_expected, .. } => Some(*was_expected),
            _ => None,
        });
        assert_eq!(expected, Some(request.is_some()), "{request:?}");
    }
}

#[test]
fn a_message_that_has_left_the_queue_keeps_its_thread_until_its_turn_begins() {
    let mut world = World::new();
    let client = world.client(1, experimental());
    let thread = world.thread(client);
    world.turn(client, &thread, "a");
    world.call(client, "thread/queue/add", json!({"threadId": thread}));
    let old = world.current.expect("a server");
    let new = world.replace();
    world.complete(&thread);
    world.settle_for(300);
    assert!(world.cut.is_empty(), "the turn of the queued message was cut: {:?}", world.cut);
    assert!(world.has_loaded(old, &thread), "the thread moved before the turn of the queued message");
    world.settle_for(2_000);
    world.complete(&thread);
    world.settle_for(1_000);
    assert!(world.has_loaded(new, &thread) && world.cut.is_empty(), "{:?}", world.cut);
}

#[test]
fn a_move_that_a_slow_disk_holds_up_is_not_heard_of_either() {
    let mut world = World::new();
    let client = world.client(1, experimental());
    let thread = world.thread(client);
    world.turn(client, &thread, "a");
    world.complete(&thread);
    world.settle_for(1_000);
    let told = |world: &World| {
        ["thread/status/changed", "thread/goal/cleared"].map(|method| world.notes(client, method).len())
    };
    let before = told(&world);
    let new = world.replace();
    while !world.has_loaded(new, &thread) {
        match world.busy_connections().first() {
            Some(connection) => world.deliver(*connection),
            None => world.settle_for(10),
        }
    }
    // Its answer, and the echoes behind that, are on their way for longer than anything else takes.
    world.now += 10_000;
    world.settle_for(1_000);
    assert_eq!(told(&world), before, "the move is not reported");
}

#[test]
fn a_thread_that_somebody_joins_all_the_time_moves_all_the_same() {
    let mut world = World::new();
    let client = world.client(1, experimental());
    let thread = world.thread(client);
    world.turn(client, &thread, "a");
    world.settle_for(1_000);
    let new = world.replace();
    let mut visitors = 2..;
    let mut visit = |world: &mut World| {
        let visitor = world.client(visitors.next().expect("a number"), experimental());
        world.call(visitor, "thread/resume", json!({"threadId": thread}));
        world.settle_for(10);
        world.leave(visitor);
    };
    visit(&mut world);
    world.complete(&thread);
    for _ in 0..20 {
        visit(&mut world);
    }
    assert!(world.has_loaded(new, &thread), "it stays loaded");
    assert!(world.cut.is_empty(), "{:?}", world.cut);
}

#[test]
fn a_thread_on_its_way_holds_up_only_what_is_about_it() {
    let mut world = World::new();
    let client = world.client(1, experimental());
    let (moving, other) = (world.thread(client), world.thread(client));
    for thread in [&moving, &other] {
        world.turn(client, thread, "a");
        world.complete(thread);
    }
    world.call(client, "model/list", json!({}));
    let old = world.current.expect("a server");
    world.turn(client, &other, "keeps it where it is");
    world.settle_for(100);
    world.closing = Closing::Late(1_000);
    let new = world.replace();
    world.settle_for(60);
    let about = |thread: &String| json!({"threadId": thread});
    let held = world.ask(client, "thread/goal/get", about(&moving));
    let behind = world.ask(client, "thread/queue/list", about(&moving));
    let last = world.ask(client, "thread/sample/cancel", json!({"requestId": held}));
    let (free, own) =
        (world.ask(client, "thread/goal/get", about(&other)), world.ask(client, "model/list", json!({})));
    world.settle();
    for number in [free, own] {
        assert!(world.answer(client, number).is_some(), "{number} need not wait");
    }
    for number in [held, behind, last] {
        assert!(world.answer(client, number).is_none(), "{number} has to wait");
    }
    world.settle_for(1_000);
    for number in [held, behind, last] {
        assert!(world.answer(client, number).is_some(), "{number} is answered now");
    }
    assert!(world.has_loaded(new, &moving) && world.has_loaded(old, &other));
}

#[test]
fn a_thread_that_is_not_on_disk_yet_moves_after_its_first_turn() {
    let mut world = World::new();
    let client = world.client(1, experimental());
    let thread = world.thread(client);
    let old = world.current.expect("a server");
    let new = world.replace();
    world.settle_for(1_000);
    assert!(world.has_loaded(old, &thread) && world.retired.is_empty());
    world.turn(client, &thread, "a");
    world.complete(&thread);
    world.settle_for(1_000);
    assert!(world.has_loaded(new, &thread));
    assert_eq!(world.retired, [old]);
}

#[test]
fn a_new_gateway_looks_everywhere_for_a_thread_before_it_has_it_loaded() {
    let mut world = World::new();
    let client = world.client(1, experimental());
    let thread = world.thread(client);
    world.turn(client, &thread, "goes on");
    let old = world.current.expect("a server");
    let new = world.replace();
    world.settle_for(100);
    world.restart_gateway();
    let last_subscriber = world.client(2, experimental());
    let asked = world.ask(last_subscriber, "thread/resume", json!({"threadId": thread}));
    // The new app-server is the first to answer.
    while world.busy_connections().contains(&Connection::Shared(new)) {
        world.deliver(Connection::Shared(new));
    }
    world.settle();
    let answer = world.answer(last_subscriber, asked).expect("an answer");
    assert_eq!(answer["result"]["thread"]["id"], *thread, "{answer}");
    assert!(world.has_loaded(old, &thread) && world.cut.is_empty());
}

#[test]
fn a_handover_that_begins_while_a_dedicated_connection_opens_ends() {
    let mut world = World::new();
    let (first, second) = (world.client(1, experimental()), world.client(2, experimental()));
    let thread = world.thread(first);
    world.turn(first, &thread, "a");
    let child = world.spawn(&thread).expect("a child");
    world.settle();
    let old = world.current.expect("a server");
    let asked = world.ask(second, "model/list", json!({}));
    assert!(world.has_dedicated(second) && world.answer(second, asked).is_none(), "it is still opening");
    world.replace();
    world.settle();
    assert!(world.answer(second, asked).expect("an answer")["result"].is_object());
    world.complete(&child);
    world.complete(&thread);
    world.settle_for(2_000);
    assert_eq!(world.retired, [old]);
}

#[test]
fn a_connection_that_drains_is_used_again_when_its_server_serves_again() {
    let mut world = World::new();
    let client = world.client(1, experimental());
    let params = json!({"processHandle": "h", "command": ["x"], "cwd": "/"});
    world.call(client, "process/spawn", params);
    let old = world.current.expect("a server");
    let new = world.replace();
    world.settle();
    world.call(client, "model/list", json!({}));
    world.kill(new, false);
    world.settle();
    world.report_gone(new);
    world.settle_for(100);
    world.call(client, "model/list", json!({}));
    assert_eq!(
        world.received.last().map(|(connection, _)| *connection),
        Some(Connection::Dedicated(client, old))
    );
    assert!(world.cut.is_empty(), "{:?}", world.cut);
}

#[test]
fn a_login_that_waits_for_its_user_keeps_its_connection() {
    for (begins, ends, params) in [
        (
            "account/gatewayOAuth/login",
            "account/gatewayOAuth/changed",
            json!({"providerId": "p", "status": "failed"}),
        ),
        ("mcpServer/oauth/login", "mcpServer/oauthLogin/completed", json!({"name": "m", "success": true})),
    ] {
        let mut world = World::new();
        let client = world.client(1, experimental());
        world.call(client, begins, json!({"name": "m"}));
        let old = world.current.expect("a server");
        world.replace();
        world.settle_for(1_000);
        assert!(world.retired.is_empty(), "{begins}");
        let told = json!({"method": ends, "params": params}).to_string();
        world.feed(Event::ConnectionMessage(Connection::Dedicated(client, old), told.into()));
        world.settle_for(1_000);
        assert_eq!(world.retired, [old], "{begins}");
        assert_eq!(world.notes(client, ends).len(), 1);
    }
}
