//! What can happen in a history.

use proptest::prelude::*;

use super::world::{Closing, Obstacle};
use crate::hub::ServerId;

#[derive(Clone, Debug)]
pub enum Step {
    Start(u64, bool),
    Turn(u64, usize),
    Join(u64, usize),
    Unsubscribe(u64, usize),
    Answer(u64),
    Goal(u64, usize, bool),
    Queue(u64, usize),
    Leave(u64),
    Come(u64, u8),
    Show(usize),
    Delta(usize),
    Complete(usize),
    Achieve(usize),
    Approve(usize),
    Terminal(usize),
    Spawn(usize),
    Deliver(usize),
    Wait(u64),
    NextClosing(Closing),
    Replace,
    Kill(bool),
    KillOutgoing(bool),
    Drain,
    Break(bool),
    Restart(bool),
    Own(u64, u8),
    OwnEnds,
    /// While a dedicated connection opens, this happens.
    WhileOpening(u64, Box<Step>),
    /// The configuration is broken, or repaired.
    Config(bool),
    Obstruct(Option<Obstacle>),
}

pub fn step() -> impl Strategy<Value = Step> {
    use Step as S;
    let (c, t) = (1..5_u64, 0..6_usize);
    let meanwhile = prop_oneof![
        3 => Just(S::Replace),
        1 => any::<bool>().prop_map(S::Kill),
        1 => any::<bool>().prop_map(S::KillOutgoing),
        1 => Just(S::Drain),
        1 => any::<bool>().prop_map(S::Break),
        1 => c.clone().prop_map(S::Leave),
        1 => t.clone().prop_map(S::Spawn),
    ];
    let closing = prop_oneof![Just(Closing::Late(200)), Just(Closing::Late(7_000)), Just(Closing::Never)];
    let obstacle = prop_oneof![
        Just(None),
        Just(Some(Obstacle::Config)),
        Just(Some(Obstacle::Provider)),
        Just(Some(Obstacle::RequiredServer)),
        Just(Some(Obstacle::Rollouts)),
        (2..5_u64).prop_map(|from| Some(Obstacle::RolloutsFrom(ServerId(from)))),
    ];
    prop_oneof![
        2 => (c.clone(), prop::bool::weighted(0.15)).prop_map(|(c, ephemeral)| S::Start(c, ephemeral)),
        6 => (c.clone(), t.clone()).prop_map(|(c, t)| S::Turn(c, t)),
        3 => (c.clone(), t.clone()).prop_map(|(c, t)| S::Join(c, t)),
        1 => (c.clone(), t.clone()).prop_map(|(c, t)| S::Unsubscribe(c, t)),
        1 => c.clone().prop_map(S::Answer),
        1 => (c.clone(), t.clone(), any::<bool>()).prop_map(|(c, t, on)| S::Goal(c, t, on)),
        1 => (c.clone(), t.clone()).prop_map(|(c, t)| S::Queue(c, t)),
        1 => c.clone().prop_map(S::Leave),
        1 => (c.clone(), 0..4_u8).prop_map(|(c, kind)| S::Come(c, kind)),
        4 => t.clone().prop_map(S::Show),
        4 => t.clone().prop_map(S::Delta),
        5 => t.clone().prop_map(S::Complete),
        1 => t.clone().prop_map(S::Achieve),
        1 => t.clone().prop_map(S::Approve),
        1 => t.clone().prop_map(S::Terminal),
        1 => t.prop_map(S::Spawn),
        20 => (0..8_usize).prop_map(S::Deliver),
        4 => prop_oneof![Just(1_u64), Just(30), Just(60), Just(400), Just(61_000)].prop_map(S::Wait),
        1 => closing.prop_map(S::NextClosing),
        1 => Just(S::Replace),
        1 => any::<bool>().prop_map(S::Kill),
        1 => any::<bool>().prop_map(S::KillOutgoing),
        1 => Just(S::Drain),
        1 => any::<bool>().prop_map(S::Break),
        1 => any::<bool>().prop_map(S::Restart),
        1 => (c.clone(), 0..4_u8).prop_map(|(c, kind)| S::Own(c, kind)),
        2 => (c, meanwhile).prop_map(|(c, step)| S::WhileOpening(c, Box::new(step))),
        1 => Just(S::OwnEnds),
        2 => obstacle.prop_map(S::Obstruct),
    ]
}

/// Threads in a history of many.
pub const MANY_THREADS: usize = 24;

/// What can happen among many threads whose app-servers are lost and replaced.
pub fn step_among_many() -> impl Strategy<Value = Step> {
    use Step as S;
    let (c, t) = (1..5_u64, 0..MANY_THREADS);
    prop_oneof![
        6 => (c.clone(), t.clone()).prop_map(|(c, t)| S::Turn(c, t)),
        6 => (c.clone(), t.clone()).prop_map(|(c, t)| S::Join(c, t)),
        2 => (c.clone(), t.clone()).prop_map(|(c, t)| S::Unsubscribe(c, t)),
        1 => (c.clone(), t.clone(), any::<bool>()).prop_map(|(c, t, on)| S::Goal(c, t, on)),
        1 => c.clone().prop_map(S::Leave),
        1 => (c, 0..4_u8).prop_map(|(c, kind)| S::Come(c, kind)),
        3 => t.clone().prop_map(S::Show),
        3 => t.prop_map(S::Complete),
        20 => (0..8_usize).prop_map(S::Deliver),
        2 => prop_oneof![Just(1_u64), Just(30), Just(60), Just(400), Just(61_000)].prop_map(S::Wait),
        1 => Just(S::Replace),
        3 => any::<bool>().prop_map(S::Kill),
        2 => any::<bool>().prop_map(S::Config),
        1 => any::<bool>().prop_map(S::KillOutgoing),
        1 => any::<bool>().prop_map(S::Break),
        1 => any::<bool>().prop_map(S::Restart),
    ]
}
