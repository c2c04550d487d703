//! Histories that were found at random and once broke a promise.

use super::histories::run;
use super::steps::Step;
use super::world::Closing::Late;
use Step::{
    Approve, Break, Come, Complete, Deliver, Delta, Drain, Join, Kill, Leave, NextClosing, Obstruct, Own,
    OwnEnds, Queue, Replace, Restart, Show, Spawn, Start, Terminal, Turn, Unsubscribe, Wait, WhileOpening,
};

/// A thread that was asked to unload answers late, when it was given up and its turn went on.
#[test]
fn a_late_unload_does_not_cost_the_turn_that_waited() {
    run(&[
        Replace,
        Turn(1, 1),
        Complete(1),
        Start(1, false),
        Wait(60),
        Deliver(0),
        Turn(1, 1),
        Deliver(0),
        Deliver(0),
        Wait(61_000),
        Kill(false),
        Start(1, false),
    ])
    .expect("it holds");
}

/// A name of a process is taken again before the first of that name has ended.
#[test]
fn a_process_whose_name_is_taken_again_is_not_cut() {
    run(&[Replace, Turn(1, 0), Turn(1, 0), Own(3, 2), Deliver(2), OwnEnds, Own(3, 2), Start(1, false)])
        .expect("it holds");
}

/// A thread is wanted again while its app-server takes seconds to let go of it.
#[test]
fn a_thread_that_closes_slowly_is_waited_for() {
    run(&[Replace, Turn(1, 1), Show(1), Break(true), Turn(1, 0), NextClosing(Late(7_000)), Complete(1)])
        .expect("it holds");
}

/// A turn ends while its thread is subscribed again, so that its end stands on disk and is told as well.
#[test]
fn an_end_that_is_read_and_told_is_passed_on_once() {
    run(&[
        Start(1, false),
        Start(1, false),
        Turn(1, 1),
        Show(1),
        Replace,
        Start(1, false),
        Break(true),
        Deliver(0),
        Replace,
        Approve(0),
        Deliver(6),
        Complete(1),
    ])
    .expect("it holds");
}

/// An unsubscribe comes before the gateway knows what its app-server has loaded.
#[test]
fn an_unsubscribe_does_not_end_what_was_not_found_yet() {
    run(&[
        Turn(1, 0),
        Show(0),
        Restart(false),
        Come(2, 0),
        Unsubscribe(2, 0),
        Deliver(0),
        Deliver(0),
        Deliver(5),
    ])
    .expect("it holds");
}

/// A new gateway hears of a sub-agent's thread for the first time in the middle of its turn.
#[test]
fn a_sub_agent_that_is_found_in_mid_turn_is_asked_what_it_does() {
    run(&[
        Start(1, false),
        Queue(1, 0),
        Wait(30),
        Start(1, false),
        Restart(false),
        Spawn(0),
        Deliver(0),
        Replace,
        Delta(4),
    ])
    .expect("it holds");
}

/// A client asks the new app-server for a thread that the old one, whose connection had broken, has begun unheard.
#[test]
fn what_another_server_is_asked_about_is_found_all_the_same() {
    run(&[
        Replace,
        Deliver(0),
        Deliver(0),
        Turn(1, 0),
        Spawn(0),
        Come(1, 0),
        Turn(1, 0),
        Spawn(0),
        Delta(0),
        Complete(2),
        Join(1, 3),
        Break(true),
        Deliver(0),
        Deliver(0),
        Wait(30),
    ])
    .expect("it holds");
}

/// The gateway is killed while a turn of an ephemeral thread runs on an app-server that is to leave.
#[test]
fn a_turn_that_nobody_can_join_any_more_is_waited_for() {
    run(&[
        Replace,
        Turn(1, 0),
        Turn(1, 0),
        Start(1, false),
        Replace,
        Drain,
        Start(1, true),
        Turn(1, 3),
        Show(3),
        Restart(false),
        Deliver(0),
        Deliver(2),
        Deliver(0),
        Deliver(0),
        Deliver(0),
        Deliver(0),
        Deliver(1),
        Deliver(0),
        Start(1, false),
        Spawn(3),
    ])
    .expect("it holds");
}

/// A new gateway finds a turn on an app-server that drains and is to leave, and that refuses to subscribe it.
#[test]
fn a_turn_on_a_draining_server_is_not_cut_by_a_new_gateway() {
    run(&[Turn(1, 0), Show(0), Drain, Replace, Restart(false)]).expect("it holds");
}

/// A client asks for a thread that an outgoing app-server refused to load while a successor begins.
#[test]
fn a_client_that_waits_for_a_refused_thread_does_not_stand_back() {
    run(&[
        Turn(1, 1),
        Complete(1),
        Obstruct(Some(super::world::Obstacle::Rollouts)),
        Kill(false),
        Start(1, false),
        WhileOpening(1, Box::new(Break(false))),
        Turn(2, 1),
        Start(1, false),
        WhileOpening(2, Box::new(Replace)),
        Come(1, 0),
    ])
    .expect("it holds");
}

/// A message has left its queue, and its turn has not begun; a client's own turn is refused meanwhile, by an app-server that drains.
#[test]
fn a_refused_turn_does_not_cut_the_turn_of_a_queued_message() {
    run(&[Queue(1, 0), Drain, Deliver(0), Replace, Deliver(2), Turn(1, 0)]).expect("it holds");
}

/// An app-server is to leave while its connection is broken.
#[test]
fn a_connection_that_is_not_open_is_not_closed_when_its_app_server_leaves() {
    run(&[
        WhileOpening(4, Box::new(Kill(false))),
        Wait(30),
        Deliver(0),
        Deliver(0),
        WhileOpening(1, Box::new(Replace)),
        Deliver(3),
        Start(4, true),
        Wait(60),
        WhileOpening(4, Box::new(Break(true))),
        Wait(61_000),
        Start(1, false),
    ])
    .expect("it holds");
}

/// The connection breaks while an ephemeral thread and its sub-agent run.
#[test]
fn nothing_stays_of_an_ephemeral_thread_whose_connection_breaks() {
    run(&[Start(1, true), Turn(1, 2), Start(1, false), Own(1, 0), Spawn(2), Break(false)]).expect("it holds");
}

/// The connection to the outgoing app-server breaks; then the turn of a thread with a background command ends, and the thread closes slowly.
#[test]
fn an_app_server_may_leave_while_a_thread_without_subscribers_closes() {
    run(&[
        Replace,
        Queue(1, 0),
        Wait(61_000),
        NextClosing(Late(7_000)),
        Start(1, false),
        Terminal(0),
        Break(true),
        Complete(0),
        WhileOpening(1, Box::new(Leave(1))),
    ])
    .expect("it holds");
}
