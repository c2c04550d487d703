//! Histories of goals that were found at random and once broke a promise.

use super::histories::run;
use super::steps::Step;
use super::world::Closing::Late;
use super::world::Obstacle::{Config, Provider, RequiredServer};
use Step::{
    Achieve, Approve, Break, Come, Complete, Deliver, Delta, Drain, Goal, Join, Kill, KillOutgoing, Leave,
    NextClosing, Obstruct, Own, Queue, Replace, Restart, Show, Start, Terminal, Turn, Unsubscribe, Wait,
    WhileOpening,
};

/// The gateway itself is replaced between the looks at a thread and its leaving, and its goal goes on meanwhile.
#[test]
fn a_goal_that_goes_on_under_a_new_gateway_is_not_cut() {
    run(&[
        Goal(1, 0, true),
        Wait(30),
        Replace,
        Restart(false),
        Deliver(0),
        Deliver(0),
        Start(1, false),
        Complete(0),
        Start(1, false),
        Start(1, false),
        Deliver(2),
        Start(1, false),
    ])
    .expect("it holds");
}

/// Two gateways end in the middle of a handover, the second when it has just let a goal go on.
#[test]
fn a_goal_that_may_be_held_is_held_for_certain() {
    run(&[
        Replace,
        Goal(1, 0, true),
        Wait(30),
        Start(1, false),
        Restart(false),
        Deliver(6),
        Deliver(2),
        Deliver(2),
        Deliver(6),
        Restart(false),
        Come(1, 0),
        Deliver(1),
        Queue(1, 0),
        Start(2, false),
        Deliver(5),
    ])
    .expect("it holds");
}

/// A thread without viewers has a suspended goal, and the successor ends.
#[test]
fn a_thread_whose_goal_is_held_is_not_let_go() {
    run(&[
        Goal(1, 0, true),
        Show(0),
        Drain,
        Start(1, false),
        Leave(1),
        Replace,
        Complete(0),
        Deliver(0),
        Start(1, false),
        Deliver(1),
        Deliver(1),
        Deliver(2),
        Deliver(2),
        Kill(false),
        Wait(60),
    ])
    .expect("it holds");
}

/// A client activates a suspended goal while no app-server has the thread: the goal stays suspended, and is resumed.
#[test]
fn what_is_said_of_a_goal_in_vain_leaves_it_held() {
    run(&[
        Replace,
        Goal(1, 1, true),
        Show(1),
        Start(1, false),
        Complete(1),
        Restart(false),
        Come(1, 0),
        Goal(1, 1, true),
        Replace,
    ])
    .expect("it holds");
}

/// A thread whose goal the gateway before this one held is loaded by a client before the gateway has looked everywhere.
#[test]
fn a_held_goal_goes_on_in_a_thread_that_a_client_loads() {
    run(&[
        Start(1, false),
        Replace,
        Start(1, false),
        Replace,
        Goal(1, 0, true),
        Wait(30),
        Start(1, false),
        Restart(false),
        Kill(false),
        KillOutgoing(false),
        Start(1, false),
        Deliver(0),
        Come(1, 0),
        Deliver(1),
        Start(2, false),
        Come(1, 0),
        Replace,
        Turn(1, 0),
        Come(1, 0),
        Come(1, 0),
        Join(1, 0),
    ])
    .expect("it holds");
}

/// A goal that was held comes to its end while no gateway lives, and its thread takes long to be unloaded.
#[test]
fn a_held_goal_whose_thread_is_unloaded_late_behind_no_gateway() {
    run(&[
        Goal(1, 0, true),
        NextClosing(Late(7_000)),
        Replace,
        Start(1, false),
        Wait(30),
        Restart(true),
        Come(1, 0),
    ])
    .expect("it holds");
}

/// The gateway ends when it was just asked for a goal.
#[test]
fn a_goal_that_was_asked_for_when_the_gateway_ends() {
    run(&[
        Start(1, false),
        Queue(1, 1),
        Terminal(0),
        Deliver(0),
        Join(1, 1),
        Deliver(0),
        Goal(1, 1, true),
        Deliver(0),
        Deliver(0),
        Turn(1, 0),
        Restart(false),
        Come(1, 0),
    ])
    .expect("it holds");
}

/// The current app-server drains when the one with a goal dies, without clients.
#[test]
fn a_held_goal_of_a_dead_app_server_beside_one_that_drains() {
    run(&[
        Goal(1, 0, true),
        Wait(30),
        Replace,
        Drain,
        Approve(0),
        Start(1, false),
        Restart(false),
        Deliver(2),
        Deliver(6),
        Deliver(2),
        KillOutgoing(false),
        NextClosing(Late(7_000)),
    ])
    .expect("it holds");
}

/// A goal is asked for again while its thread moves, and its app-server dies.
#[test]
fn a_goal_that_is_asked_for_again_while_it_is_held() {
    run(&[
        Turn(1, 0),
        Start(1, false),
        Start(1, false),
        Turn(1, 3),
        Goal(1, 3, true),
        Deliver(0),
        Kill(false),
        Deliver(0),
        Deliver(0),
        Deliver(0),
        Deliver(0),
        Deliver(0),
        Goal(1, 3, true),
        Replace,
        Deliver(1),
        Turn(1, 0),
        Wait(30),
        Deliver(0),
        Come(1, 0),
        Turn(1, 0),
        Deliver(1),
        Complete(3),
    ])
    .expect("it holds");
}

/// A goal is paused by its user while the gateway begins to hold it.
#[test]
fn a_goal_that_is_paused_when_it_is_about_to_be_held() {
    run(&[
        Come(1, 0),
        Replace,
        Deliver(0),
        Deliver(0),
        Goal(1, 1, true),
        Start(1, false),
        Show(1),
        Turn(1, 0),
        Start(1, false),
        Start(1, false),
        Delta(2),
        Leave(3),
        Goal(1, 1, false),
        Deliver(0),
        Wait(61_000),
    ])
    .expect("it holds");
}

/// A turn ends its goal when the gateway is about to pause it.
#[test]
fn a_goal_that_ends_when_it_is_about_to_be_held() {
    run(&[
        Goal(1, 0, true),
        Start(1, false),
        Drain,
        Replace,
        Achieve(0),
        Queue(1, 0),
        Turn(1, 0),
        Deliver(1),
        Deliver(1),
    ])
    .expect("it holds");
}

/// The shared connection to the outgoing server breaks while a goal of that server may begin a turn.
#[test]
fn a_server_whose_connection_breaks_is_kept_for_the_turn_of_a_goal() {
    run(&[
        WhileOpening(1, Box::new(Replace)),
        Goal(2, 0, true),
        Start(1, false),
        Start(1, false),
        Start(1, false),
        NextClosing(Late(200)),
        Obstruct(Some(RequiredServer)),
        Wait(30),
        Start(1, false),
        Break(true),
    ])
    .expect("it holds");
}

/// A goal and an unsubscribe of one client wait for a lost app-server.
#[test]
fn a_goal_and_an_unsubscribe_of_a_lost_thread_keep_their_order() {
    run(&[
        Leave(1),
        Break(false),
        WhileOpening(1, Box::new(Kill(false))),
        Goal(1, 0, false),
        Own(1, 0),
        Come(1, 0),
        Unsubscribe(1, 0),
    ])
    .expect("it holds");
}

/// A message is queued while its thread migrates, and the app-server takes a minute to answer.
#[test]
fn the_turn_of_a_queued_message_is_not_cut_by_a_slow_migration() {
    run(&[
        WhileOpening(1, Box::new(Replace)),
        Start(1, false),
        Queue(1, 1),
        Deliver(0),
        Wait(60),
        WhileOpening(2, Box::new(Leave(2))),
        Deliver(0),
        Wait(61_000),
    ])
    .expect("it holds");
}

/// A thread with an active goal is refused by the app-server in which it runs, and that app-server is replaced.
#[test]
fn a_refused_thread_that_runs_in_the_outgoing_server_keeps_its_turn() {
    run(&[
        Goal(1, 1, true),
        Break(false),
        Obstruct(Some(Config)),
        Deliver(0),
        Wait(30),
        Deliver(0),
        Deliver(0),
        Deliver(0),
        Deliver(0),
        Obstruct(None),
        Replace,
        Join(1, 1),
    ])
    .expect("it holds");
}

/// A client pauses a goal and activates it again; the answers are lost with the connection.
#[test]
fn of_two_unanswered_wishes_for_a_goal_the_last_one_holds() {
    run(&[
        Goal(1, 1, true),
        Replace,
        Wait(30),
        Start(1, false),
        KillOutgoing(false),
        Drain,
        Deliver(0),
        Goal(1, 1, false),
        Deliver(0),
        Goal(1, 1, true),
        Deliver(0),
        Deliver(0),
        Deliver(0),
        Replace,
        Break(true),
    ])
    .expect("it holds");
}

/// A client's resume loads a refused thread, and the app-server takes a message from the thread's queue.
#[test]
fn the_turn_of_a_message_that_waited_for_a_load_is_not_cut() {
    run(&[
        Start(1, false),
        Start(1, false),
        Goal(1, 0, true),
        Queue(1, 1),
        Start(1, false),
        Drain,
        Queue(1, 4),
        Obstruct(Some(RequiredServer)),
        WhileOpening(1, Box::new(Kill(false))),
        Start(1, false),
        WhileOpening(2, Box::new(Replace)),
        Obstruct(Some(Provider)),
        Join(1, 4),
    ])
    .expect("it holds");
}
